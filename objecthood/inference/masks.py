"""What a discovery model sees in a user's picture: soft masks, labels, COCO masks, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from PIL import Image
from torch import Tensor

from objecthood.data.io import rle
from objecthood.inference.result import Result
from objecthood.models.placement import Placement
from objecthood.runtime.files import real_folder, staged, write_text
from objecthood.visualize import figures

CUTOUTS = "-cutouts"
"""How the folder of a picture's cut-outs is named after it."""
NO_SLOT = 255
"""Index, in a palette picture, of pixels that the model did not see (label -1)."""


class PredictedMasks(Result):
    """Objects of one picture as masks, one for each slot; background takes a slot, too.

    Example:
        >>> import objecthood as oh
        >>> (result,) = oh.predict("sprites")
        >>> result.masks.shape, result.labels.shape, len(result.to_coco()["images"])
        (torch.Size([6, 64, 64]), (64, 64), 1)
    """

    endings = {"overlay": "-overlay.png", "masks": "-masks.png", "coco": "-masks.json"}
    extras = ("arrays", "cutouts")
    kinds = ("slots", "overlay", "attention")

    @property
    def masks(self) -> Float[Tensor, "slots rows columns"]:
        """Where each slot is seen, in the model's input; sums to 1 over slots."""
        return self._part("masks")

    @property
    def reconstruction(self) -> Float[Tensor, "3 rows columns"]:
        """The input, painted again by all slots; [0, 1] units, not clamped."""
        return self._part("reconstruction")

    @property
    def appearance(self) -> Float[Tensor, "slots 3 rows columns"]:
        """What each slot paints, seen or not; [0, 1] units, not clamped."""
        return self._part("appearance")

    @property
    def labels(self) -> Int16[np.ndarray, "height width"]:
        """The strongest slot of every pixel at the picture's own size, 0 to slots - 1; -1 where the model did
        not see the picture (cut off by `fit="crop"`)."""
        return enlarge_labels(self.masks, self.placement).numpy()

    def to_coco(self) -> dict[str, Any]:
        """A COCO data set of this picture, ready for JSON (`coco_masks`)."""
        return coco_masks(self.labels, self.relative.as_posix())

    def cutout(self, slot: int) -> Image.Image:
        """The picture where `slot` is seen, at its own size: RGBA, as opaque as the slot's soft mask.

        ValueError where there is no such slot.
        """
        if not 0 <= slot < len(self.masks):
            raise ValueError(f"`slot` (={slot}) must be from 0 to {len(self.masks) - 1}")
        soft = self.placement.restore(self.masks[slot]).clamp(0, 1).mul(255).round().to(torch.uint8)
        cut = Image.fromarray(self.picture)
        cut.putalpha(Image.fromarray(soft.numpy()))
        return cut

    @property
    def summary(self) -> str:
        """How many slots are seen, background included."""
        seen, slots = len(np.unique(self.masks.argmax(dim=0))), len(self.masks)
        return f"{seen} of {slots} slots are seen"

    def _shown(self) -> tuple[str, ...]:
        return ("overlay", "slots")

    def _draw(self, kind: str) -> Image.Image:
        if kind == "overlay":
            return _tint(self.picture, torch.from_numpy(self.labels))
        if self._seen is not None and "appearance" not in self._seen:
            return figures.attention_figure(self.image, self.masks[None])
        parts = (self.image, self.reconstruction, self.masks, self.appearance)
        return figures.slots_figure(*(part[None] for part in parts))

    def _write(self, files: dict[str, Path]) -> None:
        labels = enlarge_labels(self.masks, self.placement)
        with staged(files["masks"]) as file:
            figures.indexed_png(labels.where(labels >= 0, NO_SLOT), file)
        write_text(files["coco"], json.dumps(coco_masks(labels.numpy(), self.relative.as_posix())))
        with staged(files["overlay"]) as file:
            _tint(self.picture, labels).save(file)

    def _arrays(self) -> dict[str, np.ndarray]:
        return super()._arrays() | {"labels": self.labels}

    def _write_extra(self, extra: str, stem: Path) -> Path:
        """Of cut-outs a folder, with one picture of every slot that is the strongest somewhere."""
        if extra != "cutouts":
            return super()._write_extra(extra, stem)
        folder = real_folder(Path(f"{stem}{CUTOUTS}"))
        for old in folder.glob("slot-*.png"):
            if old.stem.removeprefix("slot-").isdecimal():  # a result of another image may lie beside
                old.unlink()
        for slot in seen_slots(self.labels):
            with staged(folder / f"slot-{slot}.png") as file:
                self.cutout(slot).save(file)
        return folder


def _tint(picture: UInt8[np.ndarray, "height width 3"], labels: Int16[Tensor, "height width"]) -> Image.Image:
    return figures.overlay_one(torch.from_numpy(picture).permute(2, 0, 1), labels, 0.5)


def enlarge_labels(
    masks: Float[Tensor, "slots rows columns"], placement: Placement
) -> Int16[Tensor, "height width"]:
    """The strongest slot of every pixel of an image, after bilinear resizing of soft masks of the model's
    input; -1 where the input does not show the image.

    Slot by slot, so that a large picture needs memory for two masks and not for all.

    >>> enlarge_labels(torch.eye(2)[:, None], Placement((1, 6), (0, 1, 1, 4))).tolist()
    [[-1, 0, 0, 1, 1, -1]]
    """
    highest = torch.full(placement.size, -torch.inf)
    labels = torch.full(placement.size, -1, dtype=torch.int16)
    for slot, mask in enumerate(masks):
        mask = placement.restore(mask, outside=-torch.inf)
        labels[mask > highest] = slot
        torch.maximum(highest, mask, out=highest)
    return labels


def seen_slots(labels: Int16[np.ndarray, "height width"]) -> list[int]:
    """The slots that are the strongest somewhere."""
    return np.unique(labels[labels >= 0]).tolist()


def coco_masks(labels: Int16[np.ndarray, "height width"], file_name: str) -> dict[str, Any]:
    """Labels as a COCO data set of one picture, ready for JSON; slots that no pixel belongs to are left out.

    >>> masks = coco_masks(np.array([[0, 0, 3]], np.int16), "a.png")["annotations"]
    >>> [(mask["slot"], mask["bbox"]) for mask in masks]
    [(0, [0, 0, 2, 1]), (3, [2, 0, 1, 1])]
    """
    height, width = labels.shape
    annotations = []
    for number, slot in enumerate(seen_slots(labels), start=1):
        mask = labels == slot
        annotation = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "slot": slot}
        where = {"segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": rle.bounding_box(mask)}
        annotations.append(annotation | where)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "slot"}],
        "annotations": annotations,
    }

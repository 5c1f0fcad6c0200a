"""Results of discovery models: soft masks, label maps, COCO masks, files."""

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
"""Suffix of the folder of an image's cutouts."""
NO_SLOT = 255
"""Palette index of pixels outside the model's input (label -1)."""


class PredictedMasks(Result):
    """The segmentation of one image: a mask for each slot, including the background.

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
        """Alpha masks in the model's input; they sum to 1 over slots."""
        return self._part("masks")

    @property
    def reconstruction(self) -> Float[Tensor, "3 rows columns"]:
        """The reconstruction of the input; [0, 1] units, not clamped."""
        return self._part("reconstruction")

    @property
    def appearance(self) -> Float[Tensor, "slots 3 rows columns"]:
        """The decoded appearance of each slot, unmasked; [0, 1] units, not clamped."""
        return self._part("appearance")

    @property
    def labels(self) -> Int16[np.ndarray, "height width"]:
        """The slot with the largest mask at every pixel, at the image's size, 0 to slots - 1; -1 outside the
        crop of `fit="crop"`."""
        return enlarge_labels(self.masks, self.placement).numpy()

    @property
    def scores(self) -> Float[np.ndarray, " slots"]:
        """Mean of each slot's mask where it is the largest, 0 to 1; 0 for slots without a pixel."""
        return mask_scores(self.masks)

    def to_coco(self) -> dict[str, Any]:
        """A COCO data set of this image, as JSON values (`coco_masks`)."""
        return coco_masks(self.labels, self.relative.as_posix(), self.scores)

    def to_supervision(self) -> Any:
        """`supervision.Detections` of the active slots: masks and boxes at the image's size, scores as
        confidence, class 0, and the slots' numbers in `data["slot"]`.

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_supervision needs supervision: pip install supervision") from error
        labels = self.labels
        slots = np.array(active_slots(labels), np.int64)
        masks = labels == slots[:, None, None]
        boxes = np.array([rle.bounding_box(mask) for mask in masks], np.float32).reshape(-1, 4)
        return supervision.Detections(
            xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            mask=masks,
            confidence=self.scores[slots],
            class_id=np.zeros(len(slots), np.int64),
            data={"slot": slots},
        )

    def cutout(self, slot: int) -> Image.Image:
        """The image at its own size, RGBA, with the soft mask of `slot` as alpha; ValueError for another
        slot."""
        if not 0 <= slot < len(self.masks):
            raise ValueError(f"`slot` (={slot}) must be from 0 to {len(self.masks) - 1}")
        soft = self.placement.restore(self.masks[slot]).clamp(0, 1).mul(255).round().to(torch.uint8)
        cut = Image.fromarray(self.pixels)
        cut.putalpha(Image.fromarray(soft.numpy()))
        return cut

    @property
    def summary(self) -> str:
        """The number of active slots, including the background."""
        active, slots = len(np.unique(self.masks.argmax(dim=0))), len(self.masks)
        return f"{active} of {slots} slots active"

    def _shown(self) -> tuple[str, ...]:
        return ("overlay", "slots")

    def _draw(self, kind: str) -> Image.Image:
        if kind == "overlay":
            return _tint(self.pixels, torch.from_numpy(self.labels))
        if self._seen is not None and "appearance" not in self._seen:
            return figures.masks_figure(self.image, self.masks)
        parts = (self.image, self.reconstruction, self.masks, self.appearance)
        return figures.slots_figure(*(part[None] for part in parts))

    def _write(self, files: dict[str, Path]) -> None:
        labels = enlarge_labels(self.masks, self.placement)
        with staged(files["masks"]) as file:
            figures.indexed_png(labels.where(labels >= 0, NO_SLOT), file)
        coco = coco_masks(labels.numpy(), self.relative.as_posix(), self.scores)
        write_text(files["coco"], json.dumps(coco))
        with staged(files["overlay"]) as file:
            _tint(self.pixels, labels).save(file)

    def _arrays(self) -> dict[str, np.ndarray]:
        return super()._arrays() | {"labels": self.labels}

    def _write_extra(self, extra: str, stem: Path) -> Path:
        """Write a folder with a cutout of every active slot."""
        if extra != "cutouts":
            return super()._write_extra(extra, stem)
        folder = real_folder(Path(f"{stem}{CUTOUTS}"))
        for old in folder.glob("slot-*.png"):
            if old.stem.removeprefix("slot-").isdecimal():  # keep results of other images
                old.unlink()
        for slot in active_slots(self.labels):
            with staged(folder / f"slot-{slot}.png") as file:
                self.cutout(slot).save(file)
        return folder


def _tint(pixels: UInt8[np.ndarray, "height width 3"], labels: Int16[Tensor, "height width"]) -> Image.Image:
    return figures.overlay_one(torch.from_numpy(pixels).permute(2, 0, 1), labels, 0.5)


def enlarge_labels(
    masks: Float[Tensor, "slots rows columns"], placement: Placement
) -> Int16[Tensor, "height width"]:
    """The slot with the largest mask at every pixel of an image, after bilinear resizing of the soft masks;
    -1 outside the model's input.

    Slots are resized one by one, so that memory is needed for two masks only.

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


def active_slots(labels: Int16[np.ndarray, "height width"]) -> list[int]:
    """The slots that have the largest mask at some pixel."""
    return np.unique(labels[labels >= 0]).tolist()


def mask_scores(masks: Float[Tensor, "slots rows columns"]) -> Float[np.ndarray, " slots"]:
    """Mean of each mask where it is the largest, 0 where it never is; float32.

    >>> mask_scores(torch.tensor([[[0.75, 0.5]], [[0.25, 0.25]], [[0.0, 0.25]]])).tolist()
    [0.625, 0.0, 0.0]
    """
    highest, labels = masks.max(dim=0)
    sums = torch.zeros(len(masks)).index_add_(0, labels.flatten(), highest.flatten().float())
    return (sums / labels.flatten().bincount(minlength=len(masks)).clamp_min(1)).numpy()


def coco_masks(
    labels: Int16[np.ndarray, "height width"], file_name: str, scores: Float[np.ndarray, " slots"]
) -> dict[str, Any]:
    """Labels and the slots' scores as a COCO data set of one image, as JSON values; slots without pixels are
    omitted.

    >>> scores = np.array([0.75, 0, 0, 0.5], np.float32)
    >>> masks = coco_masks(np.array([[0, 0, 3]], np.int16), "a.png", scores)["annotations"]
    >>> [(mask["slot"], mask["bbox"], mask["score"]) for mask in masks]
    [(0, [0, 0, 2, 1], 0.75), (3, [2, 0, 1, 1], 0.5)]
    """
    height, width = labels.shape
    annotations = []
    for number, slot in enumerate(active_slots(labels), start=1):
        mask = labels == slot
        annotation = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "slot": slot}
        where = {"segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": rle.bounding_box(mask)}
        annotations.append(annotation | where | {"score": round(float(scores[slot]), 4)})
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "slot"}],
        "annotations": annotations,
    }

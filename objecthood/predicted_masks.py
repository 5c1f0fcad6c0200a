"""What a discovery model sees in a user's picture, as files: overlay, label picture, COCO masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from objecthood import rle, visualize

ENDINGS = {"overlay": "-overlay.png", "masks": "-masks.png", "coco": "-masks.json"}


def write_masks(
    picture: UInt8[np.ndarray, "height width 3"],
    seen: dict[str, Tensor],
    files: dict[str, Path],
    source: Path,
) -> None:
    """Write what `seen` (one picture of a discovery model's output) says of `picture` into `files`."""
    labels = enlarge_labels(seen["masks"], picture.shape[:2])
    visualize.indexed_png(labels, files["masks"])
    files["coco"].write_text(json.dumps(coco_masks(labels.numpy(), source.as_posix())))
    large = torch.from_numpy(picture).permute(2, 0, 1).float().div_(255)
    tinted = visualize.overlay(large, labels)
    assert isinstance(tinted, Image.Image)  # a batch gives a list
    tinted.save(files["overlay"])


def enlarge_labels(
    masks: Float[Tensor, "slots rows columns"], size: tuple[int, int]
) -> UInt8[Tensor, "height width"]:
    """The strongest slot of every pixel, after bilinear resizing of soft masks to `size`, [height, width].

    Slot by slot, so that a large picture needs memory for two masks and not for all.

    >>> enlarge_labels(torch.eye(2)[:, None], (1, 4)).tolist()
    [[0, 0, 1, 1]]
    """
    highest = torch.full(size, -torch.inf)
    labels = torch.zeros(size, dtype=torch.uint8)
    for slot, mask in enumerate(masks):
        mask = functional.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        labels[mask > highest] = slot
        torch.maximum(highest, mask, out=highest)
    return labels


def coco_masks(labels: UInt8[np.ndarray, "height width"], file_name: str) -> dict[str, Any]:
    """Labels as a COCO data set of one picture, ready for JSON; slots that no pixel belongs to are left out.

    >>> masks = coco_masks(np.array([[0, 0, 3]], np.uint8), "a.png")["annotations"]
    >>> [(mask["slot"], mask["bbox"]) for mask in masks]
    [(0, [0, 0, 2, 1]), (3, [2, 0, 1, 1])]
    """
    height, width = labels.shape
    annotations = []
    for number, slot in enumerate(np.unique(labels), start=1):
        mask = labels == slot
        annotation = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "slot": int(slot)}
        where = {"segmentation": rle.encode(mask), "area": int(mask.sum()), "bbox": rle.bounding_box(mask)}
        annotations.append(annotation | where)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "slot"}],
        "annotations": annotations,
    }

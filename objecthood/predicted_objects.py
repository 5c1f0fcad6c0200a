"""What a set predictor sees in a user's picture, as files: names written on the picture, and JSON.

An object is drawn where its slot looked last: the mean place of the attention's fourth power, which leaves
out what all slots share, and needs no camera.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood import visualize
from objecthood.data.clevr_properties import EXTENT, NAMES
from objecthood.metrics import PROPERTY_GROUPS

ENDINGS = {"drawing": "-objects.png", "objects": "-objects.json"}
LEAST_CONFIDENCE = 0.5
"""Slots whose real-object flag is lower stand for nothing: the flag is trained towards 0 or 1."""


def write_objects(
    picture: UInt8[np.ndarray, "height width 3"],
    seen: dict[str, Tensor],
    files: dict[str, Path],
    source: Path,
) -> None:
    """Write what `seen` (one picture of a set predictor's output) says of `picture` into `files`."""
    height, width = picture.shape[:2]
    objects = describe(seen["properties"], seen["attention"][-1])
    for thing in objects:
        thing["pixel"] = [round(thing["place"][0] * width), round(thing["place"][1] * height)]
    facts = {"file_name": source.as_posix(), "width": width, "height": height, "objects": objects}
    files["objects"].write_text(json.dumps(facts, indent=1) + "\n")
    places = [(thing["place"][0], thing["place"][1], thing["slot"], thing["name"]) for thing in objects]
    visualize.name_objects(torch.from_numpy(picture), places).save(files["drawing"])


def describe(
    properties: Float[Tensor, "slots 19"], attention: Float[Tensor, "slots rows columns"]
) -> list[dict[str, Any]]:
    """The objects that slots stand for, surest first, ready for JSON.

    Of each: "name", its "size", "material", "shape" and "color" in words, "position" (x, y, z in CLEVR's
    units, -3 to 3; the ground is z = 0), "confidence" (the real-object flag, above 0.5), "slot", and "place"
    (across and down the picture, each from 0 to 1), where the slot looked.

    Example:
        >>> properties, attention = torch.zeros(2, 19), torch.zeros(2, 4, 4)
        >>> properties[1, [3, 6, 7, 11, 18]], attention[1, 0, 3] = 1.0, 1.0
        >>> (thing,) = describe(properties, attention)
        >>> thing["name"], thing["slot"], thing["place"]
        ('large red metal cube', 1, [0.875, 0.125])
    """
    objects = []
    for slot in properties[:, 18].argsort(descending=True, stable=True).tolist():
        row = properties[slot]
        if row[18] <= LEAST_CONFIDENCE:
            break
        words = {group: NAMES[group][int(row[PROPERTY_GROUPS[group]].argmax())] for group in NAMES}
        thing: dict[str, Any] = {
            "name": " ".join(words[group] for group in ("size", "color", "material", "shape")),
            **words,
            "position": [round(2 * EXTENT * value - EXTENT, 2) for value in row[:3].tolist()],
            "confidence": round(row[18].item(), 3),
            "slot": slot,
            "place": [round(value, 3) for value in _place(attention[slot])],
        }
        objects.append(thing)
    return objects


def sentence(thing: dict[str, Any]) -> str:
    """One of the objects of `describe`, in a line.

    Example:
        >>> sentence({"name": "large red metal cube", "position": [1.23, -0.4, 0.7], "confidence": 0.978})
        'large red metal cube at (1.2, -0.4), confidence 0.98'
    """
    x, y, _ = thing["position"]
    return f"{thing['name']} at ({x:.1f}, {y:.1f}), confidence {thing['confidence']:.2f}"


def _place(attention: Float[Tensor, "rows columns"]) -> tuple[float, float]:
    """Across and down, each in [0, 1]: the mean place of the attention's fourth power."""
    weights = attention.double() ** 4
    across, down = (
        ((torch.arange(size) + 0.5) / size * weights.sum(dim=dim)).sum().item()
        for dim, size in ((0, weights.shape[1]), (1, weights.shape[0]))
    )
    total = max(weights.sum().item(), torch.finfo(torch.float64).tiny)
    return across / total, down / total

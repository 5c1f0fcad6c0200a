"""What a set predictor sees in a user's picture: objects in words, written on the picture and as JSON.

An object is drawn where its slot looked last: the mean place of the attention's fourth power, which leaves
out what all slots share, and needs no camera.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from objecthood.data.clevr_properties import EXTENT, NAMES
from objecthood.inference.result import Result
from objecthood.metrics import PROPERTY_GROUPS
from objecthood.runtime.files import staged, write_json
from objecthood.visualize import figures

LEAST_CONFIDENCE = 0.5
"""Slots whose real-object flag is lower stand for nothing: the flag is trained towards 0 or 1."""


class PredictedObjects(Result):
    """Objects of one picture in words.

    Example:
        >>> import objecthood as oh
        >>> (result,) = oh.predict("set-clevr")
        >>> sorted(result.objects[0])
        ['color', 'confidence', 'material', 'name', 'pixel', 'place', 'position', 'shape', 'size', 'slot']
    """

    endings = {"drawing": "-objects.png", "objects": "-objects.json"}
    kinds = ("objects", "attention")

    @property
    def properties(self) -> Float[Tensor, "slots 19"]:
        """What each slot says, in [0, 1] (`models.set_predictor.SetPrediction`)."""
        return self._part("properties")

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What is seen, surest first (`describe`), with its "pixel" (across, down) in the picture."""
        (height, width), (rows, columns) = self.size, self.image.shape[-2:]
        objects = describe(self.properties, self.attention[-1])
        for thing in objects:
            across, down = self.placement.locate(thing["place"][0], thing["place"][1], (rows, columns))
            thing["place"] = [round(across, 3), round(down, 3)]
            thing["pixel"] = [round(across * width), round(down * height)]
        return objects

    @property
    def summary(self) -> str:
        """The names of what is seen."""
        return ", ".join(thing["name"] for thing in self.objects) or "nothing"

    def _draw(self, kind: str) -> Image.Image:
        places = [
            (thing["place"][0], thing["place"][1], thing["slot"], thing["name"]) for thing in self.objects
        ]
        return figures.name_objects(torch.from_numpy(self.picture), places)

    def _write(self, files: dict[str, Path]) -> None:
        height, width = self.size
        facts = {
            "file_name": self.relative.as_posix(),
            "width": width,
            "height": height,
            "objects": self.objects,
        }
        write_json(files["objects"], facts)
        with staged(files["drawing"]) as file:
            self._draw("objects").save(file)


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

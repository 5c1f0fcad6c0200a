"""Results of set predictors: named objects, drawn on the image and written as JSON.

An object is located at the mean coordinate of the fourth power of its slot's last attention, which suppresses
attention shared by all slots and needs no camera parameters.
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
"""Slots with a lower real-object flag are empty: the flag is trained towards 0 or 1."""


class PredictedObjects(Result):
    """The named objects of one image.

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
        """The predicted properties of each slot, in [0, 1] (`models.set_predictor.SetPredictorOutput`)."""
        return self._part("properties")

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The objects by descending confidence (`describe`), with "pixel" (across, down) in the image."""
        (height, width), (rows, columns) = self.size, self.image.shape[-2:]
        objects = describe(self.properties, self.attention[-1])
        for found in objects:
            across, down = self.placement.locate(found["place"][0], found["place"][1], (rows, columns))
            found["place"] = [round(across, 3), round(down, 3)]
            found["pixel"] = [round(across * width), round(down * height)]
        return objects

    @property
    def summary(self) -> str:
        """The names of the objects."""
        return ", ".join(found["name"] for found in self.objects) or "no objects"

    def _draw(self, kind: str) -> Image.Image:
        labels = [
            (found["place"][0], found["place"][1], found["slot"], found["name"]) for found in self.objects
        ]
        return figures.name_objects(torch.from_numpy(self.pixels), labels)

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
    """The predicted objects by descending confidence, as JSON values.

    Each has "name", its "size", "material", "shape" and "color" in words, "position" (x, y, z in CLEVR's
    units, -3 to 3; the floor is z = 0), "confidence" (the real-object flag, above 0.5), "slot", and "place"
    (across and down the image, each from 0 to 1), the location of the slot's attention.

    Example:
        >>> properties, attention = torch.zeros(2, 19), torch.zeros(2, 4, 4)
        >>> properties[1, [3, 6, 7, 11, 18]], attention[1, 0, 3] = 1.0, 1.0
        >>> (found,) = describe(properties, attention)
        >>> found["name"], found["slot"], found["place"]
        ('large red metal cube', 1, [0.875, 0.125])
    """
    objects = []
    for slot in properties[:, 18].argsort(descending=True, stable=True).tolist():
        row = properties[slot]
        if row[18] <= LEAST_CONFIDENCE:
            break
        words = {group: NAMES[group][int(row[PROPERTY_GROUPS[group]].argmax())] for group in NAMES}
        found: dict[str, Any] = {
            "name": " ".join(words[group] for group in ("size", "color", "material", "shape")),
            **words,
            "position": [round(2 * EXTENT * value - EXTENT, 2) for value in row[:3].tolist()],
            "confidence": round(row[18].item(), 3),
            "slot": slot,
            "place": [round(value, 3) for value in _location(attention[slot])],
        }
        objects.append(found)
    return objects


def sentence(found: dict[str, Any]) -> str:
    """An object of `describe` as a line of text.

    Example:
        >>> sentence({"name": "large red metal cube", "position": [1.23, -0.4, 0.7], "confidence": 0.978})
        'large red metal cube at (1.2, -0.4), confidence 0.98'
    """
    x, y, _ = found["position"]
    return f"{found['name']} at ({x:.1f}, {y:.1f}), confidence {found['confidence']:.2f}"


def _location(attention: Float[Tensor, "rows columns"]) -> tuple[float, float]:
    """Across and down, each in [0, 1]: the mean coordinate of the attention's fourth power."""
    weights = attention.double() ** 4
    across, down = (
        ((torch.arange(size) + 0.5) / size * weights.sum(dim=dim)).sum().item()
        for dim, size in ((0, weights.shape[1]), (1, weights.shape[0]))
    )
    total = max(weights.sum().item(), torch.finfo(torch.float64).tiny)
    return across / total, down / total

"""The contract: what a dataset gives, whatever it is made of or read from.

A dataset is anything with `len(dataset)` and `dataset[indices] -> Scenes`, `indices` a sequence of ints:
batches, not single samples, are the unit, so that generators can be vectorised. `endless` is true where
scenes are made on the spot and none need be seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from typing_extensions import NotRequired

ENDLESS = 2**40
"""Length of datasets that are made on the spot."""


class Scenes(TypedDict):
    """A batch. Video adds a `time` axis after `batch` and keeps an object's label over time."""

    image: Float[Tensor, "batch *time 3 height width"]
    """In [0, 1]."""
    masks: NotRequired[Int[Tensor, "batch *time height width"]]
    """0 background, 1, 2, ... objects, -1 ignored; absent where the source has none."""
    properties: NotRequired[Float[Tensor, "batch max_objects 19"]]
    """CLEVR: 3 coordinates scaled to [0, 1], one-hot size 2, material 2, shape 3, colour 8, real-object
    flag."""
    flow: NotRequired[Float[Tensor, "batch time 2 height width"]]
    """Video: where each pixel goes until the next frame, across and down, in pixels."""
    velocity: NotRequired[Float[Tensor, "batch time objects 2"]]
    """Video: of each object against its world (not the camera), across and down, in pixels per frame."""
    camera: NotRequired[Float[Tensor, "batch time 2"]]
    """Video: what the camera's motion adds to every object's and the background's."""
    kind: NotRequired[Int[Tensor, "batch objects"]]
    """Video made here: each object's shape (0 square, 1 ellipse, 2 heart), -1 where there is none."""
    visibility: NotRequired[Float[Tensor, "batch time objects"]]
    """Video: share of each object that is seen; 0 where it is covered, outside, or not of this clip."""


@runtime_checkable
class Dataset(Protocol):
    """What the loader asks of a dataset."""

    endless: bool

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Sequence[int] | np.ndarray) -> Scenes: ...


def to_device(scenes: Scenes, device: torch.device) -> Scenes:
    """The same batch on another device."""
    moved = {key: value.to(device, non_blocking=True) for key, value in scenes.items()}  # type: ignore[attr-defined]
    return cast(Scenes, moved)


def paint_labels(
    labels: Integer[np.ndarray, "batch height width"], colors: Float[np.ndarray, "batch labels channels"]
) -> Float[np.ndarray, "batch channels height width"]:
    """Pictures in which every label has the colour (or other values) its scene gives it."""
    batch, height, width = labels.shape
    flat = labels.reshape(batch, 1, height * width).astype(np.intp)
    table = colors.transpose(0, 2, 1).astype(np.float32)
    return np.take_along_axis(table, flat, axis=2).reshape(batch, -1, height, width)

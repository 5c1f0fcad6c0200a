"""A memory cache of decoded scenes: decoding an image takes longer than most training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from objecthood.data.io.images import resize_image
from objecthood.data.transforms import central_square, resize_nearest

# Room on a machine of 8 GB, where several processes may each hold a copy.
CACHE_BYTES = 1_000_000_000


class Decoded(NamedTuple):
    """One scene, resized."""

    picture: UInt8[np.ndarray, "height width 3"]
    labels: Integer[np.ndarray, "height width"] | None


def resized(
    picture: UInt8[np.ndarray, "rows columns 3"],
    labels: Integer[np.ndarray, "rows columns"] | None,
    resolution: int,
    crop: float | None,
) -> Decoded:
    """A square of `resolution` pixels, images antialiased, masks nearest: of the central square with a share
    `crop` of the shorter side, or, with None, of the whole image without keeping its aspect ratio."""
    if crop is not None:
        window = central_square(picture.shape[0], picture.shape[1], crop)
        picture, labels = picture[window], None if labels is None else labels[window]
    picture = resize_image(np.ascontiguousarray(picture), (resolution, resolution))
    return Decoded(picture, None if labels is None else resize_nearest(labels, resolution))


class Cache:
    """The first requested scenes, up to `capacity` bytes; others are decoded at every use."""

    def __init__(self, make: Callable[[int], Decoded], capacity: int | None = None):
        self._make, self._room = make, CACHE_BYTES if capacity is None else capacity
        self._scenes: dict[int, Decoded] = {}

    def __getitem__(self, index: int) -> Decoded:
        if index in self._scenes:
            return self._scenes[index]
        scene = self._make(index)
        size = scene.picture.nbytes + (0 if scene.labels is None else scene.labels.nbytes)
        if size <= self._room:
            self._room -= size
            self._scenes[index] = scene
        return scene

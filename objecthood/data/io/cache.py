"""A memory cache of decoded scenes: decoding an image takes longer than most training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

# Room on a machine of 8 GB, where several processes may each hold a copy.
CACHE_BYTES = 1_000_000_000


class Decoded(NamedTuple):
    """One scene, resized."""

    picture: UInt8[np.ndarray, "height width 3"]
    labels: Integer[np.ndarray, "height width"] | None


class Cache:
    """The first requested scenes, up to `capacity` bytes; others are decoded at every use."""

    def __init__(self, make: Callable[[int], Decoded], capacity: int = CACHE_BYTES):
        self._make, self._room = make, capacity
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

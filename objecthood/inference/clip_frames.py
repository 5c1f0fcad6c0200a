"""Frames of a video with the objects of a clip model, in windows, so that memory does not grow with length.

Every window is adapted to anew, from weights halfway between the general ones and those of the window before.
Slots persist over windows, as components are followed from frame to frame (`motion.components`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood.motion.clip_objects import Frame, clip_masks, clip_of, read_frame
from objecthood.motion.components import ObjectSlots
from objecthood.runtime.threads import parallel

WINDOW, MARGIN = 96, 24
"""Frames in a window, and additional frames on either side for averages along the flow. DAVIS has at most 104
frames in a sequence."""


def windows(items: Iterable[Any], length: int, margin: int) -> Iterator[tuple[list[Any], slice]]:
    """Windows of `length` items with up to `margin` more on either side, and the slice of the window. The
    last window is longer, by up to twice the margin.

    >>> [(part, part[inner]) for part, inner in windows(range(8), 3, 1)]
    [([0, 1, 2, 3], [0, 1, 2]), ([2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7])]
    """
    held: list[Any] = []
    before = 0
    for item in items:
        held.append(item)
        if len(held) > before + length + 2 * margin:
            yield held[: before + length + margin], slice(before, before + length)
            held = held[before + length - margin :]
            before = margin
    if held:
        yield held, slice(before, len(held))


@torch.no_grad()
def object_masks(
    model: Any,
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    read: Callable[[int], None] | None = None,
    length: int = WINDOW,
    margin: int = MARGIN,
) -> Iterator[Float[Tensor, "slots rows columns"]]:
    """Masks of background and objects of every frame, on the grid of the flow; `read` is called with the
    number of frames read, which takes most of the time."""
    slots, start = ObjectSlots(model.num_slots - 1), None

    def seen() -> Iterator[Frame]:
        for number, frame in enumerate(parallel(partial(read_frame, model), frames)):
            # Kept in this thread's memory: what lives long in that of others leaves it in pieces.
            yield Frame(frame.small.copy(), frame.features.clone())
            if read:
                read(number + 1)

    for part, inner in windows(seen(), length, margin):
        masks, weights = clip_masks(model, clip_of(part), start)
        start = (weights + model.head.weight) / 2
        for mask in masks[inner]:
            yield slots.update(mask)

"""Objects of a stream of masks: connected components that keep their slot from frame to frame.

A component takes the slot of the earlier object that it overlaps most, moved by that object's last step. An
object that disappears keeps its slot for `MEMORY` frames. Parts close to each other are one object, as a post
may divide it; objects that touch become one, the larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

SMALLEST = 0.001
"""Share of the frame below which a component is background."""
GAP = 0.03
"""Half the largest distance between parts of one object, in shorter sides of the frame."""
MEMORY = 12
"""Frames for which a slot waits for its object, half a second at 24 frames per second."""


class _Object(NamedTuple):
    mask: Bool[np.ndarray, "rows columns"]
    centre: np.ndarray
    step: np.ndarray
    unseen: int


class ObjectSlots:
    """Splits masks into objects with persistent slots, frame by frame.

    Args:
        number: how many objects have a slot at a time; the smallest of more are background.

    Example:
        >>> mask = torch.zeros(20, 20)
        >>> mask[2:6, 2:6] = mask[12:18, 12:18] = 1.0
        >>> slots = ObjectSlots(2).update(mask)
        >>> slots.shape, slots[1, 15, 15].item(), slots[2, 3, 3].item(), slots[0, 0, 0].item()
        (torch.Size([3, 20, 20]), 1.0, 1.0, 1.0)
    """

    def __init__(self, number: int):
        self.number = number
        self._objects: dict[int, _Object] = {}

    def update(self, mask: Float[Tensor, "rows columns"]) -> Float[Tensor, "slots rows columns"]:
        """Masks of the background (slot 0) and of every object in the next frame, which sum to 1."""
        found = (mask > 0.5).numpy()
        reach = max(round(GAP * min(mask.shape)), 1)
        labels, count = ndimage.label(ndimage.binary_dilation(found, iterations=reach))
        labels *= found
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-areas, kind="stable")
        large = [int(place) + 1 for place in order if areas[place] >= SMALLEST * mask.numel()]
        parts = [labels == label for label in large[: self.number]]
        taken = self._assigned(parts)
        self._objects = {
            slot: held._replace(unseen=held.unseen + 1)
            for slot, held in self._objects.items()
            if slot not in taken.values() and held.unseen < MEMORY
        } | {slot: self._seen(slot, parts[place]) for place, slot in taken.items()}
        return self._soft(mask, labels, {large[place]: slot for place, slot in taken.items()})

    def _assigned(self, parts: list[np.ndarray]) -> dict[int, int]:
        """The slot of each component: by overlap with earlier objects, then any that is free."""
        overlaps = []
        for slot, held in self._objects.items():
            moved = ndimage.shift(held.mask.astype(np.uint8), held.step * (1 + held.unseen), order=0) > 0
            for place, part in enumerate(parts):
                common = np.count_nonzero(moved & part)
                if common:
                    overlaps.append((common / np.count_nonzero(moved | part), place, slot))
        taken: dict[int, int] = {}
        for _, place, slot in sorted(overlaps, reverse=True):
            if place not in taken and slot not in taken.values():
                taken[place] = slot
        remembered = set(self._objects) | set(taken.values())
        for place in range(len(parts)):
            if place not in taken:
                free = [slot for slot in range(1, self.number + 1) if slot not in remembered]
                free += [slot for slot in self._objects if slot not in taken.values()]
                if free:
                    taken[place] = free[0]
                    remembered.add(free[0])
        return taken

    def _soft(
        self, mask: Tensor, labels: np.ndarray, slot_of: dict[int, int]
    ) -> Float[Tensor, "slots rows columns"]:
        """The mask divided between slots: a pixel belongs to the nearest component."""
        slots = torch.zeros(self.number + 1, *mask.shape)
        if slot_of:
            nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
            owner = labels[tuple(nearest)]
            for label, slot in slot_of.items():
                slots[slot] = mask * torch.from_numpy(owner == label)
        slots[0] = 1 - slots[1:].sum(dim=0)
        return slots

    def _seen(self, slot: int, mask: np.ndarray) -> _Object:
        centre = np.array(ndimage.center_of_mass(mask))
        earlier = self._objects.get(slot)
        known = earlier is not None and earlier.unseen == 0
        return _Object(mask, centre, centre - earlier.centre if earlier and known else np.zeros(2), 0)

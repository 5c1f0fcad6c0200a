"""Trajectories of generated objects and cameras, in closed form for any frame."""

from __future__ import annotations

import numpy as np

Bound = float | np.ndarray


def bounce(
    start: np.ndarray,
    velocity: np.ndarray,
    times: np.ndarray,
    low: float | np.ndarray,
    high: float | np.ndarray,
) -> np.ndarray:
    """start + velocity * times, reflected at `low` and `high`; arguments broadcast, integers stay integers.

    Example:
        >>> bounce(np.array(2), np.array(1), np.arange(6), 0, 4).tolist()
        [2, 3, 4, 3, 2, 1]
    """
    length = high - low
    travelled = (start + velocity * times - low) % (2 * length)
    return low + length - np.abs(length - travelled)


def circle(speed: np.ndarray, phase: np.ndarray, times: np.ndarray, radius: float) -> np.ndarray:
    """Displacement (across, down) [..., times, 2] on a circle through the origin, at constant speed.

    `speed` and `phase` (radians) have a last axis of 1 to broadcast with `times`. The displacement per frame
    equals `speed` to within 1 % for speeds up to half the radius.

    Example:
        >>> way = circle(np.array([1.0]), np.array([0.0]), np.arange(3), radius=8.0)
        >>> way.shape, way[0].tolist()
        ((3, 2), [0.0, 0.0])
    """
    turned = phase + speed / radius * times
    return radius * np.stack([np.cos(turned) - np.cos(phase), np.sin(turned) - np.sin(phase)], axis=-1)

"""Where things made here are at each frame: straight ahead, turned back beyond the image's border.

Positions are a closed function of the frame, so that a clip of any length, or any frame alone, can be made.
"""

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
    """start + velocity * times, turned back wherever it meets `low` or `high`; arguments broadcast.

    Integers stay integers.

    Example:
        >>> bounce(np.array(2), np.array(1), np.arange(6), 0, 4).tolist()
        [2, 3, 4, 3, 2, 1]
    """
    length = high - low
    travelled = (start + velocity * times - low) % (2 * length)
    return low + length - np.abs(length - travelled)


def circle(speed: np.ndarray, phase: np.ndarray, times: np.ndarray, radius: float) -> np.ndarray:
    """Way (across, down) [..., times, 2] on a circle, from the origin, at a constant speed.

    `speed` and `phase` (radians) have a last axis of 1 beside `times`. The chord of one frame is the speed to
    within 1 % up to a speed of half the radius.

    Example:
        >>> way = circle(np.array([1.0]), np.array([0.0]), np.arange(3), radius=8.0)
        >>> way.shape, way[0].tolist()
        ((3, 2), [0.0, 0.0])
    """
    turned = phase + speed / radius * times
    return radius * np.stack([np.cos(turned) - np.cos(phase), np.sin(turned) - np.sin(phase)], axis=-1)

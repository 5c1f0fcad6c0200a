"""Shapes and colours of sprites: masks of squares, ellipses and hearts, modelled on dSprites (Matthey et al.
2017)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

AREAS = (2.89, 2.4190, 3.6620)
"""Areas of the square, ellipse and heart of half size 1; the heart's by numerical integration."""
REACH = 1.32
"""Upper bound of the radius of a shape of half size 1; the heart has 1.315."""


def silhouettes(
    kind: Integer[np.ndarray, " sprites"],
    size: Float[np.ndarray, " sprites"],
    angle: Float[np.ndarray, " sprites"],
    row: Float[np.ndarray, " sprites"],
    column: Float[np.ndarray, " sprites"],
    resolution: int,
) -> Bool[np.ndarray, "sprites height width"]:
    """The mask of each sprite, sampled at pixel centres.

    Args:
        kind: 0 square, 1 ellipse, 2 heart.
        size: half size, in units of the image's side.
        angle: in radians.
        row, column: centre, in units of the image's side.
        resolution: side of the image in pixels.
    """
    cosine, sine = (np.cos(angle) / size).astype(np.float32), (np.sin(angle) / size).astype(np.float32)
    pixels = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution
    rows, columns = (pixels - middle[:, None].astype(np.float32) for middle in (row, column))
    # Coordinates relative to the sprite, in units of its half size; y points up.
    x = (cosine[:, None] * columns)[:, None, :] + (sine[:, None] * rows)[:, :, None]
    y = (sine[:, None] * columns)[:, None, :] - (cosine[:, None] * rows)[:, :, None]
    inside = np.empty(x.shape, bool)
    for number, shape in enumerate((square, ellipse, heart)):
        chosen = kind == number
        inside[chosen] = shape(x[chosen], y[chosen])
    return inside


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x|, |y| < 0.85, for an area similar to the other shapes."""
    return np.maximum(np.abs(x), np.abs(y)) < 0.85


def ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Half axes 1.1 and 0.7."""
    return np.square(x / np.float32(1.1)) + np.square(y / np.float32(0.7)) < 1


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x^2 + y^2 - 1)^3 < x^2 y^3, centred at the origin."""
    y = y + np.float32(0.15)
    x_squared, y_squared = np.square(x), np.square(y)
    ring = x_squared + y_squared - 1
    return ring * ring * ring < x_squared * y_squared * y


def rgb_from_hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> Float[np.ndarray, "... 3"]:
    """RGB in [0, 1] of hue, saturation and value in [0, 1] (Smith 1978)."""
    sector = (hue[..., None] * 6 + np.array([5, 3, 1])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(sector, 4 - sector), 0, 1))


def between(limits: tuple[float, float], draw: np.ndarray) -> np.ndarray:
    """Scale a draw in [0, 1) to the limits."""
    return limits[0] + (limits[1] - limits[0]) * draw

"""Masks of interleaved objects, which no cluster of positions separates: spirals, stars and combs.

Foreground scores ignore the background, so a grid of blocks separates objects that lie apart. These objects
wind around each other, cross at one centre or interlock: every block of the image holds parts of several.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from objecthood.data.generated.silhouettes import between

MIN_OBJECTS, MAX_OBJECTS = 2, 3
DRAWS = 18
"""Draws of a scene: family, number, angle, centre (2), warp (3), direction, and 3 for each object."""
RADIUS = 0.48  # of the image's side, as all lengths
CENTRE, WARP = (-0.04, 0.04), 0.02
SPIRAL_PITCH, SPIRAL_GAP, SPIRAL_HOLE = 0.14, 0.2, 0.04  # width of a band, share of it left open, radius
ARMS = {2: 4, 3: 3}  # of each star, by the number of stars
ARM_WIDTH = {2: 0.15, 3: 0.125}
STAR_CENTRE = (-0.05, 0.05)
TEETH, COMB_GAP, SPINE = 6, 0.2, 0.1


def interleaved_objects(
    draws: Float[np.ndarray, "scenes draws"], resolution: int
) -> UInt8[np.ndarray, "scenes height width"]:
    """Label maps uint8, 0 background, 1 to 3 objects, sampled at pixel centres; draws are in [0, 1)."""
    pixels = (np.arange(resolution) + 0.5) / resolution - 0.5
    number = MIN_OBJECTS + (draws[:, 1] * (MAX_OBJECTS - MIN_OBJECTS + 1)).astype(int)
    shifts = between(CENTRE, draws[:, 3:5])[..., None, None]
    x, y = pixels[None, None, :] - shifts[:, 0], pixels[None, :, None] - shifts[:, 1]
    phases = 2 * np.pi * draws[:, 5:8, None, None]
    waves = 2 * np.pi * (1 + phases[:, 2] / (2 * np.pi))  # one to two waves across the image
    x, y = x + WARP * np.sin(waves * y + phases[:, 0]), y + WARP * np.sin(waves * x + phases[:, 1])
    angle = 2 * np.pi * draws[:, 2, None, None]
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    x = np.where(draws[:, 8, None, None] < 0.5, x, -x)
    labels = np.zeros(x.shape, np.uint8)
    family = (draws[:, 0] * len(FAMILIES)).astype(int)
    for index, shape in enumerate(FAMILIES):
        for count in range(MIN_OBJECTS, MAX_OBJECTS + 1):
            chosen = (family == index) & (number == count)
            labels[chosen] = shape(x[chosen], y[chosen], count, draws[chosen, 9:].reshape(-1, MAX_OBJECTS, 3))
    return labels


def spirals(x: np.ndarray, y: np.ndarray, count: int, draws: np.ndarray) -> np.ndarray:
    """Arms of an Archimedean spiral (r = pitch times angle), one object each."""
    radius = np.hypot(x, y)
    band = radius / SPIRAL_PITCH - count * np.arctan2(y, x) / (2 * np.pi)
    inside = (radius > SPIRAL_HOLE) & (radius < RADIUS) & (band % 1 > SPIRAL_GAP)
    return np.where(inside, np.floor(band) % count + 1, 0)


def stars(x: np.ndarray, y: np.ndarray, count: int, draws: np.ndarray) -> np.ndarray:
    """Stars of crossing bars, the arms of one between those of the others; later ones occlude earlier."""
    labels = np.zeros(x.shape)
    arms = ARMS[count]
    for number in range(count):
        shift = between(STAR_CENTRE, draws[:, number, :2])[..., None, None]
        right, down = x - shift[:, 0], y - shift[:, 1]
        for arm in range(arms):
            angle = 2 * np.pi * (arm / arms + number / (arms * count))
            along = right * np.cos(angle) + down * np.sin(angle)
            across = down * np.cos(angle) - right * np.sin(angle)
            labels[(along > 0) & (along < RADIUS - 0.02) & (np.abs(across) < ARM_WIDTH[count] / 2)] = (
                number + 1
            )
    return labels


def combs(x: np.ndarray, y: np.ndarray, count: int, draws: np.ndarray) -> np.ndarray:
    """Two combs with interlocking teeth; of three objects, the third is the band that winds between them."""
    half = RADIUS - 0.06
    tooth = (y + half) / (2 * half) * TEETH
    is_inside = (np.abs(x) < half) & (tooth >= 0) & (tooth < TEETH)
    first = np.floor(tooth) % 2 == 0
    gap = COMB_GAP if count == 2 else 0.36
    open_width = gap * 2 * half / TEETH
    toward = np.where(first, x, -x)  # the spine of a tooth is at -half
    free = (np.abs(tooth % 1 - 0.5) < (1 - gap) / 2) & (toward < half - SPINE - open_width)
    labels = np.where(free, np.where(first, 1, 2), 0)
    labels = np.where(x < -half + SPINE, 1, np.where(x > half - SPINE, 2, labels))
    if count == 3:
        labels = np.where(labels == 0, 3, labels)
    return np.where(is_inside, labels, 0)


FAMILIES = (spirals, stars, combs)

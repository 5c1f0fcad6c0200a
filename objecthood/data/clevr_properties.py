"""The 19 properties of a CLEVR object, the target of set prediction.

Locatello et al. 2020, section 4.2 and slot_attention/data.py of the reference: 3 coordinates scaled from
[-3, 3] to [0, 1], then one-hot size (2), material (2), shape (3), colour (8), then 1 for a real object; rows
beyond the scene's objects are zero.

Differences from the reference: the entries of each one-hot are in the order of CLEVR's generator
(clevr-dataset-gen, `properties.json`). TensorFlow Datasets, which the reference reads, has (small, large) and
(gray, blue, brown, yellow, red, green, purple, cyan). Losses and scores do not depend on the order, but
weights trained with one order give wrong names with the other.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

SIZES = ("large", "small")
MATERIALS = ("rubber", "metal")
SHAPES = ("cube", "sphere", "cylinder")
COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
NAMES = {"size": SIZES, "material": MATERIALS, "shape": SHAPES, "color": COLORS}
"""The one-hot groups in order, with CLEVR's names."""
MAX_OBJECTS = 10
NUM_PROPERTIES = 19
EXTENT = 3.0  # coordinates are in [-EXTENT, EXTENT]


def encode(
    coordinates: Float[np.ndarray, "objects 3"],
    classes: dict[str, Integer[np.ndarray, " objects"]],
) -> Float[np.ndarray, "10 19"]:
    """One scene's objects as rows of float32, in the order given.

    Args:
        coordinates: x, y, z in CLEVR's units.
        classes: for every group in `NAMES`, the index of each object's entry, from 0.

    Example:
        >>> ones = {group: np.array([1]) for group in NAMES}
        >>> rows = encode(np.array([[0.0, 3.0, -3.0]], np.float32), ones)
        >>> rows[0].astype(int).tolist(), float(rows[0, 0]), float(rows[1:].sum())
        ([0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], 0.5, 0.0)
    """
    count = len(coordinates)
    rows = np.zeros((MAX_OBJECTS, NUM_PROPERTIES), np.float32)
    rows[:count, :3] = (coordinates + np.float32(EXTENT)) / np.float32(2 * EXTENT)
    start = 3
    for group, names in NAMES.items():
        rows[np.arange(count), start + classes[group].astype(int)] = 1
        start += len(names)
    rows[:count, start] = 1
    return rows

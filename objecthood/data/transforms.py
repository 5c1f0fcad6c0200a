"""Crops and resizes of images and their label maps together, as the papers' own code does them.

`tf.image.resize` of TensorFlow 2, which the reference for Locatello et al. 2020 uses, does not antialias and
takes pixels as areas (half-pixel centres): bilinear for images, nearest for label maps.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

# Rows and columns of the 240 x 320 CLEVR image that stay: slot_attention/data.py of the reference, after
# Greff et al. 2019.
CLEVR_ROWS, CLEVR_COLUMNS = slice(29, 221), slice(64, 256)


def resize_bilinear(
    image: Float[Tensor, "batch 3 height width"], resolution: int
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """To a square of `resolution` pixels, without antialiasing: as `tf.image.resize`, and aliasing like it.

    Example:
        >>> resize_bilinear(torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2), 4)[0, 0, 0].tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    if image.shape[-2:] == (resolution, resolution):
        return image
    return F.interpolate(image, (resolution, resolution), mode="bilinear", align_corners=False)


def resize_nearest(
    labels: Integer[np.ndarray, "*batch height width"], resolution: int
) -> Integer[np.ndarray, "*batch new_height new_width"]:
    """To a square of `resolution` pixels: of every new pixel's centre, the label below it; the dtype stays.

    Example:
        >>> resize_nearest(np.array([[1, 2, 3, 4]]), 2).tolist()
        [[2, 4], [2, 4]]
    """
    height, width = labels.shape[-2:]
    if (height, width) == (resolution, resolution):
        return labels
    centres = 2 * np.arange(resolution) + 1
    rows, columns = (centres * side // (2 * resolution) for side in (height, width))
    return labels[..., rows[:, None], columns]


def resize_majority(
    labels: Integer[np.ndarray, "height width"], resolution: int
) -> Integer[np.ndarray, "new_height new_width"]:
    """To a square of `resolution` pixels: of every new pixel, the label that covers most of it.

    For label maps beside images that are averaged over area. At 2 to 1 the nearest label is that of a
    corner, a quarter of a new pixel off. Where two labels cover as much, the smaller one (background first).

    Example:
        >>> resize_majority(np.array([[0, 0, 3, 3, 3, 3]] * 6), 2).tolist()
        [[0, 3], [0, 3]]
    """
    if labels.shape == (resolution, resolution):
        return labels
    present = np.unique(labels)
    covered = torch.from_numpy(labels[None] == present[:, None, None]).float()
    share = F.interpolate(covered[None], (resolution, resolution), mode="area")[0]
    return present[share.argmax(dim=0).numpy()]


def central_square(height: int, width: int, share: float = 1.0) -> tuple[slice, slice]:
    """Rows and columns of the square in the middle whose side is `share` of the shorter side, rounded down.

    Example:
        >>> central_square(240, 320, share=0.8)
        (slice(24, 216, None), slice(64, 256, None))
    """
    side = int(share * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def as_images(pictures: Integer[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """8-bit images, 0..255, as the contract wants them: float32 in [0, 1], channels first."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float().div_(255)

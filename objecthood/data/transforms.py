"""Crop, resize and mirror images and label maps as the papers' code does.

`tf.image.resize` of TensorFlow 2, used by the reference for Locatello et al. 2020, has half-pixel centres
and no antialiasing: bilinear for images, nearest for label maps.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

# Crop of the 240 x 320 CLEVR image: slot_attention/data.py of the reference, after Greff et al. 2019.
CLEVR_ROWS, CLEVR_COLUMNS = slice(29, 221), slice(64, 256)


def resize_bilinear(
    image: Float[Tensor, "batch 3 height width"], resolution: int
) -> Float[Tensor, "batch 3 new_height new_width"]:
    """Resize to a square of `resolution` pixels without antialiasing, as `tf.image.resize`.

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
    """Resize to a square of `resolution` pixels with the nearest label; keeps the dtype.

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
    """Resize to a square of `resolution` pixels with the label that covers most of each pixel.

    It matches images resized by area averaging, where the nearest label would be off by a quarter pixel at a
    factor of 2. Ties go to the smaller label (background first).

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
    """Rows and columns of the central square with `share` of the shorter side, rounded down.

    Example:
        >>> central_square(240, 320, share=0.8)
        (slice(24, 216, None), slice(64, 256, None))
    """
    side = int(share * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def as_images(pixels: Integer[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """8-bit images as float32 in [0, 1], channels first."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)


def mirror(maps: Tensor, chosen: Bool[Tensor, " batch"], dim: int) -> Tensor:
    """A batch whose `chosen` members are flipped along `dim`.

    Example:
        >>> mirror(torch.tensor([[1, 2], [3, 4]]), torch.tensor([True, False]), dim=1).tolist()
        [[2, 1], [3, 4]]
    """
    shape = (-1, *[1] * (maps.ndim - 1))
    return torch.where(chosen.to(maps.device).view(shape), maps.flip(dim), maps)

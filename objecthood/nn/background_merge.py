"""Merge all background slots of an image into one.

A background of two colours is often split over two slots, each with a mask that extends across the image.
Merging assumes that objects do not extend that far, and is off by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from objecthood.nn.mask_moments import moments
from objecthood.nn.positions import coordinate_grid
from objecthood.runtime import renamed


def merge_background(
    masks: Float[Tensor, "batch slots height width"],
    appearance: Float[Tensor, "batch slots 3 height width"],
    max_object_extent: float = 0.25,
) -> tuple[Float[Tensor, "batch slots height width"], Float[Tensor, "batch slots 3 height width"]]:
    """Masks and appearance with all background slots merged into the one of largest mass.

    The extent of a mask is its spatial standard deviation: 0.41 of the image's side for the whole image,
    0.18 for a disc half as wide as the image, half the distance for two small separate objects. Slots of
    larger extent than `max_object_extent` are background. Merged slots get empty masks; the reconstruction
    does not change.

    Args:
        masks: alpha masks that sum to 1 over slots.
        appearance: decoded image of each slot, in any units.
        max_object_extent: largest extent of an object, in units of the image's side.

    Example:
        >>> stripes = (torch.arange(8) % 2).float().expand(8, 8)
        >>> masks = torch.stack([stripes, 1 - stripes])[None]
        >>> merged, _ = merge_background(masks, torch.rand(1, 2, 3, 8, 8))
        >>> merged.mean(dim=(0, 2, 3)).tolist()
        [1.0, 0.0]
    """
    height, width = masks.shape[2:]
    shape = moments(masks.flatten(2), coordinate_grid(height, width, masks.device).flatten(0, 1))
    mass = shape.mass.clamp_min(1e-9)
    variance = shape.second / mass - (shape.first / mass[..., None]).square().sum(dim=-1)
    is_background = (variance.clamp_min(0).sqrt() > max_object_extent) & (
        shape.mass > _MIN_AREA * height * width
    )
    heaviest = shape.mass.masked_fill(~is_background, -1).argmax(dim=1, keepdim=True)
    is_target = torch.zeros_like(is_background).scatter(1, heaviest, True) & is_background
    parts = masks * is_background[..., None, None]
    background = parts.sum(dim=1, keepdim=True)
    mean = (parts[:, :, None] * appearance).sum(dim=1, keepdim=True)
    mean = mean / background[:, :, None].clamp_min(1e-9)
    is_replaced = is_target[..., None, None, None] & (background > 1e-6)[:, :, None]
    merged = torch.where(is_target[..., None, None], background, masks - parts)
    return merged, torch.where(is_replaced, mean, appearance)


_MIN_AREA = 0.005
"""Share of the image below which a slot counts as empty: the tail of its mask has no meaningful extent."""


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

"""The ground of a scene as one thing, whatever its pattern.

Slots group by what they can paint, so that a ground of two colours is shared by two slots, each with a mask
that reaches across the whole image. Things do not: what lies everywhere is the ground. That is an
assumption about images, so it is asked for by name and changes nothing unasked.
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
    """Masks and appearance with all slots that reach across the image united in the heaviest of them.

    A mask's reach is the root of its variance in space: 0.41 of the image's side for the whole image,
    0.18 for a disc half as wide as the image, half the distance for two small things apart. Slots that
    reach further than `max_object_extent` are ground; the others of them are left with empty masks. What all
    slots paint together stays the same image.

    Args:
        masks: shares of every pixel that sum to 1 over slots, as a `Discovery` has them.
        appearance: what each slot paints, in any units.
        max_object_extent: the largest reach of a thing, in units of the image's side.

    Example:
        >>> stripes = (torch.arange(8) % 2).float().expand(8, 8)
        >>> masks = torch.stack([stripes, 1 - stripes])[None]
        >>> united, _ = merge_background(masks, torch.rand(1, 2, 3, 8, 8))
        >>> united.mean(dim=(0, 2, 3)).tolist()
        [1.0, 0.0]
    """
    height, width = masks.shape[2:]
    shape = moments(masks.flatten(2), coordinate_grid(height, width, masks.device).flatten(0, 1))
    mass = shape.mass.clamp_min(1e-9)
    variance = shape.second / mass - (shape.first / mass[..., None]).square().sum(dim=-1)
    is_ground = (variance.clamp_min(0).sqrt() > max_object_extent) & (shape.mass > _SEEN * height * width)
    heaviest = shape.mass.masked_fill(~is_ground, -1).argmax(dim=1, keepdim=True)
    is_home = torch.zeros_like(is_ground).scatter(1, heaviest, True) & is_ground
    of_ground = masks * is_ground[..., None, None]
    ground = of_ground.sum(dim=1, keepdim=True)
    painted = (of_ground[:, :, None] * appearance).sum(dim=1, keepdim=True)
    painted = painted / ground[:, :, None].clamp_min(1e-9)
    is_painted = is_home[..., None, None, None] & (ground > 1e-6)[:, :, None]
    united = torch.where(is_home[..., None, None], ground, masks - of_ground)
    return united, torch.where(is_painted, painted, appearance)


_SEEN = 0.005
"""Share of the image below which a slot is not seen: faint remains of a mask lie anywhere."""


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

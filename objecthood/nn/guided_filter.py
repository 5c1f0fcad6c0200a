"""Guided filter: align the edges of masks with an image.

He, Sun and Tang 2013, "Guided image filtering" (TPAMI), with a colour guide: in every window the filtered
mask is the least-squares affine function of the image's colours; a pixel takes the mean over its windows.

Difference: windows are cropped at the border of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIDE = 160
"""Side of a square guide in pixels; other guides have the same area. Larger ones were slower, not better."""
RADIUS = 12
SMOOTHNESS = 1e-3
"""Epsilon of He et al., for colours in [0, 1]."""


def guided_filter(
    guide: Float[Tensor, "3 height width"],
    masks: Float[Tensor, "masks height width"],
    radius: int = RADIUS,
    smoothness: float = SMOOTHNESS,
) -> Float[Tensor, "masks height width"]:
    """Masks filtered with `guide`, an image in [0, 1]. Masks that sum to 1 at each pixel still do.

    Example:
        >>> guide = torch.zeros(3, 16, 16)
        >>> guide[:, :, 8:] = 1
        >>> blurred = torch.linspace(0, 1, 16).expand(1, 16, 16)
        >>> edge = guided_filter(guide, blurred, radius=4)[0, 8]
        >>> bool(edge[8] - edge[7] > 0.3)
        True
    """
    guide, masks = guide.float(), masks.float()
    colour, mean = _mean(guide, radius), _mean(masks, radius)
    covariance = _mean((guide[:, None] * guide).flatten(0, 1), radius).unflatten(0, (3, 3))
    covariance = (covariance - colour[:, None] * colour).movedim((0, 1), (2, 3))
    inverse = _inverse(covariance + smoothness * torch.eye(3).to(covariance))
    shared = _mean((guide[:, None] * masks).flatten(0, 1), radius).unflatten(0, (3, -1))
    shared = shared - colour[:, None] * mean
    slope = torch.einsum("hwij,jmhw->imhw", inverse, shared)
    offset = mean - (slope * colour[:, None]).sum(dim=0)
    slope = _mean(slope.flatten(0, 1), radius).unflatten(0, (3, -1))
    return (slope * guide[:, None]).sum(dim=0) + _mean(offset, radius)


def guided_masks(
    masks: Float[Tensor, "slots rows columns"],
    image: Float[Tensor, "3 height width"],
    side: int = SIDE,
    radius: int = RADIUS,
) -> Float[Tensor, "slots guide_height guide_width"]:
    """Masks on a grid (sum 1 in each cell) to soft masks that follow the edges of an image, of the size of
    its guide, `side` x `side` pixels' area; not negative, sum near 1."""
    height, width = image.shape[1:]
    scale = side / (height * width) ** 0.5
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    guide = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    coarse = F.interpolate(masks[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    return guided_filter(guide, coarse, radius).clamp_min(0)


def masks_at_size(
    masks: Float[Tensor, "slots rows columns"],
    image: Float[Tensor, "3 height width"],
    side: int = SIDE,
    radius: int = RADIUS,
) -> Float[Tensor, "slots height width"]:
    """`guided_masks`, upsampled to the image's size (sum 1 at each pixel)."""
    fine = guided_masks(masks, image, side, radius)[None]
    fine = F.interpolate(fine, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
    return fine / fine.sum(dim=0, keepdim=True)


def _mean(planes: Float[Tensor, "planes height width"], radius: int) -> Tensor:
    """Mean over windows of 2 radius + 1 pixels a side, cropped at the border."""
    for dim in (1, 2):
        size = planes.shape[dim]
        index = torch.arange(size, device=planes.device)
        first, end = (index - radius).clamp_min(0), (index + radius + 1).clamp_max(size)
        sums = F.pad(planes.cumsum(dim), (0, 0, 1, 0) if dim == 1 else (1, 0))
        shape = (-1, 1) if dim == 1 else (-1,)
        planes = (sums.index_select(dim, end) - sums.index_select(dim, first)) / (end - first).view(shape)
    return planes


def _inverse(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Inverses of symmetric positive definite matrices by cofactors: ten times faster than LAPACK here."""
    first, second, third = matrices.unbind(dim=-1)
    cofactors = [torch.linalg.cross(*pair) for pair in ((second, third), (third, first), (first, second))]
    determinant = (first * cofactors[0]).sum(dim=-1)
    return torch.stack(cofactors, dim=-2) / determinant[..., None, None]

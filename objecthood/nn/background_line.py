"""The colours of a patterned background as a line: two colours and what lies between them.

Surfaces of an image form elongated clusters of colour (Omer and Werman, "Color Lines: Image Specific Color
Representation", CVPR 2004). A pattern mixes two colours, and light scales them, so its chromaticities lie on
a segment of a line. The segment is found by random sampling (Fischler and Bolles, "Random Sample Consensus",
1981): of the segments between two pixels, the one that most pixels are near, less a penalty of its length.

Difference from Omer and Werman: one line per image, in chromaticity instead of RGB, so that shading does not
count. It assumes that the background is the largest surface, and has no more than two colours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from objecthood.nn.precision import without_autocast

GAMMA, DARK = 2.2, 0.03
"""Exponent from stored values to light, and the light, in three channels together, below which chromaticity
fades."""
DEVIATION, LENGTH_PENALTY = 0.15, 0.05
"""Of the distance of background pixels from their segment, and for a segment of length 1; both in units of
`chromaticity`."""
SEGMENTS, PIXELS = 100, 512
"""Segments that are tried, and pixels that are counted."""


def chromaticity(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2 height width"]:
    """6 (red - green) / s and 6 (blue - (red + green) / 2) / s, with s the sum of the channels + 0.03, all in
    linear light; 0 for grey, at most about 6."""
    red, green, blue = images.float().clamp(0, 1).pow(GAMMA).unbind(dim=1)
    total = red + green + blue + DARK
    return torch.stack([6 * (red - green) / total, 6 * (blue - (red + green) / 2) / total], dim=1)


@torch.no_grad()
def background_line(
    images: Float[Tensor, "batch 3 height width"], seed: int = 0
) -> Float[Tensor, "batch 2 2"]:
    """Both ends of each image's segment, as chromaticities; `images` in [0, 1]. `seed` is that of the sampled
    pixels, the same in all images.

    Example:
        >>> images = torch.full((1, 3, 16, 16), 0.5)
        >>> images[:, 0, ::2], images[:, 2, 4:8, 4:8] = 0.9, 0.0  # stripes, and an object
        >>> ends = background_line(images)
        >>> distance = off_line(images, ends).norm(dim=1)[0]
        >>> distance[0, 0].item() < 0.01, distance[1, 0].item() < 0.01, distance[5, 5].item() > 1
        (True, True, True)
    """
    with without_autocast(images):
        points = chromaticity(images).flatten(2).transpose(1, 2)
        generator = torch.Generator().manual_seed(seed)
        number = min(PIXELS, points.shape[1])
        some = torch.randperm(points.shape[1], generator=generator)[:number].to(points.device)
        pair = torch.randint(number, (2, SEGMENTS), generator=generator).to(points.device)
        points = points[:, some]
        start, end = points[:, pair[0]], points[:, pair[1]]
        square = _offsets(points[:, None], start[:, :, None], end[:, :, None]).square().sum(dim=-1)
        near = torch.exp(-square / (2 * DEVIATION**2)).mean(dim=-1)
        best = (near - LENGTH_PENALTY * (end - start).norm(dim=-1)).argmax(dim=1)
        rows = torch.arange(len(points), device=points.device)
        return torch.stack([start[rows, best], end[rows, best]], dim=1)


def off_line(
    images: Float[Tensor, "batch 3 height width"], ends: Float[Tensor, "batch 2 2"]
) -> Float[Tensor, "batch 2 height width"]:
    """Chromaticity of each pixel less that of the nearest point of its image's segment."""
    points = chromaticity(images).flatten(2).transpose(1, 2)
    offsets = _offsets(points, ends[:, :1], ends[:, 1:])
    return offsets.transpose(1, 2).unflatten(-1, images.shape[2:])


def _offsets(
    points: Float[Tensor, "*#batch 2"], start: Float[Tensor, "*#batch 2"], end: Float[Tensor, "*#batch 2"]
) -> Float[Tensor, "*batch 2"]:
    """Points less the nearest point between `start` and `end`, which broadcast."""
    along, beyond = end - start, points - start
    share = (beyond * along).sum(dim=-1, keepdim=True) / (along.square().sum(dim=-1, keepdim=True) + 1e-9)
    return beyond - share.clamp(0, 1) * along

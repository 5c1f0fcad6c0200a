"""Input transforms: the paper's [-1, 1] units, or chromaticity, which removes shading.

A transform is applied to the image before the encoder, and to image and reconstruction before the loss:
`transform(image)`, `transform(reconstruction, image)`.

Illumination changes the brightness of a surface far more than its chromaticity (dichromatic reflection model,
Shafer 1985). A model that reconstructs brightness splits a sphere into its bright and its dark half, and the
background at highlights. Chromaticity is a variant, not part of the paper's method.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


def symmetric(
    image: Float[Tensor, "batch 3 height width"],
    reference: Float[Tensor, "batch 3 height width"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """[0, 1] to [-1, 1], as in the reference implementation; `reference` is ignored."""
    return image * 2 - 1


def opponent_chromaticity(
    image: Float[Tensor, "batch 3 height width"],
    reference: Float[Tensor, "batch 3 height width"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Relative luma of grey pixels, and two opponent chromaticities; about [-1.5, 1.5].

    With s = red + green + blue + 0.2: 2.5 (luma - background) exp(-(saturation / 0.2)^2),
    6 (red - green) / s and 6 (blue - (red + green) / 2) / s. Saturation is (max - min) / (max + 0.15);
    background is the `background_luma` of `reference` (default: the image). Luma is kept for grey pixels
    only, as grey objects on a grey background differ in nothing else.
    """
    background = background_luma(image if reference is None else reference)
    image = image.clamp(0, 1)
    red, green, blue = image.unbind(dim=1)
    total = red + green + blue + 0.2
    grey = 2.5 * (luma(image) - background) * torch.exp(-((saturation(image) / 0.2) ** 2))
    return torch.stack([grey, 6 * (red - green) / total, 6 * (blue - (red + green) / 2) / total], dim=1)


def color_and_chromaticity(
    image: Float[Tensor, "batch 3 height width"],
    reference: Float[Tensor, "batch 3 height width"] | None = None,
) -> Float[Tensor, "batch 6 height width"]:
    """`opponent_chromaticity`, then `symmetric`.

    With unconditioned masks, shading no longer splits objects and separates objects of the same colour.
    """
    return torch.cat([opponent_chromaticity(image, reference), symmetric(image)], dim=1)


@torch.no_grad()
def background_luma(
    image: Float[Tensor, "batch 3 height width"], rounds: int = 3
) -> Float[Tensor, "batch height width"]:
    """Luma of a grey background under smooth light: a quadratic in the coordinates, fitted to grey pixels.

    Least squares over unsaturated pixels, reweighted in `rounds` by a Gaussian of the residual (deviation
    0.06 / sqrt(2)), so grey objects and shadows have little weight. No gradient.

    Example:
        >>> light = torch.linspace(0.3, 0.6, 16).expand(1, 3, 16, 16).clone()
        >>> light[..., 4:7, 4:7] = 0.1
        >>> (background_luma(light)[0, 5] - light[0, 0, 0]).abs().max().item() < 0.01
        True
    """
    image = image.float().clamp(0, 1)
    bright = luma(image).flatten(1)
    is_grey = torch.exp(-((saturation(image) / 0.1) ** 2)).flatten(1)
    terms = quadratic_terms(*image.shape[-2:]).to(image)
    weight, ridge = is_grey, 1e-3 * torch.eye(6, device=image.device)
    for _ in range(rounds):
        weighted = (terms * weight[..., None]).transpose(1, 2)
        factors = torch.linalg.solve(weighted @ terms + ridge, weighted @ bright[..., None])
        background = (terms @ factors)[..., 0]
        weight = is_grey * torch.exp(-(((bright - background) / 0.06) ** 2))
    return background.view_as(image[:, 0])


@cache
def quadratic_terms(height: int, width: int) -> Float[Tensor, "pixels 6"]:
    """1, x, y, x^2, xy and y^2 of every pixel, x and y in [-1, 1]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).flatten(0, 1)


def luma(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width"]:
    """Brightness by ITU-R BT.601."""
    red, green, blue = image.unbind(dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def saturation(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width"]:
    """(max - min) / (max + 0.15) over channels: 0 for grey, small for dark pixels, whose colour is noise."""
    largest, smallest = image.amax(dim=1), image.amin(dim=1)
    return (largest - smallest) / (largest + 0.15)

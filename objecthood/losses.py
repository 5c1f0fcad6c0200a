"""What training minimises: pure functions of model outputs and targets."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from objecthood.nn.positions import coordinate_grid


def reconstruction_error(
    reconstruction: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """Mean squared error over pixels, channels and batch, in the paper's units: pictures in [-1, 1].

    Both arguments are in [0, 1] units; a difference counts twice there, its square four times. Locatello et
    al. 2020 (arXiv 2006.15055), section 3.1.
    """
    return 4 * (reconstruction - images).square().mean()


def spread(masks: Float[Tensor, "batch slots height width"]) -> Float[Tensor, ""]:
    """Mean over pixels of the masks' squared distance to their own centroids, the heaviest mask left out.

    The picture's side counts 1. Zero for masks of a single pixel; a mask that holds two distant things pays
    for it, one that holds the background (the heaviest) does not. Not part of the paper's method.
    """
    height, width = masks.shape[-2:]
    places = coordinate_grid(height, width, masks.device).flatten(0, 1)
    flat = masks.flatten(2)
    mass = flat.sum(dim=-1)
    squares = places.square().sum(dim=-1)
    # Sum of m |g - c|^2 = sum of m |g|^2 - M |c|^2, with M the mass and c the centroid.
    moments = flat @ squares - (flat @ places).square().sum(dim=-1) / mass.clamp_min(1e-6)
    heaviest = mass.argmax(dim=1, keepdim=True)
    return moments.scatter(1, heaviest, 0.0).sum(dim=1).mean() / len(places)

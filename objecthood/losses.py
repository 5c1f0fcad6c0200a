"""What training minimises: pure functions of model outputs and targets."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def reconstruction_error(
    reconstruction: Float[Tensor, "batch 3 height width"], images: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """Mean squared error over pixels, channels and batch, in the paper's units: pictures in [-1, 1].

    Both arguments are in [0, 1] units; a difference counts twice there, its square four times. Locatello et
    al. 2020 (arXiv 2006.15055), section 3.1.
    """
    return 4 * (reconstruction - images).square().mean()

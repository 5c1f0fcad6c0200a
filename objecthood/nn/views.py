"""What of a picture matters: the paper's [-1, 1] units, or colours from which shading is taken out.

A view is applied to the picture before the encoder, and to picture and reconstruction before they are
compared.

Illumination changes how bright a surface is far more than its chromaticity (the dichromatic reflection model,
Shafer 1985): a model that must reproduce every brightness cuts a sphere into its light and its dark half.
Variant, not part of the paper's method.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def symmetric(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """[0, 1] to [-1, 1], as in the reference."""
    return image * 2 - 1


def shading_free(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Two opponent chromaticities, and luma of grey places only, each about [-1, 1] for pictures in [0, 1].

    With s = red + green + blue + 0.2: 6 (red - green) / s, 6 (blue - (red + green) / 2) / s, and
    2.4 (luma - 0.45) exp(-(saturation / 0.2)^2), saturation = (max - min) / (max + 0.15). Grey things on grey
    ground have nothing but luma to tell them; coloured things have no luma to be cut by.
    """
    image = image.clamp(0, 1)
    red, green, blue = image.unbind(dim=1)
    total = red + green + blue + 0.2
    largest, smallest = image.amax(dim=1), image.amin(dim=1)
    saturation = (largest - smallest) / (largest + 0.15)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    grey = 2.4 * (luma - 0.45) * torch.exp(-((saturation / 0.2) ** 2))
    return torch.stack([grey, 6 * (red - green) / total, 6 * (blue - (red + green) / 2) / total], dim=1)

"""Texture layers: an image as a sum of textures, each visible where its mask is (`nn.texture_grouping`).

For images whose surfaces differ in pattern but not in colour. A pattern is one plane wave, so it must repeat
without distortion; all surfaces share two tones.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from objecthood.models.base import SlotModel, SlotOutput
from objecthood.nn.encoders import check_images
from objecthood.nn.precision import check_float32
from objecthood.nn.texture_grouping import TextureGrouping


class TextureLayers(SlotModel):
    """Images to slots that are textures; deterministic.

    Args:
        resolution: side of the images in pixels.
        num_slots, num_frequencies: as in `TextureGrouping`.

    Example:
        >>> import torch
        >>> output = TextureLayers(resolution=32, num_slots=3).segment(torch.rand(2, 3, 32, 32))
        >>> output.slots.shape, output.masks.shape
        (torch.Size([2, 3, 4]), torch.Size([2, 3, 32, 32]))
    """

    grouping: TextureGrouping  # type: ignore[assignment]

    def __init__(self, resolution: int = 64, num_slots: int = 6, num_frequencies: int = 4):
        super().__init__()
        self.image_size = self.feature_grid = (resolution, resolution)
        self.grouping = TextureGrouping(resolution, num_slots, num_frequencies=num_frequencies)

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Tensor | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`; slots are waves, attention is the masks of every iteration. `restarts` and
        `noise` are ignored, beyond the number of slots that `noise` has."""
        check_images(images, self.resolution)
        check_float32(self, images)
        if num_slots is None and noise is not None:
            num_slots = noise.shape[-2]
        grey = standardised(images)
        waves, masks = self.grouping(grey, num_slots, iterations)
        # Colours are linear in grey: every channel by its regression on it.
        mean = images.mean(dim=(2, 3), keepdim=True)
        slope = (images * grey[:, None]).mean(dim=(2, 3), keepdim=True)
        appearance = mean[:, None] + slope[:, None] * self.grouping.layers(waves)[:, :, None]
        reconstruction = (masks[:, -1, :, None] * appearance).sum(dim=1)
        return SlotOutput(waves, masks, masks[:, -1], reconstruction, appearance)

    forward = segment

    def loss(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        """Training loss: that of the grouping."""
        return self.grouping.loss(standardised(images))


def standardised(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch height width"]:
    """Grey images with mean 0 and deviation 1."""
    grey = images.mean(dim=1)
    grey = grey - grey.mean(dim=(1, 2), keepdim=True)
    return grey / (grey.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-6)

"""What models share that segment photographs of any size and aspect ratio, one at a time."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood.models.base import SlotModel, SlotOutput
from objecthood.models.placement import Fit, Placement, place
from objecthood.nn.encoders import check_images
from objecthood.nn.guided_filter import masks_at_size

LONGEST = 640
"""Largest side of preprocessed images in pixels."""


@dataclass(frozen=True)
class PhotographOutput:
    """Segments of one image.

    Attributes:
        slots: float32 [slots, feature_dim], of unit length.
        masks: float32 [slots, height, width] in [0, 1], of the image's own size; sum 1 at each pixel.
        attention: float32 [slots, rows, columns] in [0, 1], on the grid; sum 1 in each cell.
    """

    slots: Float[Tensor, "slots feature_dim"]
    masks: Float[Tensor, "slots height width"]
    attention: Float[Tensor, "slots rows columns"]


class PhotographModel(SlotModel):
    """Base class of models that segment images of any size and aspect ratio, one at a time, into a number of
    segments that they find. Deterministic."""

    any_size = True
    iterations = 1

    @abc.abstractmethod
    def group(self, image: Tensor, num_segments: int | None = None) -> tuple[Tensor, Tensor]:
        """Slots [slots, feature_dim] and attention [slots, rows, columns], as `divide` has them."""

    @torch.no_grad()
    def divide(self, image: Tensor, num_segments: int | None = None) -> PhotographOutput:
        """Slots, soft masks of the image's size and attention on the grid.

        Args:
            image: [3, height, width] in [0, 1].
            num_segments: number of segments, at least 1; None: found.

        Raises:
            ValueError: `image` is not one colour image of finite values, or `num_segments` is below 1.
        """
        check_colour_image(image)
        return at_size(self.group(image, num_segments), image)

    def preprocess(
        self, image: UInt8[np.ndarray, "height width 3"], fit: Fit | None = None
    ) -> tuple[Float[Tensor, "3 rows columns"], Placement]:
        """The whole image at its aspect ratio, with sides of at most `LONGEST` pixels; "crop" and "squash"
        give a square."""
        size = self.image_size
        if fit in (None, "pad"):
            height, width = image.shape[:2]
            scale, fit = min(1.0, LONGEST / max(height, width)), "squash"  # to a size of its aspect ratio
            size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels, placement = place(image, size, fit)
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255), placement

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Tensor | None = None,
    ) -> SlotOutput:
        """Segments of `images` in [0, 1], of any size; `iterations`, `restarts` and `noise` are ignored.

        Without `num_slots`, the number of slots is the largest number of segments of an image; slots, masks
        and attention of other images are padded with 0.
        """
        check_images(images, None)
        return stacked([self.divide(image, num_slots) for image in images])

    forward = segment


def at_size(grouped: tuple[Tensor, Tensor], image: Tensor) -> PhotographOutput:
    """Slots and attention (`PhotographModel.group`) with masks of the image's size."""
    slots, attention = grouped
    return PhotographOutput(slots, masks_at_size(attention, image), attention)


def stacked(found: Sequence[PhotographOutput]) -> SlotOutput:
    """Outputs of several images as one; slots, masks and attention are padded with 0 to the largest number of
    slots."""
    largest = max(len(one.slots) for one in found)

    def padded(name: str) -> Tensor:
        parts = [getattr(one, name) for one in found]
        return torch.stack(
            [F.pad(part, (0, 0) * (part.ndim - 1) + (0, largest - len(part))) for part in parts]
        )

    return SlotOutput(padded("slots"), padded("attention")[:, None], padded("masks"))


def check_colour_image(image: Tensor) -> None:
    """ValueError unless `image` is one colour image of finite values."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"`image` {list(image.shape)} must be one colour image [3, height, width]")
    if broken := int((~image.isfinite()).sum()):
        raise ValueError(
            f"`image` has {broken} values that are NaN or infinite; it must be in [0, 1]: replace them, for "
            "example with torch.nan_to_num"
        )

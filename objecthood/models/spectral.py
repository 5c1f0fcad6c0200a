"""Objects of a photograph without learning to group: frozen features, normalised cuts, edges of the image.

The backbone (`nn.backbones`) learned from class labels of ImageNet; the grouping (`nn.consensus_cut`,
`nn.guided_filter`) learned nothing. A slot is the mean feature of its segment, of unit length: segments of
one class in two photographs have near slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood.models.base import SlotModel, SlotOutput
from objecthood.models.placement import Fit, Placement, place
from objecthood.nn.backbones import EfficientNetLite0
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.guided_filter import masks_at_size

LONGEST = 640
"""Pixels of the longer side of what `preprocess` gives; larger images are divided at this size."""


@dataclass(frozen=True)
class SpectralOutput:
    """Segments of one image.

    Attributes:
        slots: float32 [slots, feature_dim], of unit length.
        masks: float32 [slots, height, width] in [0, 1], of the image's own size; sum 1 at each pixel.
        attention: float32 [slots, rows, columns] in [0, 1], on the grid; sum 1 in each cell.
    """

    slots: Float[Tensor, "slots feature_dim"]
    masks: Float[Tensor, "slots height width"]
    attention: Float[Tensor, "slots rows columns"]


class SpectralSegmenter(SlotModel):
    """Divides images into as many segments as each has; deterministic, and of any size and aspect ratio.

    Args:
        backbone: frozen features, `EfficientNetLite0.bundled()` by default.
        cut: what divides the embeddings (`embed`); `ConsensusCut(num_segments=K)` gives K segments.
        sides: the backbone sees the image at each of these sizes, the finest first: resized to about side x
            side pixels of area, its aspect ratio kept to within half a grid cell.

    Example:
        >>> output = SpectralSegmenter(sides=(128,)).divide(torch.rand(3, 60, 90))
        >>> output.masks.shape[1:], output.attention.shape[1:]
        (torch.Size([60, 90]), torch.Size([7, 10]))
    """

    any_size = True
    num_slots = 14  # about as many segments as photographs have; `segment` finds how many
    iterations = 1

    def __init__(
        self,
        backbone: EfficientNetLite0 | None = None,
        cut: ConsensusCut | None = None,
        sides: tuple[int, ...] = (448, 320),
    ):
        super().__init__()
        if not sides or list(sides) != sorted(sides, reverse=True) or sides[-1] < 1:
            raise ValueError(f"`sides` (={sides}) must fall, and the last must be at least 1 pixel")
        self.backbone = EfficientNetLite0.bundled() if backbone is None else backbone
        self.cut = ConsensusCut() if cut is None else cut
        self.sides = tuple(sides)
        self.image_size = (sides[0], sides[0])
        self.feature_grid = (sides[0] // self.backbone.stride,) * 2

    @property
    def slot_dim(self) -> int:
        """Channels of the backbone's features."""
        return self.backbone.feature_dim

    def preprocess(
        self, image: UInt8[np.ndarray, "height width 3"], fit: Fit | None = None
    ) -> tuple[Float[Tensor, "3 rows columns"], Placement]:
        """The whole image at its own aspect ratio, its longer side at most `LONGEST` pixels; "crop" and
        "squash" give a square."""
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
        """Segments of `images` in [0, 1], of any size. The number of slots is that of the image with most
        segments, unless given; masks, attention and slots beyond an image's own are 0. There are no
        iterations, restarts or noise."""
        found = [self.divide(image, num_slots) for image in images]
        most = max(len(one.slots) for one in found)

        def together(name: str) -> Tensor:
            parts = [getattr(one, name) for one in found]
            return torch.stack(
                [F.pad(part, (0, 0) * (part.ndim - 1) + (0, most - len(part))) for part in parts]
            )

        return SlotOutput(together("slots"), together("attention")[:, None], together("masks"))

    def working_size(self, height: int, width: int, side: int) -> tuple[int, int]:
        """Height and width in pixels at which the backbone sees an image of `height` x `width`."""
        scale, stride = side / (height * width) ** 0.5, self.backbone.stride
        rows, columns = (max(round(size * scale / stride), 1) for size in (height, width))
        return rows * stride, columns * stride

    @torch.no_grad()
    def embed(self, image: Float[Tensor, "3 height width"]) -> list[Float[Tensor, "rows columns _"]]:
        """Unit vectors of an image in [0, 1]: of the finest scale, and, of several, of all together.

        The coarser scales are enlarged to the finest grid.
        """
        scales: list[Tensor] = []
        for side in self.sides:
            size = self.working_size(image.shape[1], image.shape[2], side)
            seen = F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True).clamp(0, 1)
            found = self.backbone.normalise(self.backbone(seen)).movedim(-1, 1)
            if scales:
                found = F.interpolate(found, size=scales[0].shape[:2], mode="bilinear", align_corners=False)
            scales.append(F.normalize(found[0].movedim(0, -1), dim=-1))
        together = torch.cat(scales, dim=-1) / len(scales) ** 0.5
        return [scales[0], together] if len(scales) > 1 else scales

    @torch.no_grad()
    def divide(self, image: Tensor, num_segments: int | None = None) -> SpectralOutput:
        """Slots, soft masks of the image's size and attention on the grid, of [3, height, width] in [0, 1].

        `num_segments` is the cut's own unless given.

        Raises:
            ValueError: not one colour image.
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"`image` {list(image.shape)} must be one colour image [3, height, width]")
        cut = self.cut if num_segments is None else replace(self.cut, num_segments=num_segments)
        found = cut(self.embed(image))
        return SpectralOutput(found.slots, masks_at_size(found.attention, image), found.attention)

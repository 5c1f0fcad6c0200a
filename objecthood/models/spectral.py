"""Objects of a photograph without learning to group: frozen features, a normalised cut, edges of the image.

The backbone (`nn.backbones`) learned from class labels of ImageNet; the grouping (`nn.normalised_cut`,
`nn.guided_filter`) learned nothing. A slot is the mean feature of its segment, of unit length: segments of
one class in two photographs have near slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.backbones import EfficientNetLite0
from objecthood.nn.guided_filter import masks_at_size
from objecthood.nn.normalised_cut import NormalisedCut


@dataclass(frozen=True)
class SpectralOutput:
    """Segments of one image.

    Attributes:
        slots: float32 [slots, feature_dim], of unit length.
        masks: float32 [slots, height, width] in [0, 1], of the image's own size; sum 1 at each pixel.
        attention: float32 [slots, rows, columns]: 1 in the grid cells of a segment, 0 elsewhere.
    """

    slots: Float[Tensor, "slots feature_dim"]
    masks: Float[Tensor, "slots height width"]
    attention: Float[Tensor, "slots rows columns"]


class SpectralSegmenter(nn.Module):
    """Divides one image at a time; deterministic.

    Args:
        backbone: frozen features, `EfficientNetLite0.bundled()` by default.
        cut: its settings.
        side: the backbone sees the image resized to about `side` x `side` pixels of area, its aspect ratio
            kept to within half a grid cell.

    Example:
        >>> output = SpectralSegmenter(side=128).segment(torch.rand(3, 60, 90))
        >>> output.masks.shape[1:], output.attention.shape[1:]
        (torch.Size([60, 90]), torch.Size([7, 10]))
    """

    def __init__(
        self,
        backbone: EfficientNetLite0 | None = None,
        cut: NormalisedCut | None = None,
        side: int = 448,
    ):
        super().__init__()
        self.backbone = EfficientNetLite0.bundled() if backbone is None else backbone
        self.cut = NormalisedCut() if cut is None else cut
        self.side = side

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels at which the backbone sees an image of `height` x `width`."""
        scale, stride = self.side / (height * width) ** 0.5, self.backbone.stride
        rows, columns = (max(round(size * scale / stride), 1) for size in (height, width))
        return rows * stride, columns * stride

    @torch.no_grad()
    def embed(self, image: Float[Tensor, "3 height width"]) -> Float[Tensor, "rows columns feature_dim"]:
        """Unit vectors on the grid, of an image in [0, 1]."""
        size = self.working_size(*image.shape[1:])
        seen = F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True).clamp(0, 1)
        return self.backbone.normalise(self.backbone(seen))[0]

    @torch.no_grad()
    def segment(self, image: Tensor) -> SpectralOutput:
        """Slots, soft masks of the image's size and attention on the grid, of [3, height, width] in [0, 1].

        Raises:
            ValueError: not one colour image.
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"`image` {list(image.shape)} must be one colour image [3, height, width]")
        found = self.cut(self.embed(image))
        return SpectralOutput(found.slots, masks_at_size(found.attention, image), found.attention)

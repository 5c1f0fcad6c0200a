"""Objects of a photograph without learning to group: frozen features, normalised cuts, edges of the image.

The backbone (`nn.backbones`) learned from class labels of ImageNet; the grouping (`nn.consensus_cut`,
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
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.guided_filter import masks_at_size


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


class SpectralSegmenter(nn.Module):
    """Divides one image at a time, into as many segments as it has; deterministic.

    Args:
        backbone: frozen features, `EfficientNetLite0.bundled()` by default.
        cut: what divides the embeddings (`embed`); `ConsensusCut(num_segments=K)` gives K segments.
        sides: the backbone sees the image at each of these sizes, the finest first: resized to about side x
            side pixels of area, its aspect ratio kept to within half a grid cell.

    Example:
        >>> output = SpectralSegmenter(sides=(128,)).segment(torch.rand(3, 60, 90))
        >>> output.masks.shape[1:], output.attention.shape[1:]
        (torch.Size([60, 90]), torch.Size([7, 10]))
    """

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
    def segment(self, image: Tensor) -> SpectralOutput:
        """Slots, soft masks of the image's size and attention on the grid, of [3, height, width] in [0, 1].

        Raises:
            ValueError: not one colour image.
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"`image` {list(image.shape)} must be one colour image [3, height, width]")
        found = self.cut(self.embed(image))
        return SpectralOutput(found.slots, masks_at_size(found.attention, image), found.attention)

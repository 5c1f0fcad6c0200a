"""U-Net: a convolutional encoder and decoder with skip connections.

Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015
(arXiv 1505.04597). Differences: group norm, SiLU, strided convolutions in place of pooling, one convolution a
level in the decoder and at full resolution, far fewer channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import zero

GROUPS = 4


class UNet(nn.Module):
    """Images to maps of the same size.

    Args:
        in_channels, out_channels: of the images and the maps; outputs are 0 at the start.
        channels: of every level, multiples of 4; each level after the first has half the side of the one
            before, so sides must be multiples of 2 ** (levels - 1).

    Example:
        >>> UNet(3, 2, channels=(8, 16))(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 2, 32, 48])
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int] = (12, 32, 48, 64, 96)):
        super().__init__()
        sizes = [in_channels, *channels]
        self.down = nn.ModuleList(
            nn.Sequential(*block(before, size, 2 if level else 1), *(block(size, size) if level else []))
            for level, (before, size) in enumerate(zip(sizes[:-1], channels, strict=True))
        )
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(deeper, size, 1) for deeper, size in pairs)
        self.up = nn.ModuleList(nn.Sequential(*block(2 * size, size)) for _, size in pairs)
        self.head = zero(nn.Conv2d(channels[0], out_channels, 1))

    def forward(
        self, images: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The maps of `images`."""
        maps, skipped = images.contiguous(memory_format=torch.channels_last), []
        for down in self.down:
            maps = down(maps)
            skipped.append(maps)
        for reduce, up, skip in zip(self.reduce, self.up, skipped[-2::-1], strict=True):
            enlarged = F.interpolate(reduce(maps), scale_factor=2.0, mode="nearest")
            maps = up(torch.cat([enlarged, skip], dim=1))
        result: Tensor = self.head(maps)
        return result


def block(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    """Convolution of 3 x 3, group norm, SiLU."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
    return [convolution, nn.GroupNorm(GROUPS, out_channels), nn.SiLU()]

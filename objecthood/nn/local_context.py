"""Convolutions between the projection of features and the slots: each position sees its surroundings.

Slots that learn the segments of normalised cuts need them: a cut depends on affinities across the image,
which one position does not have (results/photographs-tries.md, "Slots alone"). Blocks are depthwise separable
(Chollet 2017, arXiv 1610.02357) and residual; each starts as the identity.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import zero


class LocalContext(nn.Module):
    """Residual blocks on a grid of features.

    Args:
        dim: size of a feature.
        blocks: how many; each widens the view by `kernel` - 1 positions. 0: the identity.
        kernel: side of the depthwise convolutions, odd.

    Example:
        >>> import torch
        >>> features = torch.randn(2, 5, 7, 8)
        >>> bool((LocalContext(dim=8, blocks=2)(features) == features).all())
        True
    """

    def __init__(self, dim: int, blocks: int, kernel: int = 5):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim),
                nn.Conv2d(dim, 2 * dim, 1),
                nn.ReLU(),
                zero(nn.Conv2d(2 * dim, dim, 1)),
            )
            for _ in range(blocks)
        )

    def forward(
        self, features: Float[Tensor, "batch rows columns dim"]
    ) -> Float[Tensor, "batch rows columns dim"]:
        """Features that know their surroundings."""
        maps = features.movedim(-1, 1)
        for block in self.blocks:
            maps = maps + block(maps)
        return maps.movedim(1, -1)

"""Slots to frozen features: every patch by an MLP of slot and position.

Seitzer et al. 2023, "Bridging the Gap to Real-World Object-Centric Learning" (DINOSAUR, arXiv 2209.14860),
appendix: a slot is copied to every patch, a learned position is added, and a small MLP gives a feature and a
mask logit; masks are the softmax over slots, and the reconstruction is the masks' mean.

Differences: none in the result. The first layer is computed of slots and positions apart and then added, the
last one after the mean over slots: both are linear, so that this equals the plain order to rounding, at a
fraction of the cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FeatureReconstruction(NamedTuple):
    """What slots make of the features together."""

    features: Float[Tensor, "batch rows columns feature_dim"]
    masks: Float[Tensor, "batch slots rows columns"]
    """Which slot decodes which patch; sums to 1 over slots."""


class MLPFeatureDecoder(nn.Module):
    """The MLP decoder.

    Args:
        slot_dim: size of a slot.
        grid: rows and columns of the features.
        feature_dim: size of a feature.
        hidden_dim: width of the hidden layers (paper: 2048 for photographs, 1024 for MOVi).
        layers: number of hidden layers (paper: 3).

    Example:
        >>> decode = MLPFeatureDecoder(slot_dim=16, grid=(3, 4), feature_dim=24, hidden_dim=32)
        >>> decode(torch.randn(2, 5, 16)).features.shape
        torch.Size([2, 3, 4, 24])
    """

    def __init__(
        self,
        slot_dim: int,
        grid: tuple[int, int],
        feature_dim: int,
        hidden_dim: int = 2048,
        layers: int = 3,
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(f"`layers` (={layers}) must be at least 1")
        self.grid = grid
        self.positions = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], slot_dim))
        self.first = without_bias(nn.Linear(slot_dim, hidden_dim))
        self.hidden = nn.ModuleList(
            without_bias(nn.Linear(hidden_dim, hidden_dim)) for _ in range(layers - 1)
        )
        self.to_feature = without_bias(nn.Linear(hidden_dim, feature_dim))
        self.to_mask = without_bias(nn.Linear(hidden_dim, 1))

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        target: Tensor | None = None,
        order: int | None = None,
    ) -> FeatureReconstruction:
        """Features and masks; `target` and `order`, which other decoders take, are not used."""
        positions = nn.functional.linear(self.positions, self.first.weight)
        hidden = (self.first(slots)[:, :, None] + positions).relu()
        for layer in self.hidden:
            hidden = layer(hidden).relu()
        masks = self.to_mask(hidden).softmax(dim=1)
        features = self.to_feature((masks * hidden).sum(dim=1))
        return FeatureReconstruction(
            features.unflatten(1, self.grid), masks.squeeze(-1).unflatten(-1, self.grid)
        )


def without_bias(layer: nn.Linear) -> nn.Linear:
    """The layer, its bias starting at 0."""
    nn.init.zeros_(layer.bias)
    return layer

"""Slots to frozen features: every patch by an MLP of slot and position, or of a mixture of the slots.

Seitzer et al. 2023, "Bridging the Gap to Real-World Object-Centric Learning" (DINOSAUR, arXiv 2209.14860),
appendix: a slot is copied to every patch, a learned position is added, and a small MLP gives a feature and a
mask logit; masks are the softmax over slots, and the reconstruction is the masks' mean.

Differences: none in the result. The first layer is computed of slots and positions apart and then added, the
last one after the mean over slots: both are linear, so that this equals the plain order to rounding, at a
fraction of the cost.

The slot mixer (Sajjadi et al. 2022, "Object Scene Representation Transformer", arXiv 2206.06922) decodes a
patch once, not once for each slot: a query of the patch attends to the slots, and an MLP decodes their mean,
weighted by that attention. Layer norms, positions and the attention before the weights are VideoSAUR's
(Zadaianchuk et al. 2023, arXiv 2306.04829).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.dynamics import TransformerBlock
from objecthood.nn.initialization import glorot


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
        attention_conditioned: whether the log of the attention is added to the mask logits (paper: no).

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
        attention_conditioned: bool = False,
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(f"`layers` (={layers}) must be at least 1")
        self.grid, self.attention_conditioned = grid, attention_conditioned
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
        attention: Float[Tensor, "batch slots rows columns"] | None = None,
    ) -> FeatureReconstruction:
        """Features and masks; `target` and `order`, which other decoders take, are not used, nor is
        `attention` unless masks are conditioned on it."""
        positions = nn.functional.linear(self.positions, self.first.weight)
        hidden = (self.first(slots)[:, :, None] + positions).relu()
        for layer in self.hidden:
            hidden = layer(hidden).relu()
        logits = self.to_mask(hidden)
        if self.attention_conditioned and attention is not None:
            logits = logits + attention.flatten(2)[..., None].clamp_min(1e-6).log()
        masks = logits.softmax(dim=1)
        features = self.to_feature((masks * hidden).sum(dim=1))
        return FeatureReconstruction(
            features.unflatten(1, self.grid), masks.squeeze(-1).unflatten(-1, self.grid)
        )


class SlotMixerDecoder(nn.Module):
    """The slot mixer.

    Args:
        slot_dim: size of a slot.
        grid: rows and columns of the features.
        feature_dim: size of a feature.
        hidden_dim: width of the MLP (VideoSAUR: 1024).
        layers: number of its hidden layers (VideoSAUR: 3 on YouTube-VIS, 4 on MOVi).
        blocks: transformer blocks that attend to the slots (VideoSAUR: 3 on YouTube-VIS, 2 on MOVi).
        heads: of their attention (VideoSAUR: 4); a divisor of `slot_dim`.

    Example:
        >>> decode = SlotMixerDecoder(slot_dim=16, grid=(3, 4), feature_dim=24, hidden_dim=32)
        >>> found = decode(torch.randn(2, 5, 16))
        >>> found.features.shape, found.masks.shape
        (torch.Size([2, 3, 4, 24]), torch.Size([2, 5, 3, 4]))
    """

    def __init__(
        self,
        slot_dim: int,
        grid: tuple[int, int],
        feature_dim: int,
        hidden_dim: int = 1024,
        layers: int = 3,
        blocks: int = 3,
        heads: int = 4,
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(f"`layers` (={layers}) must be at least 1")
        self.grid = grid
        self.positions = nn.Parameter(slot_dim**-0.5 * torch.randn(grid[0] * grid[1], slot_dim))
        self.norm_memory, self.norm_query, self.norm_key = (nn.LayerNorm(slot_dim) for _ in range(3))
        self.blocks = nn.ModuleList(
            TransformerBlock(slot_dim, heads, 4 * slot_dim, norm_epsilon=1e-5) for _ in range(blocks)
        )
        self.to_query, self.to_key = (glorot(nn.Linear(slot_dim, slot_dim, bias=False)) for _ in range(2))
        widths = [slot_dim, *[hidden_dim] * layers]
        self.hidden = nn.ModuleList(without_bias(nn.Linear(*pair)) for pair in itertools.pairwise(widths))
        self.to_feature = glorot(nn.Linear(hidden_dim, feature_dim))

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        target: Tensor | None = None,
        order: int | None = None,
        attention: Tensor | None = None,
    ) -> FeatureReconstruction:
        """Features, and the weights of the slots as masks; other arguments, which other decoders take, are
        not used."""
        positions = self.positions.expand(slots.shape[0], -1, -1)
        queries, memory = positions, self.norm_memory(slots)
        for block in self.blocks:
            queries = block(queries, memory)
        query, key = self.to_query(self.norm_query(queries)), self.to_key(self.norm_key(slots))
        weights = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        hidden = weights @ slots + positions
        for layer in self.hidden:
            hidden = layer(hidden).relu()
        return FeatureReconstruction(
            self.to_feature(hidden).unflatten(1, self.grid),
            weights.transpose(1, 2).unflatten(-1, self.grid),
        )


def without_bias(layer: nn.Linear) -> nn.Linear:
    """The layer, its bias starting at 0."""
    nn.init.zeros_(layer.bias)
    return layer

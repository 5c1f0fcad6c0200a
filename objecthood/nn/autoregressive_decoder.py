"""Slots to frozen features, patch by patch: a transformer that sees the slots and the patches before.

Seitzer et al. 2023 (DINOSAUR, arXiv 2209.14860), after SLATE (Singh et al. 2022, arXiv 2110.11405): in
training and in evaluation the true features of earlier patches are the input (teacher forcing), and a causal
mask hides the others. Which slot a patch attends to in the last block is its mask.

Kakogeorgiou et al. 2024, "SPOT" (arXiv 2312.00648), section 3.3: with one order of patches the decoder comes
to ignore the slots for late ones; in training each batch takes one of nine orders, each with a start token of
its own.

Differences: heads are averaged with equal weights (as in SPOT); weights start as in SPOT's code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from objecthood.nn.feature_decoders import FeatureReconstruction

EVERY = -1
"""As `order`: all of them, their results averaged."""


class AutoregressiveDecoder(nn.Module):
    """The transformer decoder.

    Args:
        slot_dim: size of a slot.
        grid: rows and columns of the features.
        feature_dim: size of a feature, and width of the transformer.
        blocks: of self-attention, attention to slots, and an MLP (paper: 4).
        heads: of each attention (DINOSAUR: 8; SPOT: 6); a divisor of `feature_dim`.
        orders: how many of `patch_orders` are learned (DINOSAUR: 1; SPOT: 9).
        adds_to_normalised: whether the first block adds to its normalised tokens (code of SLATE and SPOT),
            not to the tokens (paper).

    Example:
        >>> decode = AutoregressiveDecoder(slot_dim=16, grid=(3, 4), feature_dim=24, blocks=1, heads=2)
        >>> found = decode(torch.randn(2, 5, 16), torch.randn(2, 3, 4, 24))
        >>> found.features.shape, found.masks.shape
        (torch.Size([2, 3, 4, 24]), torch.Size([2, 5, 3, 4]))
    """

    orders: Tensor

    def __init__(
        self,
        slot_dim: int,
        grid: tuple[int, int],
        feature_dim: int,
        blocks: int = 4,
        heads: int = 8,
        orders: int = 1,
        adds_to_normalised: bool = False,
    ):
        super().__init__()
        every = patch_orders(*grid)
        if not 1 <= orders <= len(every):
            raise ValueError(f"`orders` (={orders}) must be 1 to {len(every)}")
        if heads < 1 or feature_dim % heads:
            raise ValueError(f"`heads` (={heads}) must divide the features' size, {feature_dim}")
        self.grid = grid
        self.register_buffer("orders", every[:orders], persistent=False)
        self.start = nn.Parameter(0.02 * torch.randn(orders, 1, feature_dim))
        self.from_feature = projection(feature_dim, feature_dim)
        self.from_slot = projection(slot_dim, feature_dim)
        gain = (3 * blocks) ** -0.5  # of what each of a block's three parts adds
        self.blocks = nn.ModuleList(
            Block(feature_dim, heads, gain, adds_to_normalised and not number) for number in range(blocks)
        )
        self.norm = nn.LayerNorm(feature_dim)

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        target: Float[Tensor, "batch rows columns feature_dim"],
        order: int | None = None,
        attention: Tensor | None = None,
    ) -> FeatureReconstruction:
        """Features predicted for every patch from the slots and `target`'s earlier patches, and masks.

        `order` is the number of a patch order, or `EVERY`; None: in training a random one of the global
        generator, else the first. `attention`, which other decoders take, is not used.
        """
        if order is None:
            order = int(torch.randint(len(self.orders), ())) if self.training else 0
        chosen = range(len(self.orders)) if order == EVERY else (order,)
        memory = self.from_slot(slots)
        found = [self._in_order(memory, target.flatten(1, 2), number) for number in chosen]
        features, masks = (torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True))
        return FeatureReconstruction(features.unflatten(1, self.grid), masks.unflatten(-1, self.grid))

    def _in_order(
        self, memory: Tensor, target: Float[Tensor, "batch patches dim"], number: int
    ) -> tuple[Tensor, Tensor]:
        """Features [batch, patches, dim] and masks [batch, slots, patches], in the grid's own order."""
        order = self.orders[number]
        start = self.start[number].expand(target.shape[0], -1, -1)
        hidden = self.from_feature(torch.cat([start, target[:, order[:-1]]], dim=1))
        attention = memory.new_empty(0)
        for block in self.blocks:
            hidden, attention = block(hidden, memory)
        back = order.argsort()
        return self.norm(hidden)[:, back], attention[:, back].transpose(1, 2)


class Block(nn.Module):
    """Causal self-attention, attention to the slots, and an MLP, each of normalised input and added to it.

    Args:
        dim: size of a token.
        heads: of both attentions.
        gain: of the last layer of each part at the start.
        adds_to_normalised: whether self-attention is added to the normalised tokens.
    """

    def __init__(self, dim: int, heads: int, gain: float, adds_to_normalised: bool = False):
        super().__init__()
        self.heads, self.adds_to_normalised = heads, adds_to_normalised
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(dim) for _ in range(3))
        self.self_in, self.self_out = linear(dim, 3 * dim), linear(dim, dim, gain)
        self.query, self.key_value = linear(dim, dim), linear(dim, 2 * dim)
        self.cross_out = linear(dim, dim, gain)
        wide, narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        nn.init.kaiming_uniform_(wide.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(narrow.weight, gain)
        for layer in (wide, narrow):
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(wide, nn.ReLU(), narrow)

    def forward(
        self, tokens: Float[Tensor, "batch patches dim"], memory: Float[Tensor, "batch slots dim"]
    ) -> tuple[Float[Tensor, "batch patches dim"], Float[Tensor, "batch patches slots"]]:
        """The tokens, and how much of each slot they took (mean over heads; sums to 1)."""
        normalised = self.norm_self(tokens)
        if self.adds_to_normalised:
            tokens = normalised
        parts = self.self_in(normalised).chunk(3, dim=-1)
        query, key, value = (self._split(part) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.self_out(seen.transpose(1, 2).flatten(2))
        query = self._split(self.query(self.norm_cross(tokens)))
        key, value = (self._split(part) for part in self.key_value(memory).chunk(2, dim=-1))
        attention = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        tokens = tokens + self.cross_out((attention @ value).transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm_mlp(tokens)), attention.mean(dim=1)

    def _split(self, tokens: Tensor) -> Float[Tensor, "batch heads tokens dim_per_head"]:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A layer without bias, Glorot's start values times `gain`."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.xavier_uniform_(layer.weight, gain)
    return layer


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """A linear map and a layer norm."""
    return nn.Sequential(linear(inputs, outputs), nn.LayerNorm(outputs))


def patch_orders(rows: int, columns: int) -> Int[Tensor, "9 patches"]:
    """Nine orders of a grid's patches: row by row first, then the seven others that begin in a corner and go
    by rows or by columns, then a spiral from the middle to the top right corner.

    Kakogeorgiou et al. 2024 (arXiv 2312.00648), appendix.

    Example:
        >>> patch_orders(2, 3)[[0, 1, 8]].tolist()
        [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [1, 0, 3, 4, 5, 2]]
    """
    grid = torch.arange(rows * columns).view(rows, columns)
    found = []
    for flips in ((), (1,), (0, 1), (0,)):
        corner = grid.flip(flips)
        found += [corner.flatten(), corner.T.flatten()]
    return torch.stack([*found, spiral(grid.rot90()).flip(0)])


def spiral(grid: Int[Tensor, "rows columns"]) -> Int[Tensor, " patches"]:
    """The entries along the border, clockwise from the top left corner, and on inwards.

    Example:
        >>> spiral(torch.arange(9).view(3, 3)).tolist()
        [0, 1, 2, 5, 8, 7, 6, 3, 4]
    """
    found = []
    while grid.numel():
        found.append(grid[0])
        grid = grid[1:].T.flip(0)
    return torch.cat(found)

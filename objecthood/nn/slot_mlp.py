"""Slot MLP baseline: an MLP maps the pooled, flattened feature map to all slots.

The "Slot MLP" baseline of Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020
(arXiv 2006.15055), section 4: an MLP replaces slot attention, and slots have a fixed order.

Differences from the paper: features are averaged to 8 x 8, and one hidden layer has 256 units. The layer norm
of the inputs is kept. The initial slots are added to the output, as its bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32, check_dtypes
from objecthood.nn.slot_module import SlotAttentionOutput, SlotModule


class SlotMLP(SlotModule):
    """Map a grid of inputs to slots; called as `SlotAttention` is.

    Args:
        num_slots: number of slots, fixed.
        grid: rows and columns of the inputs.
        input_dim: size of an input vector.
        slot_dim: size of a slot vector.
        hidden_dim: width of the hidden layer.
        pooled: side of the grid after average pooling.
        iterations: number of copies of the attention that are returned; the MLP runs once.

    Example:
        >>> import torch
        >>> from objecthood.nn import Grouping, LearnedSlots, SlotMLP
        >>> mlp = SlotMLP(num_slots=7, grid=(32, 32), input_dim=64, slot_dim=64)
        >>> slots, attention = Grouping(LearnedSlots(7, 64), mlp)(torch.randn(2, 1024, 64))
        >>> slots.shape, attention.shape
        (torch.Size([2, 7, 64]), torch.Size([2, 3, 7, 1024]))
    """

    norm_inputs: nn.LayerNorm
    attention_bias = None
    """The module has no attention logits."""

    def __init__(
        self,
        num_slots: int,
        grid: tuple[int, int],
        input_dim: int,
        slot_dim: int,
        hidden_dim: int = 256,
        pooled: int = 8,
        iterations: int = 3,
    ):
        super().__init__()
        self.num_slots, self.grid, self.pooled = num_slots, grid, pooled
        self.input_dim, self.slot_dim, self.iterations = input_dim, slot_dim, iterations
        self.norm_inputs = nn.LayerNorm(input_dim, eps=1e-3)
        self.mlp = nn.Sequential(
            glorot(nn.Linear(pooled * pooled * input_dim, hidden_dim)),
            nn.ReLU(),
            glorot(nn.Linear(hidden_dim, num_slots * slot_dim, bias=False)),
        )

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """`slots` plus the output of the MLP; `previous` is ignored.

        The attention is uniform, 1 / slots: only the decoder's masks separate objects. With a `mask`,
        averages are over real inputs (0 if there are none), and the attention is 0 at the others.

        Raises:
            ValueError: the shapes are not those the MLP was built for.
        """
        iterations = self.iterations if iterations is None else iterations
        rows, columns = self.grid
        if (
            inputs.shape[1:] != (rows * columns, self.input_dim)
            or slots.shape != (inputs.shape[0], self.num_slots, self.slot_dim)
            or iterations < 1
            or (mask is not None and (mask.shape != inputs.shape[:2] or mask.dtype != torch.bool))
        ):
            raise ValueError(
                f"SlotMLP needs inputs [batch, {rows * columns}, {self.input_dim}] of its {rows} x {columns} "
                f"grid, slots [batch, {self.num_slots}, {self.slot_dim}], iterations >= 1, bool mask [batch, "
                f"inputs] or none; got inputs {list(inputs.shape)}, slots {list(slots.shape)}, iterations "
                f"{iterations}, mask {None if mask is None else list(mask.shape)}. Build SlotMLP "
                "with these sizes, or use SlotAttention"
            )
        weights = self.norm_inputs.weight.dtype
        check_dtypes("SlotMLP", weights, inputs=inputs, slots=slots)
        if mask is not None:
            inputs = inputs.masked_fill(~mask[..., None], 0)  # NaN * 0 is NaN, in the gradient as well
        if weights != torch.float32:
            inputs = inputs.to(weights)
        maps = self.norm_inputs(inputs).transpose(1, 2).unflatten(2, self.grid)
        output = self.mlp(self._pool(maps, mask).flatten(1))
        slots = at_least_float32(slots) + at_least_float32(output).view_as(slots)
        uniform = slots.new_full((), 1 / self.num_slots)
        shape = (inputs.shape[0], iterations, self.num_slots, inputs.shape[1])
        attention = uniform.expand(shape)
        if mask is not None:
            attention = attention * mask[:, None, None]
        return SlotAttentionOutput(slots.to(weights), attention)

    def _pool(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """Average pooling of `maps` [batch, channels, rows, columns] to a grid of side `pooled`."""
        if mask is None:
            return F.adaptive_avg_pool2d(maps, self.pooled)
        real = mask.to(maps.dtype).unflatten(1, self.grid)[:, None]
        share = F.adaptive_avg_pool2d(real, self.pooled)
        return F.adaptive_avg_pool2d(maps * real, self.pooled) / share.masked_fill(share == 0, 1)

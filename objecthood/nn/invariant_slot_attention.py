"""Invariant slot attention: every slot sees inputs relative to its own position and scale.

Biza et al. 2023, "Invariant Slot Attention: Object Discovery with Slot-Centric Reference Frames" (arXiv
2302.04973), section 3.2, for translation and scale. For slot j with position p_j and scale s_j per axis, and
input i at coordinate x_i (y, x in [-1, 1]),

    k_ij = MLP(norm(K input_i + G (x_i - p_j) / (5 s_j))),   v_ij the same with V in place of K
    attention = softmax over slots of q_j k_ij / sqrt(slot_dim),   weights normalised over inputs
    updates_j = sum_i weights_ij v_ij,   GRU and MLP as in slot attention
    p_j = sum_i weights_ij x_i,   s_j = sqrt(sum_i weights_ij (x_i - p_j)^2)

The first frames have the position 0 and the scale 0.1, or are those of `previous`, the attention of the
previous frame. `slot_frames.frames` gives the frames of the last attention to a decoder: see
`slot_frames.RelativePatchDecoder`.

Slots are invariant to translation and scale of objects only if the features hold no absolute coordinates:
build the encoder with `ConvEncoder(positions=False)`.

Differences from the paper: the paper adds an iteration that updates only the frames; here the decoder's frame
is that of the last attention, which the slots were updated with. Positions and scales do not become part of
the slots. Rotation is not modelled. Norms and initialisation are those of `SlotAttention`. The number of
inputs is that of the grid; keys of all slots take batch x slots x inputs x slot_dim numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.slot_attention import SlotAttention
from objecthood.nn.slot_frames import cell_centres, frames


class InvariantSlotAttention(SlotAttention):
    """Group a grid of inputs into slots with reference frames.

    Args:
        grid: rows and columns of the inputs, in row-major order.
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`; `hidden_dim` is also the width of
            the MLP of keys and values.
        scale_factor: divisor of relative coordinates (paper: 5).
        initial_scale: scale of the first frames; the image's half side is 1.
        options: further arguments of `SlotAttention`; `competition` and `aggregation` have no effect.

    Raises:
        ValueError: (of a call) the number of inputs is not that of the grid.

    Example:
        >>> import torch
        >>> group = InvariantSlotAttention(grid=(7, 7), input_dim=48, slot_dim=64)
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> slots.shape, attention.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 3, 5, 49]))
    """

    state_is_slots = False
    coordinates: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        scale_factor: float = 5.0,
        initial_scale: float = 0.1,
        **options: Any,
    ):
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        self.grid, self.scale_factor, self.initial_scale = grid, scale_factor, initial_scale
        self.register_buffer("coordinates", 2 * cell_centres(torch.empty(grid)) - 1, persistent=False)
        self.project_position = glorot(nn.Linear(2, slot_dim))
        self.encode = nn.Sequential(
            nn.LayerNorm(slot_dim, eps=1e-3),
            glorot(nn.Linear(slot_dim, hidden_dim)),
            nn.ReLU(),
            glorot(nn.Linear(hidden_dim, slot_dim)),
        )

    def start(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Float[Tensor, "batch slots state_dim"]:
        """Slots, positions and scales."""
        if previous is not None:
            first = frames(previous.detach().to(slots), self.coordinates.to(slots))
        else:
            middle = torch.zeros_like(slots[..., :1]).expand(-1, -1, 2)
            first = torch.cat([middle, torch.full_like(middle, self.initial_scale)], dim=-1)
        return torch.cat([slots, first], dim=-1)

    def finish(self, slots: Float[Tensor, "batch slots state_dim"]) -> Float[Tensor, "batch slots slot_dim"]:
        """The slots without their frames."""
        return slots[..., : self.slot_dim]

    def logits(
        self,
        slots: Float[Tensor, "batch slots state_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """Scaled products of queries and of each slot's keys."""
        slots, relative = self._relative(slots, inputs)
        query = self._apply_layer(self.project_q, self._apply_layer(self.norm_slots, slots))
        keys = self._encoded(self.project_k, inputs, relative)
        return (keys @ (query * self.slot_dim**-0.5)[..., None])[..., 0]

    def step(
        self,
        slots: Float[Tensor, "batch slots state_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots state_dim"], Float[Tensor, "batch slots inputs"]]:
        """As `SlotAttention.step`, of slots and their frames."""
        logits = self.logits(slots, inputs)
        attention = self.compete(logits if bias is None else logits + bias, mask)
        weights = attention + self.epsilon
        weights = weights if mask is None else weights * mask[:, None]
        # 1e-12: nothing beside the epsilon of a single input, and 0 / 1e-12 where all are masked.
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-12)
        contents, relative = self._relative(slots, inputs)
        values = self._encoded(self.project_v, inputs, relative)
        updates = (weights[:, :, None] @ values)[:, :, 0]
        frame = frames(weights, self.coordinates.to(weights))
        return torch.cat([self.update(contents, updates), frame], dim=-1), attention

    def _relative(self, slots: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Slots without frames, and coordinates [batch, slots, inputs, 2] in each slot's frame."""
        if inputs.shape[1] != len(self.coordinates):
            raise ValueError(
                f"InvariantSlotAttention was built for a grid of {self.grid[0]} x {self.grid[1]} inputs; got "
                f"{inputs.shape[1]} inputs. Build it with the encoder's grid for this image size"
            )
        contents, position, scale = slots.split([self.slot_dim, 2, 2], dim=-1)
        offset = self.coordinates.to(slots) - position[:, :, None]
        return contents, offset / (self.scale_factor * scale[:, :, None])

    def _encoded(self, project: nn.Module, inputs: Tensor, relative: Tensor) -> Tensor:
        """Keys or values [batch, slots, inputs, slot_dim]."""
        contents = self._apply_layer(project, inputs.to(relative.dtype))[:, None]
        return self._apply_layer(self.encode, contents + self._apply_layer(self.project_position, relative))

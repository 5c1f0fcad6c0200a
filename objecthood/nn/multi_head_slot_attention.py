"""Multi-head slot attention: slots compete for inputs separately in every head.

The heads are those of the slot attention of SAVi (Kipf et al. 2022, arXiv 2111.12594, appendix) and of the
transformer (Vaswani et al. 2017, arXiv 1706.03762). With the queries, keys and values of
`nn.slot_attention` cut into equal parts, one per head h, one iteration is

    attention_h = softmax over slots of k_h q_h^T / sqrt(slot_dim / heads)
    updates     = W [weights_1^T v_1, ..., weights_H^T v_H],   weights_h as in slot attention
    slots       = GRU(updates, slots);   slots = slots + MLP(norm(slots))

The returned attention is the mean over heads.

Differences from SAVi: numerics, norms and initialisation are those of `SlotAttention`; the output layer W has
no bias. Other public versions (ocl, AdaSlot) take one softmax over slots and heads together, so that heads
compete as well, and have no output layer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32
from objecthood.nn.slot_attention import SlotAttention


class MultiHeadSlotAttention(SlotAttention):
    """Group a set of inputs into slots, with several heads.

    Args:
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`.
        num_heads: number of heads, a divisor of `slot_dim`.
        options: further arguments of `SlotAttention`; an `attention_bias` acts on every head.

    Raises:
        ValueError: `num_heads` does not divide `slot_dim`, or a value of `options` is not allowed.

    Example:
        >>> import torch
        >>> group = MultiHeadSlotAttention(input_dim=48, slot_dim=64, num_heads=4)
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> slots.shape, attention.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 3, 5, 49]))
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        num_heads: int = 4,
        **options: Any,
    ):
        if num_heads < 1 or slot_dim % num_heads:
            raise ValueError(f"`num_heads` (={num_heads}) must divide `slot_dim` (={slot_dim})")
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        self.num_heads = num_heads
        self.project_output = glorot(nn.Linear(slot_dim, slot_dim, bias=False))

    def step(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots slot_dim"], Float[Tensor, "batch slots inputs"]]:
        """As `SlotAttention.step`; the attention is the mean over heads."""
        logits = self.logits(slots, inputs)
        logits = logits if bias is None else logits + bias[:, :, None]
        # Heads are folded into the batch.
        attention = self.compete(
            logits.transpose(1, 2).flatten(0, 1), _repeat(mask, self.num_heads)
        )  # [batch * heads, slots, inputs]
        gathered = self.aggregate(
            attention, inputs.repeat_interleave(self.num_heads, dim=0), _repeat(mask, self.num_heads)
        ).unflatten(0, (-1, self.num_heads))
        values = at_least_float32(self.project_v.weight).unflatten(0, (self.num_heads, -1))
        updates = torch.einsum("bhsi,hdi->bshd", gathered, values).flatten(2)
        attention = attention.unflatten(0, (-1, self.num_heads)).mean(dim=1)
        return self.update(slots, self._apply_layer(self.project_output, updates)), attention

    def logits(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots heads inputs"]:
        """Scaled products of queries and keys, of every head."""
        queries = self._apply_layer(self.project_q, self._apply_layer(self.norm_slots, slots))
        queries = (queries * (self.slot_dim / self.num_heads) ** -0.5).unflatten(2, (self.num_heads, -1))
        keys = at_least_float32(self.project_k.weight).unflatten(0, (self.num_heads, -1))
        queries = torch.einsum("bshd,hdi->bshi", queries, keys)
        return torch.einsum("bshi,bni->bshn", queries, inputs.to(queries.dtype))

    def attention_of(
        self,
        logits: Float[Tensor, "batch slots heads inputs"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Float[Tensor, "batch slots inputs"]:
        """As `SlotAttention.attention_of`, the mean over heads."""
        return (logits if bias is None else logits + bias[:, :, None]).softmax(dim=1).mean(dim=2)


def _repeat(mask: Tensor | None, num_heads: int) -> Tensor | None:
    """The mask of each head, heads folded into the batch."""
    return None if mask is None else mask.repeat_interleave(num_heads, dim=0)

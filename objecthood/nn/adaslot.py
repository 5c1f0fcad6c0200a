"""AdaSlot: slot attention that chooses its number of slots by keeping or dropping each slot.

Fan et al. 2024, "Adaptive Slot Attention: Object Discovery with Dynamic Slot Number" (arXiv 2406.09196).
After the last iteration, an MLP of each slot gives the logits of dropping and of keeping it. With the
probability p_k of keeping slot k, the decoder's alpha masks m and appearances become

    z_k ~ Gumbel-softmax of the two logits, hard, straight-through (Jang et al. 2017, arXiv 1611.01144)
    m_k = z_k m_k / (sum over slots of z m),   loss = reconstruction error + weight * mean of p

The module itself is `SlotAttention`: z does not change slots or attention. A model asks for `keep` and for
`penalty` (see `nn.slot_module`), and `decoders.drop_slots` masks the decoder.

Differences from the paper: without noise in evaluation, where a slot is kept if p is above 0.5 (the public
code samples there as well). If all slots of an image are dropped, all are used; the public code keeps random
ones. The temperature is constant. The paper's weight belongs to the errors of features; the one here to those
of images, which are smaller.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32, without_autocast
from objecthood.nn.randomness import per_image
from objecthood.nn.slot_attention import SlotAttention


class AdaSlot(SlotAttention):
    """Group a set of inputs into slots, and choose which of them to decode.

    Args:
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`; `hidden_dim` is also the width of
            the MLP of keep logits.
        weight: weight of the mean keep probability in the loss, in units of the reconstruction error.
        temperature: of the Gumbel-softmax, above 0; affects the gradient.
        options: further arguments of `SlotAttention`.

    Example:
        >>> import torch
        >>> group = AdaSlot(input_dim=48, slot_dim=64).eval()
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> group.keep(slots, attention[:, -1]).shape, group.penalty(slots).shape
        (torch.Size([2, 5]), torch.Size([]))
    """

    drops_slots = True

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        weight: float = 0.01,
        temperature: float = 1.0,
        **options: Any,
    ):
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        if not temperature > 0:
            raise ValueError(f"`temperature` (={temperature}) must be above 0")
        self.weight, self.temperature = weight, temperature
        self.norm_keep = nn.LayerNorm(slot_dim, eps=1e-3)
        self.score = nn.Sequential(
            glorot(nn.Linear(slot_dim, hidden_dim)), nn.ReLU(), glorot(nn.Linear(hidden_dim, 2))
        )

    def keep(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots inputs"],
    ) -> Float[Tensor, "batch slots"]:
        """1 for slots to decode, 0 for dropped ones: sampled in training, the more probable in evaluation.

        `attention` is not used. In the backward pass the result has the gradient of the probability at the
        sampled noise.
        """
        logits = self.keep_logits(slots)
        if self.training:
            shape = logits.shape[1:]
            uniform = per_image(lambda size: logits.new_empty((size, *shape)).uniform_(), len(logits))
            # Gumbel noise; the bounds keep both logarithms finite in float32.
            logits = logits - (-uniform.clamp(1e-7, 1 - 1e-7).log()).log()
        soft = (logits / self.temperature).softmax(dim=-1)[..., 1]
        hard = (logits[..., 1] > logits[..., 0]).to(soft)
        return hard + (soft - soft.detach())

    def penalty(self, slots: Float[Tensor, "batch slots slot_dim"]) -> Float[Tensor, ""]:
        """`weight` times the mean probability of keeping a slot."""
        return self.weight * self.keep_logits(slots).softmax(dim=-1)[..., 1].mean()

    def keep_logits(self, slots: Float[Tensor, "batch slots slot_dim"]) -> Float[Tensor, "batch slots 2"]:
        """Logits of dropping and of keeping each slot."""
        with without_autocast(slots):
            return self._apply_layer(self.score, self._apply_layer(self.norm_keep, at_least_float32(slots)))

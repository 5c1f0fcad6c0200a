"""MetaSlot: slots that share a prototype are one object, so all but one of them are dropped.

Liu, Zhao, Chen and Pajarinen 2025, "MetaSlot: Break Through the Fixed Number of Slots in Object-Centric
Learning" (arXiv 2505.20772). With a codebook of prototypes e, learned from the slots of all images:

    first stage   s = slot attention from the given slots, T iterations, without gradient
    prototypes    n_k = nearest prototype of s_k;  slot k is dropped if an earlier slot has the same n_k
    second stage  slot attention from e[n_k], T iterations, among the slots that are left

In training, normalised inputs of iteration t of T get noise of deviation 0.5 (1 - t / (T - 1)), in both
stages. Slots are dropped with a probability that grows with the steps, 0.02 * 1.001^step, at most 1, and
otherwise all start from their prototypes. In the backward pass the initial slots of the second stage have the
gradient of the given slots (straight-through). The codebook follows the slots that are left by mini-batch
k-means (Sculley 2010): a prototype moves to the decayed mean of its slots.

A dropped slot is the zero vector and has no attention, by which `keep` knows it.

Differences from the paper and its code: no noise in evaluation, where slots are always dropped. Prototypes
without slots move to the slots that are farthest from all prototypes, at once and not after a time. The
codebook has 64 entries (paper: 512, for photographs): one that is large enough to tell two halves of an
object apart drops nothing. `SlotAttention` provides numerics, `gradient` and `attention_bias`. Which of
several equal slots is left depends on their order. With several processes, each one's codebook follows its
own images, and the first one's is sent to the others at every step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objecthood.nn.precision import at_least_float32
from objecthood.nn.randomness import per_image
from objecthood.nn.slot_attention import SlotAttention
from objecthood.nn.slot_module import SlotAttentionOutput, check_call


class MetaSlot(SlotAttention):
    """Group a set of inputs into slots, and drop those that share a prototype.

    Args:
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`; iterations are those of a stage.
        num_prototypes: size of the codebook.
        noise_scale: deviation of the noise in the first iteration (paper: 0.5), in units of normalised
            inputs.
        decay: weight of earlier slots in the means of prototypes, at least 0 and below 1.
        options: further arguments of `SlotAttention`.

    Example:
        >>> import torch
        >>> group = MetaSlot(input_dim=48, slot_dim=64).eval()
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> slots.shape, attention.shape, group.keep(slots, attention[:, -1]).shape
        (torch.Size([2, 5, 64]), torch.Size([2, 3, 5, 49]), torch.Size([2, 5]))
    """

    drops_slots = True
    state_is_slots = False
    prototypes: Tensor
    counts: Tensor
    probability: Tensor

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        num_prototypes: int = 64,
        noise_scale: float = 0.5,
        decay: float = 0.99,
        **options: Any,
    ):
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        self.noise_scale, self.decay = noise_scale, decay
        self.register_buffer("prototypes", torch.randn(num_prototypes, slot_dim))
        self.register_buffer("counts", torch.zeros(num_prototypes))
        self.register_buffer("probability", torch.tensor(0.02))

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """As `SlotAttention.forward`; the attention is that of the second stage, and of dropped slots 0."""
        iterations = self.iterations if iterations is None else iterations
        check_call(self, self.project_q.weight.dtype, inputs, slots, iterations, mask)
        with torch.no_grad():
            middle = super().forward(inputs, slots, iterations, mask, previous).slots
            index = self.nearest(middle)
            start = self.prototypes.to(slots)[index]
            if not self.training or torch.rand(()) < self.probability.cpu():
                start = start * is_first(index)[..., None]
        # Adds exactly 0: the straight-through gradient.
        found = super().forward(inputs, start + (slots - slots.detach()), iterations, mask, previous)
        if self.training:
            self._learn(found.slots.detach())
        return found

    def keep(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots inputs"],
    ) -> Float[Tensor, "batch slots"]:
        """1, or 0 for slots without attention."""
        return (attention > 0).any(dim=-1).to(attention)

    def logits(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """As `SlotAttention.logits`; the lowest number for dropped slots."""
        logits = super().logits(slots, inputs)
        # Half of it, so that a bias can be added.
        return logits.masked_fill(~is_left(slots)[..., None], torch.finfo(logits.dtype).min / 2)

    def step(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots slot_dim"], Float[Tensor, "batch slots inputs"]]:
        """As `SlotAttention.step`; dropped slots stay zero vectors."""
        left = is_left(slots)[..., None].to(slots)
        slots, attention = super().step(slots, inputs, bias, mask)
        return slots * left, attention

    def noisy(self, inputs: Tensor, iteration: int, iterations: int) -> Tensor:
        """Normalised `inputs` with noise in training, weaker in every iteration."""
        scale = self.noise_scale * (1 - iteration / max(iterations - 1, 1))
        if not self.training or not scale:
            return inputs
        shape = inputs.shape[1:]
        return inputs + scale * per_image(
            lambda size: inputs.new_empty((size, *shape)).normal_(), inputs.shape[0]
        )

    def nearest(self, slots: Float[Tensor, "*batch slot_dim"]) -> Int[Tensor, " *batch"]:
        """Index of the nearest prototype of each slot."""
        slots, prototypes = at_least_float32(slots), at_least_float32(self.prototypes)
        # |s|^2 is the same for all prototypes.
        return (prototypes.square().sum(dim=-1) - 2 * slots @ prototypes.to(slots).T).argmin(dim=-1)

    @torch.no_grad()
    def _learn(self, slots: Tensor) -> None:
        """Move the prototypes towards `slots` that are no zero vectors."""
        self.probability.mul_(1.001).clamp_(max=1)
        slots = at_least_float32(slots[is_left(slots)])
        owners = F.one_hot(self.nearest(slots), len(self.prototypes)).to(slots)
        number = owners.sum(dim=0)
        self.counts.mul_(self.decay).add_(number)
        mean = owners.T @ slots / number.clamp_min(1)[:, None]
        rate = number / self.counts.to(number).clamp_min(1e-8)
        prototypes = self.prototypes.to(slots)
        prototypes = prototypes + rate[:, None] * (mean - prototypes)
        unused = (self.counts < 0.01).nonzero()[:, 0]
        farthest = torch.cdist(slots, prototypes[self.counts >= 0.01]).amin(dim=1).argsort(descending=True)
        chosen = farthest[: len(unused)]
        prototypes[unused[: len(chosen)]] = slots[chosen]
        self.prototypes.copy_(prototypes)


def is_left(slots: Float[Tensor, "batch slots slot_dim"]) -> Bool[Tensor, "batch slots"]:
    """Whether a slot was not dropped: it is no zero vector."""
    return (slots != 0).any(dim=-1)


def is_first(index: Int[Tensor, "batch slots"]) -> Bool[Tensor, "batch slots"]:
    """Whether no earlier slot has the same index.

    Example:
        >>> is_first(torch.tensor([[3, 5, 3, 1, 5]]))
        tensor([[ True,  True, False,  True, False]])
    """
    same = index[:, :, None] == index[:, None]
    return same.tril(-1).sum(dim=-1) == 0

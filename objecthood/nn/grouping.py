"""Initial slots and a slot module combined: features in, slots out, with the initial noise as an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initial_slots import GaussianSlots, LearnedSlots
from objecthood.nn.slot_attention import Gradient, SlotAttention
from objecthood.nn.slot_mlp import SlotMLP
from objecthood.nn.slot_module import Prior, SlotAttentionOutput, SlotModule
from objecthood.nn.soft_kmeans import SoftKMeans


class SlotModuleOptions(NamedTuple):
    """Options of a model's slot module; a module ignores those that do not apply."""

    num_slots: int
    grid: tuple[int, int]
    """Rows and columns of the inputs."""
    input_dim: int
    slot_dim: int
    attention_bias: Prior | None = None
    bias_before_attention: bool = False
    gradient: Gradient = "full"


SLOT_MODULES: dict[str, Callable[..., SlotModule]] = {
    "slot-attention": lambda o, **own: SlotAttention(
        o.input_dim,
        o.slot_dim,
        gradient=o.gradient,
        attention_bias=o.attention_bias,
        bias_before_attention=o.bias_before_attention,
        **own,
    ),
    "soft-k-means": lambda o, **own: SoftKMeans(
        o.num_slots, o.grid, o.input_dim, o.slot_dim, attention_bias=o.attention_bias, **own
    ),
    "slot-mlp": lambda o, **own: SlotMLP(o.num_slots, o.grid, o.input_dim, o.slot_dim, **own),
}
"""Constructors by the recipe's `slot_module`: `SlotModuleOptions` and class-specific arguments to a module.
Soft k-means ignores `gradient` and `bias_before_attention`; Slot MLP ignores `attention_bias` as well."""


class Grouping(nn.Module):
    """A slot module with its initial slots.

    Args:
        initial_slots: `GaussianSlots` or `LearnedSlots`.
        slot_attention: a slot module: `SlotAttention`, `SoftKMeans`, `SlotMLP`, or your own.

    Example:
        >>> import torch
        >>> from objecthood.nn import GaussianSlots, SlotAttention
        >>> group = Grouping(GaussianSlots(num_slots=5, dim=64), SlotAttention(input_dim=48, slot_dim=64))
        >>> slots, attention = group(torch.randn(2, 49, 48), noise=torch.zeros(2, 5, 64))
    """

    initial_slots: GaussianSlots | LearnedSlots
    slot_attention: SlotModule

    def __init__(self, initial_slots: GaussianSlots | LearnedSlots, slot_attention: SlotModule):
        super().__init__()
        self.initial_slots, self.slot_attention = initial_slots, slot_attention

    @property
    def num_slots(self) -> int:
        """Default number of slots."""
        return self.initial_slots.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.slot_attention.slot_dim

    @property
    def depends_on_noise(self) -> bool:
        """Whether initial slots differ from one noise to another."""
        initial = self.initial_slots
        return not isinstance(initial, LearnedSlots) or initial.noise_scale > 0

    @property
    def iterations(self) -> int:
        """Default number of iterations; may be set."""
        return self.slot_attention.iterations

    @iterations.setter
    def iterations(self, iterations: int) -> None:
        self.slot_attention.iterations = iterations

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> SlotAttentionOutput:
        """Slots and attention; `noise` (standard normal) is drawn unless given, and `mask` is True at real
        inputs."""
        if num_slots is None and noise is not None:
            num_slots = noise.shape[1]
        return self.slot_attention(
            inputs, self.initial_slots(inputs.shape[0], num_slots, noise), iterations, mask
        )

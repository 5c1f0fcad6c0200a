"""Initial slots and a slot module combined: features in, slots out, with the initial noise as an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.adaslot import AdaSlot
from objecthood.nn.initial_slots import GaussianSlots, LearnedSlots
from objecthood.nn.invariant_slot_attention import InvariantSlotAttention
from objecthood.nn.k_means import KMeans
from objecthood.nn.mesh import MESH
from objecthood.nn.metaslot import MetaSlot
from objecthood.nn.multi_head_slot_attention import MultiHeadSlotAttention
from objecthood.nn.slot_attention import Gradient, SlotAttention
from objecthood.nn.slot_mixture import SlotMixture
from objecthood.nn.slot_mlp import SlotMLP
from objecthood.nn.slot_module import AttentionBias, SlotAttentionOutput, SlotModule
from objecthood.nn.soft_kmeans import SoftKMeans


class SlotModuleOptions(NamedTuple):
    """Options of a model's slot module; a module ignores those that do not apply."""

    num_slots: int
    grid: tuple[int, int]
    """Rows and columns of the inputs."""
    input_dim: int
    slot_dim: int
    attention_bias: AttentionBias | None = None
    bias_before_attention: bool = False
    gradient: Gradient = "full"


SLOT_MODULES: dict[str, Callable[..., SlotModule]] = {
    "slot-attention": lambda o, **own: SlotAttention(**_competing(o), **own),
    "bo-qsa": lambda o, **own: SlotAttention(**_competing(o) | {"gradient": "bilevel"}, **own),
    "implicit-slot-attention": lambda o, **own: SlotAttention(
        **_competing(o) | {"gradient": "implicit"}, **own
    ),
    "multi-head-slot-attention": lambda o, **own: MultiHeadSlotAttention(**_competing(o), **own),
    "mesh": lambda o, **own: MESH(**_competing(o), **own),
    "invariant-slot-attention": lambda o, **own: InvariantSlotAttention(o.grid, **_competing(o), **own),
    "slot-mixture": lambda o, **own: SlotMixture(**_competing(o), **own),
    "adaslot": lambda o, **own: AdaSlot(**_competing(o), **own),
    "metaslot": lambda o, **own: MetaSlot(**_competing(o), **own),
    "soft-k-means": lambda o, **own: SoftKMeans(**_on_grid(o), attention_bias=o.attention_bias, **own),
    "k-means": lambda o, **own: KMeans(**_on_grid(o), attention_bias=o.attention_bias, **own),
    "slot-mlp": lambda o, **own: SlotMLP(**_on_grid(o), **own),
}
"""Constructors by the recipe's `slot_module`: `SlotModuleOptions` and class-specific arguments to a module.
Both k-means ignore `gradient` and `bias_before_attention`; Slot MLP ignores `attention_bias` as well.
`bo-qsa` and `implicit-slot-attention` are slot attention with a `gradient` of their own."""


def _competing(options: SlotModuleOptions) -> dict[str, Any]:
    """Arguments of `SlotAttention` and its subclasses."""
    names = ("input_dim", "slot_dim", "gradient", "attention_bias", "bias_before_attention")
    return {name: getattr(options, name) for name in names}


def _on_grid(options: SlotModuleOptions) -> dict[str, Any]:
    """Arguments of modules that are built for a number of slots and a grid of inputs."""
    return {name: getattr(options, name) for name in ("num_slots", "grid", "input_dim", "slot_dim")}


class Grouping(nn.Module):
    """A slot module with its initial slots.

    Args:
        initial_slots: `GaussianSlots` or `LearnedSlots`.
        slot_attention: a slot module of `SLOT_MODULES`, or your own.

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
        return self.slot_attention(inputs, self.start(inputs.shape[0], num_slots, noise), iterations, mask)

    def start(
        self, batch_size: int, num_slots: int | None, noise: Tensor | None
    ) -> Float[Tensor, "batch slots slot_dim"]:
        """Initial slots; unless `num_slots` is given, as many as `noise` has."""
        if num_slots is None and noise is not None:
            num_slots = noise.shape[1]
        return self.initial_slots(batch_size, num_slots, noise)

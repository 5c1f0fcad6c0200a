"""A start and the attention together: features in, slots out, with the start noise as an argument."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.block_matching import Sight, look
from objecthood.nn.encoders import ConvEncoder
from objecthood.nn.initial_slots import GaussianSlots, LearnedSlots
from objecthood.nn.slot_attention import SlotAttention, SlotAttentionOutput
from objecthood.nn.slot_mlp import SlotMLP
from objecthood.nn.soft_kmeans import SoftKMeans


class Grouping(nn.Module):
    """`SlotAttention` with the slots it starts from.

    Args:
        initial_slots: `GaussianSlots` or `LearnedSlots`.
        slot_attention: the competition, or `SlotMLP` in its place.

    Example:
        >>> import torch
        >>> from objecthood.nn import GaussianSlots, SlotAttention
        >>> group = Grouping(GaussianSlots(num_slots=5, dim=64), SlotAttention(input_dim=48, slot_dim=64))
        >>> slots, attention = group(torch.randn(2, 49, 48), noise=torch.zeros(2, 5, 64))
    """

    initial_slots: GaussianSlots | LearnedSlots
    slot_attention: SlotAttention | SlotMLP

    def __init__(self, initial_slots: GaussianSlots | LearnedSlots, slot_attention: SlotAttention | SlotMLP):
        super().__init__()
        self.initial_slots, self.slot_attention = initial_slots, slot_attention

    @property
    def num_slots(self) -> int:
        """Slots used when a call names no number."""
        return self.initial_slots.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.slot_attention.slot_dim

    @property
    def iterations(self) -> int:
        """Rounds of attention when a call names none; may be set."""
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
        """Number of slots and iterations as built unless named; `noise` is standard normal, drawn unless
        given."""
        if num_slots is None and noise is not None:
            num_slots = noise.shape[1]
        return self.slot_attention(
            inputs, self.initial_slots(inputs.shape[0], num_slots, noise), iterations, mask
        )


class GroupingModel(nn.Module):
    """What all models share: a `grouping`, which says how many slots there are, and how large."""

    grouping: Grouping | SoftKMeans

    @property
    def num_slots(self) -> int:
        """Slots used when a call names no number."""
        return self.grouping.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.grouping.slot_dim


class ClipModel(GroupingModel):
    """What models of video share: what they are shown of frames, and what slots compete for.

    Args:
        encoder: pictures in [-1, 1] to features on a grid.
        grouping: features of the first frame to slots.
        later_iterations: of slot attention, in every frame but the first where slots are handed on.
        sees: "frame", or "motion" found by matching.
    """

    encoder: ConvEncoder

    def __init__(
        self, encoder: ConvEncoder, grouping: Grouping | SoftKMeans, later_iterations: int, sees: Sight
    ):
        super().__init__()
        if later_iterations < 1:
            raise ValueError(f"`later_iterations` (={later_iterations}) must be at least 1")
        self.encoder, self.grouping = encoder, grouping
        self.later_iterations, self.sees = later_iterations, sees

    def look(
        self, frames: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch time 3 height width"]:
        """What the encoder is shown, in [0, 1]: the frames, or their motion as pictures."""
        return look(frames, self.sees)

    def features(
        self, seen: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "frames grid_height grid_width dim"]:
        """What slot attention groups."""
        return self.encoder((2 * seen - 1).contiguous(memory_format=torch.channels_last))

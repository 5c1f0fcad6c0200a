"""The export stages of a model: initial slots, encoder, one iteration, decoder.

`Start` makes the initial slots, `Encode` the inputs, `Step` is one iteration with the attention bias of the
next, `Decode` reconstructs each slot. `FirstStage`, repeated `Step` and `LastStage` equal the model's
`forward` with dynamic batch and number of slots. The stages share the model's modules.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models import SlotModel
from objecthood.models.base import ExportStages, FeatureStages, PhotographStages
from objecthood.nn import GaussianSlots, LearnedSlots, SlotAttention
from objecthood.nn.decoders import drop_slots


def export_stages_of(model: nn.Module) -> ExportStages | PhotographStages | FeatureStages:
    """The model's `export_stages`; ValueError if it has none."""
    if not isinstance(model, SlotModel):
        raise ValueError(
            f"a {type(model).__name__} cannot be exported; use weights of `objecthood list weights`"
        )
    return model.export_stages()


def stages_of(model: nn.Module) -> ExportStages:
    """The stages of a model with iterations of slots; ValueError for another model."""
    stages = export_stages_of(model)
    if not isinstance(stages, ExportStages):
        raise ValueError(f"a {type(model).__name__} has no iterations of slots")
    return stages


class Start(nn.Module):
    """Initial slots from noise.

    `noise_scale` scales the noise added to learned queries, in units of the standard deviation between
    queries; it replaces the model's own (0 in most models). Slots beyond the learned ones, and Gaussian
    slots, use the trained deviation and ignore `noise_scale`.
    """

    initial_slots: GaussianSlots | LearnedSlots

    def __init__(self, model: SlotModel):
        super().__init__()
        self.initial_slots = stages_of(model).grouping.initial_slots

    @property
    def own_noise_scale(self) -> float:
        """The model's `noise_scale`; 0 for fixed and for Gaussian initial slots."""
        return self.initial_slots.noise_scale if isinstance(self.initial_slots, LearnedSlots) else 0.0

    @property
    def is_learned(self) -> bool:
        """Whether the initial slots are learned queries."""
        return isinstance(self.initial_slots, LearnedSlots)

    def forward(
        self, noise: Float[Tensor, "batch slots slot_dim"], noise_scale: Float[Tensor, ""]
    ) -> Float[Tensor, "batch slots slot_dim"]:
        """The initial slots for standard normal `noise`."""
        initial = self.initial_slots
        if isinstance(initial, GaussianSlots):
            return initial.slots_mu + initial.slots_log_sigma.exp() * noise
        queries = initial.queries
        num_learned = queries.shape[1]
        correction = min(1, num_learned - 1)
        deviation = queries.std(dim=1, keepdim=True, correction=correction)
        further = queries.mean(dim=1, keepdim=True) + deviation * noise
        number = torch.arange(noise.shape[1], device=noise.device)
        learned = queries[:, number.clamp(max=num_learned - 1)] + noise_scale * deviation * noise
        return torch.where((number < num_learned)[:, None], learned, further)


class Encode(nn.Module):
    """Images in [0, 1] to normalised inputs of Slot Attention."""

    def __init__(self, model: SlotModel):
        super().__init__()
        stages = stages_of(model)
        self.input_transform, self.encoder = stages.input_transform, stages.encoder
        self.slot_attention = stages.grouping.slot_attention

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch inputs input_dim"]:
        """The normalised inputs."""
        inputs: Tensor = self.slot_attention.norm_inputs(
            self.encoder(self.input_transform(images)).flatten(1, 2)
        )
        return inputs


class Step(nn.Module):
    """One iteration of Slot Attention.

    The slots to decode are the updated slots, passed through the readout if the model has one. Raises
    ValueError for a model whose slot module has no iterations of slots, such as `SlotMLP`.
    """

    def __init__(self, model: SlotModel):
        super().__init__()
        stages = stages_of(model)
        group = stages.grouping.slot_attention
        if not isinstance(group, SlotAttention) or not group.state_is_slots:
            raise ValueError(
                f"`model` uses {type(group).__name__}, which has no iterations of slots to export; use a "
                "model with SlotAttention"
            )
        self.slot_attention, self.grid, self.readout = group, model.feature_grid, stages.readout

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"],
    ) -> tuple[
        Float[Tensor, "batch slots slot_dim"],
        Float[Tensor, "batch slots inputs"],
        Float[Tensor, "batch slots inputs"],
        Float[Tensor, "batch slots slot_dim"],
    ]:
        """Slots, attention, the `bias` of the next iteration (0 for the first), and the slots to decode."""
        group = self.slot_attention
        if group.attention_bias is not None and group.bias_before_attention:
            bias = group.early_bias(slots, inputs, bias)
        after, attention = group.step(slots, inputs, bias)
        if group.attention_bias is None:
            bias = torch.zeros_like(bias)
        elif not group.bias_before_attention:
            bias = group.attention_bias(attention, group.resemblance(slots, inputs))
        if self.readout is None:
            return after, attention, bias, after + 0  # a distinct output when traced
        return after, attention, bias, self.readout(after, inputs, attention.unflatten(-1, self.grid))


class Decode(nn.Module):
    """Slots and their attention to an appearance and mask logits for each slot.

    Slots are decoded independently: a softmax of the logits over any set of slots, also of several images,
    gives alpha masks that composite their appearances into an image.
    """

    def __init__(self, model: SlotModel):
        super().__init__()
        stages = stages_of(model)
        if stages.decoder is None:
            raise ValueError(f"only a discovery model has a decoder; got a {type(model).__name__}")
        self.decoder = stages.decoder
        group = stages.grouping.slot_attention
        self.slot_attention = group if group.drops_slots else None

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> tuple[Float[Tensor, "batch slots 3 height width"], Float[Tensor, "batch slots height width"]]:
        """Appearance in [0, 1] units (not clamped), and mask logits."""
        output = self.decoder(slots, attention)
        if self.slot_attention is not None:
            output = drop_slots(output, self.slot_attention.keep(slots, attention.flatten(2)))
        return 0.5 + 0.5 * output.appearance, output.mask_logits


class FirstStage(nn.Module):
    """`Start` and `Encode`: images and noise to the inputs of the first iteration."""

    def __init__(self, model: SlotModel):
        super().__init__()
        self.start, self.encode = Start(model), Encode(model)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], noise: Float[Tensor, "batch slots slot_dim"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slots, inputs, and a bias of 0."""
        inputs = self.encode(images)
        slots = self.start(noise, noise.new_full((), self.start.own_noise_scale))
        return slots, inputs, torch.zeros_like(slots[..., :1] * inputs[:, None, :, 0])


class LastStage(nn.Module):
    """The final slots and their attention to the outputs of the model: decoder outputs or properties."""

    def __init__(self, model: SlotModel):
        super().__init__()
        self.head = stages_of(model).head
        self.decode = Decode(model) if self.head is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs, in order: fields of the model's output."""
        return ("reconstruction", "appearance", "masks") if self.decode else ("properties",)

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> tuple[Tensor, ...]:
        """The outputs listed in `names`."""
        if self.decode is None:
            assert self.head is not None
            return (self.head(slots).sigmoid(),)
        appearance, mask_logits = self.decode(slots, attention)
        masks = mask_logits.softmax(dim=1)
        return (masks[:, :, None] * appearance).sum(dim=1), appearance, masks


class Stages(NamedTuple):
    """The stages of a discovery model."""

    start: Start
    encode: Encode
    step: Step
    decode: Decode


def stages_of_discovery(model: SlotModel) -> Stages:
    """The stages of a discovery model, in the model's mode; ValueError for another model.

    Example:
        >>> import torch
        >>> from objecthood.models import autoencoder
        >>> start, encode, step, decode = stages_of_discovery(autoencoder.fast_tetrominoes().eval())
        >>> inputs = encode(torch.rand(2, 3, 35, 35))
        >>> slots = start(torch.randn(2, 5, 64), torch.tensor(0.0))
        >>> slots, attention, bias, to_decode = step(slots, inputs, torch.zeros(2, 5, 324))
        >>> appearance, mask_logits = decode(to_decode, attention.unflatten(-1, (18, 18)))
        >>> appearance.shape, mask_logits.shape
        (torch.Size([2, 5, 3, 35, 35]), torch.Size([2, 5, 35, 35]))
    """
    return Stages(Start(model), Encode(model), Step(model), Decode(model))

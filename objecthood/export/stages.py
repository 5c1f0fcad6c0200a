"""A model cut at its joints, so that what happens between them can be looked at and changed.

`Start` makes the slots, `Encode` what they compete for, `Step` is one iteration of the competition with what
a prior adds to the next, `Paint` is what slots look like. In a row (`Begin`, then `Step` over and over, then
`Finish`) they are the model's own `forward`, written so that batch and number of slots may stay open when it
is traced. The parts hold the model's own modules; nothing is copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models import SlotModel
from objecthood.models.base import ExportStages
from objecthood.nn import GaussianSlots, LearnedSlots, SlotAttention


def stages_of(model: nn.Module) -> ExportStages:
    """The model's `export_stages`; ValueError where it has none."""
    if not isinstance(model, SlotModel):
        raise ValueError(f"a {type(model).__name__} cannot be exported; take weights of `objecthood list`")
    return model.export_stages()


class Start(nn.Module):
    """Start noise to the slots that a model begins with.

    Learned queries stay as they are with `noise_scale` 0; above it they are moved by noise, in units of their
    deviation from each other, whatever the model's own `noise_scale` is (in most models 0). Slots beyond the
    learned ones, and Gaussian slots, are drawn with the trained deviation whatever `noise_scale` says.
    """

    initial_slots: GaussianSlots | LearnedSlots

    def __init__(self, model: SlotModel):
        super().__init__()
        self.initial_slots = stages_of(model).grouping.initial_slots

    @property
    def own_noise_scale(self) -> float:
        """The model's own `noise_scale`: 0 where slots begin the same in every image, or are Gaussian."""
        return self.initial_slots.noise_scale if isinstance(self.initial_slots, LearnedSlots) else 0.0

    @property
    def is_learned(self) -> bool:
        """Whether slots begin as learned queries."""
        return isinstance(self.initial_slots, LearnedSlots)

    def forward(
        self, noise: Float[Tensor, "batch slots slot_dim"], noise_scale: Float[Tensor, ""]
    ) -> Float[Tensor, "batch slots slot_dim"]:
        """The slots, for standard normal `noise`."""
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
    """Images in [0, 1] to the normalised inputs that slots compete for."""

    def __init__(self, model: SlotModel):
        super().__init__()
        stages = stages_of(model)
        self.input_transform, self.encoder = stages.input_transform, stages.encoder
        self.slot_attention = stages.grouping.slot_attention

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch inputs input_dim"]:
        """The inputs."""
        inputs: Tensor = self.slot_attention.norm_inputs(
            self.encoder(self.input_transform(images)).flatten(1, 2)
        )
        return inputs


class Step(nn.Module):
    """One iteration: slots before to slots after, the attention in it, what to add to the next logits, and
    the slots that are painted.

    These are the slots after it, told, where the model has a readout, what they hold. Raises ValueError for
    a model with `SlotMLP`, which has no iterations.
    """

    def __init__(self, model: SlotModel):
        super().__init__()
        stages = stages_of(model)
        group = stages.grouping.slot_attention
        if not isinstance(group, SlotAttention):
            raise ValueError(
                f"`model` groups by {type(group).__name__}, which has no iterations to take apart; use a "
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
        """Slots, attention, the next `bias` (the first iteration's is 0), and the slots that are painted."""
        group = self.slot_attention
        if group.attention_bias is not None and group.bias_before_attention:
            bias = group.early_bias(slots, inputs, bias)
        after, attention = group.step(slots, inputs, bias)
        if group.attention_bias is None:
            bias = torch.zeros_like(bias)
        elif not group.bias_before_attention:
            bias = group.attention_bias(attention, group.resemblance(slots, inputs))
        if self.readout is None:
            return after, attention, bias, after + 0  # an output of its own, when traced
        return after, attention, bias, self.readout(after, inputs, attention.unflatten(-1, self.grid))


class Paint(nn.Module):
    """Slots and the attention that made them to what each paints, and how strongly it claims each pixel.

    Every slot is painted alone: a softmax of the logits over any set of slots, of one image or of several,
    weighs their appearances into an image.
    """

    def __init__(self, model: SlotModel):
        super().__init__()
        decoder = stages_of(model).decoder
        if decoder is None:
            raise ValueError(f"only a discovery model has parts to paint with; got a {type(model).__name__}")
        self.decoder = decoder

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> tuple[Float[Tensor, "batch slots 3 height width"], Float[Tensor, "batch slots height width"]]:
        """Appearance in [0, 1] units (not clamped), and mask logits."""
        painting = self.decoder(slots, attention)
        return 0.5 + 0.5 * painting.appearance, painting.mask_logits


class Begin(nn.Module):
    """Images and start noise to all that the first iteration needs; `Start` and `Encode` together."""

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


class Finish(nn.Module):
    """The last slots and their attention to what the model says: a painted image, or properties."""

    def __init__(self, model: SlotModel):
        super().__init__()
        self.head = stages_of(model).head
        self.paint = Paint(model) if self.head is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """What is said: fields of the model's own output, in order."""
        return ("reconstruction", "appearance", "masks") if self.paint else ("properties",)

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> tuple[Tensor, ...]:
        """What `names` says."""
        if self.paint is None:
            assert self.head is not None
            return (self.head(slots).sigmoid(),)
        appearance, mask_logits = self.paint(slots, attention)
        masks = mask_logits.softmax(dim=1)
        return (masks[:, :, None] * appearance).sum(dim=1), appearance, masks


class Parts(NamedTuple):
    """The parts of a discovery model."""

    start: Start
    encode: Encode
    step: Step
    paint: Paint


def stages_of_discovery(model: SlotModel) -> Parts:
    """The parts of a discovery model, in the state that the model is in.

    Example:
        >>> import torch
        >>> from objecthood.models import autoencoder
        >>> start, encode, step, paint = stages_of_discovery(autoencoder.fast_tetrominoes().eval())
        >>> inputs = encode(torch.rand(2, 3, 35, 35))
        >>> slots = start(torch.randn(2, 5, 64), torch.tensor(0.0))
        >>> slots, attention, bias, seen = step(slots, inputs, torch.zeros(2, 5, 324))
        >>> appearance, mask_logits = paint(seen, attention.unflatten(-1, (18, 18)))
        >>> appearance.shape, mask_logits.shape
        (torch.Size([2, 5, 3, 35, 35]), torch.Size([2, 5, 35, 35]))
    """
    return Parts(Start(model), Encode(model), Step(model), Paint(model))

"""Objects by contrast: slots of one frame must tell the next frame's, as a set, from those of other clips.

Löwe et al. 2020, "Learning Object-Centric Video Models by Contrasting Sets" (arXiv 2011.10287). Slot
attention groups every frame for itself, a transition guesses the next frame's slots, and what is contrasted
is made of the whole set, whatever its order (`losses.set_contrast`): contrast of single slots, after C-SWM
(Kipf et al. 2020, arXiv 1911.12247; `losses.single_slot_contrast`), is as content if all slots say the same.
Nothing is painted; objects are read out of the attention.

Differences from the paper: learned slots and, unless left out, the prior of `models.autoencoder`; what a
slot gives to its set has length 1. Features see a few pixels each and do not know where they are: slots that
can ask for a place divide the picture into tiles, which tell frames apart as well as objects do
(results/tries.md). Frames are grouped from the same learned start, never from slots handed on, which could
carry a clip's mark from frame to frame without a look at it; after training slots may be handed on
(`handed_on`), as in `models.video`. `sees="motion"` groups motion found by matching, as there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn import (
    ClipModel,
    CompactPrior,
    ConvEncoder,
    Grouping,
    LearnedSlots,
    ResidualPredictor,
    SlotAttention,
)
from objecthood.nn.decoders import enlarge
from objecthood.nn.encoders import check_pictures
from objecthood.nn.matching_motion import Sight

SHARPNESS = 4.0
"""With 1, slots part later and less (results/tries.md)."""


class ContrastScene(NamedTuple):
    """What a contrast model makes of clips."""

    slots: Float[Tensor, "batch time slots slot_dim"]
    predicted: Float[Tensor, "batch time slots slot_dim"]
    """The transition's guess for the slots of the frame after each."""
    attention: Float[Tensor, "batch time slots grid_height grid_width"]
    """Softmax over slots, of the last iteration of each frame, on the encoder's grid."""
    masks: Float[Tensor, "batch time slots height width"]
    """The attention, enlarged to the frame; sums to 1 over slots."""


class SetContrast(ClipModel):
    """Encoder, grouping and transition; frames in [0, 1] go in, a `ContrastScene` comes out.

    Args:
        encoder, grouping: as of `SlotAutoencoder`.
        transition: slots of a frame to a guess for the next (`nn.dynamics`).
        embed: of each slot, found or predicted, to what is contrasted of it.
        resolution: side of the square frames, in pixels.
        later_iterations: of slot attention where slots are handed on, in every frame but the first.
        sees: "frame", or "motion" found by matching.

    Example:
        >>> model = moving_sprites(num_slots=4, resolution=32)
        >>> scene = model(torch.rand(2, 3, 3, 32, 32))
        >>> scene.masks.shape, model.said(scene.predicted).shape
        (torch.Size([2, 3, 4, 32, 32]), torch.Size([2, 3, 4, 128]))
    """

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: Grouping,
        transition: nn.Module,
        embed: nn.Module,
        resolution: int,
        later_iterations: int = 2,
        sees: Sight = "frame",
    ):
        super().__init__(encoder, grouping, later_iterations, sees)
        self.transition, self.embed, self.resolution = transition, embed, resolution

    def forward(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
        handed_on: bool = False,
    ) -> ContrastScene:
        """Whole clips at once, every frame from the same start; `noise` is of slots beyond the learned ones.

        `handed_on`: each frame but the first starts from the transition's guess, with `later_iterations`.
        """
        check_pictures(frames.flatten(0, 1), self.resolution)
        return self.group(self.look(frames), num_slots, iterations, noise, handed_on)

    def group(
        self,
        seen: Float[Tensor, "batch time 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
        handed_on: bool = False,
    ) -> ContrastScene:
        """`forward` from what `look` gives."""
        batch, time = seen.shape[:2]
        features = self.features(seen.flatten(0, 1))
        grid = features.shape[1:3]
        inputs = features.flatten(1, 2)
        if num_slots is None and noise is not None:
            num_slots = noise.shape[1]
        start = self.grouping.initial_slots(batch, num_slots, noise)
        if handed_on:
            slots, weights = self._follow(inputs.unflatten(0, (batch, time)), start, iterations)
        else:
            every = start.repeat_interleave(time, dim=0)
            slots, weights = self.grouping.slot_attention(inputs, every, iterations)
            weights = weights[:, -1]
        attention = weights.unflatten(-1, grid)
        masks = enlarge(attention, self.resolution, self.resolution)
        parts = slots, self.transition(slots), attention, masks
        return ContrastScene(*(part.unflatten(0, (batch, time)) for part in parts))

    def _follow(
        self, inputs: Float[Tensor, "batch time inputs dim"], start: Tensor, iterations: int | None
    ) -> tuple[Tensor, Tensor]:
        """Slots and last attention of all frames [batch * time, ...], handed on from frame to frame."""
        slots, attention, before, rounds = [], [], None, iterations
        for now in inputs.unbind(1):
            found, weights = self.grouping.slot_attention(now, start, rounds, before=before)
            before, rounds = weights[:, -1], self.later_iterations
            start = self.transition(found)
            slots.append(found)
            attention.append(before)
        return torch.stack(slots, dim=1).flatten(0, 1), torch.stack(attention, dim=1).flatten(0, 1)

    def said(self, slots: Float[Tensor, "*batch slots slot_dim"]) -> Float[Tensor, "*batch slots dim"]:
        """What each slot gives to its set: vectors of length 1, in 32 bits."""
        return F.normalize(self.embed(slots).float(), dim=-1)


def moving_sprites(
    num_slots: int = 6,
    resolution: int = 64,
    compactness: float = 1.0,
    repulsion: float = 0.0,
    rehome: bool = True,
    later_iterations: int = 2,
    sees: Sight = "frame",
) -> SetContrast:
    """Grouping of `video.moving_sprites`, sharper; features of 3 x 3 pixels, each slot followed alone.

    Queries begin `SHARPNESS` times as long: where nothing is painted, nothing else makes slots part.
    """
    if resolution % 4 or resolution < 8:
        raise ValueError(f"`resolution` (={resolution}) must be a multiple of 4, at least 8")
    grid = (resolution // 2, resolution // 2)
    prior = CompactPrior(grid, compactness, repulsion, rehome) if compactness or repulsion else None
    attention = SlotAttention(64, 64, iterations=3, gradient="bilevel", prior=prior)
    with torch.no_grad():
        attention.project_q.weight *= SHARPNESS
    return SetContrast(
        ConvEncoder(channels=32, feature_dim=64, strides=(2, 1), kernel=(3, 1), places=False),
        Grouping(LearnedSlots(num_slots, 64), attention),
        ResidualPredictor(64),
        nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128)),
        resolution,
        later_iterations,
        sees,
    )

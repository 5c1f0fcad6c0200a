"""Object discovery in video: slots are propagated from frame to frame.

Kipf et al. 2022, "Conditional Object-Centric Learning from Video" (SAVi, arXiv 2111.12594). A predictor maps
the slots of frame t to initial slots of frame t + 1, slot attention corrects them in few iterations, and
every frame is decoded from its slots: the frame, its motion, or the next frame. The slots of the first frame
are learned, or conditioned on a box or centre per object.

Encoder, grouping and decoder are those of `models.autoencoder`. Differences of `moving_sprites` from SAVi-S
(the paper, and code and configuration released in google-research/slot-attention-video):

- Encoder: 2 convolutions, the first of stride 2, a grid of 32 x 32 for frames of 64 x 64, and 64 features.
  SAVi-S: 4 convolutions of stride 1, a grid of 64 x 64, 32 features. Both: 32 channels, kernels of 5, an
  additive position embedding, then layer norm and an MLP. Positions (in the decoder, too) are 4 distances to
  the borders; SAVi: 2 coordinates in [-1, 1].
- Iterations: 3 in the first frame and 2 in later ones (a recipe's test may use more). SAVi-S: 1 in every
  frame.
- Slot attention: slots of size 64 (SAVi-S: 128); an MLP after the GRU (SAVi-S: none, `mlp_size` is not set);
  epsilon is added to the attention before it is normalised (SAVi: to the denominator); spatial bias and
  duplicate suppression of `nn.attention_bias` between iterations and frames (SAVi: none).
- Gradient: bilevel, through the last iteration of each frame and straight-through to its initial slots (SAVi:
  through all iterations). Both propagate through time.
- Initial slots: one learned query per slot if unconditional, as SAVi's `ParamStateInit` (its alternative is
  `GaussianStateInit`). Conditioned: an MLP of the same shape (256 hidden units, ReLU) of boxes or centres,
  with condition 0 for the background. Absent objects have condition -1 (SAVi: 0;
  `recipes.video.object_conditions`).
- Predictor: a transformer block of 4 heads and 256 hidden units, as in SAVi, but pre-norm and initially the
  identity (`nn.dynamics`).
- Decoder: `PatchDecoder` with attention-conditioned masks on a grid of 16 x 16. SAVi-S: a spatial broadcast
  decoder from 8 x 8, with 3 transposed convolutions of stride 2 and one of stride 1, of 64 channels. Both:
  alpha masks that sum to 1 over slots.
- Layer norms have an epsilon of 1e-3 (Keras' default; SAVi: 1e-6, Flax's); initialisation as in Keras, of the
  conditioning MLP as in PyTorch.
- Decoded slots: corrected, as in SAVi; with `decodes_next`, predicted.
- Input: frames, as in SAVi; with `modality="motion"`, motion fields by block matching (`nn.block_matching`),
  after Yang et al. 2021 (arXiv 2104.07658).

`recipes.video` lists differences in training and test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models.base import ClipModel, SlotOutput
from objecthood.nn import (
    SLOT_MODULES,
    ConditionedSlots,
    ConvEncoder,
    Grouping,
    LearnedSlots,
    PatchDecoder,
    SlotModuleOptions,
    SpatialBias,
    TransformerPredictor,
)
from objecthood.nn.block_matching import Modality, motion_of_frame
from objecthood.nn.decoders import SpatialBroadcastDecoder, composite, drop_slots, from_symmetric
from objecthood.nn.encoders import check_images
from objecthood.nn.precision import at_least_float32
from objecthood.runtime import renamed

Conditioning = Literal["unconditional", "boxes", "centres"]
CONDITION_SIZES: dict[str, int] = {"boxes": 4, "centres": 2}


class VideoOutput(NamedTuple):
    """Output of `SlotVideo` for clips, or, without the time axis, for one frame of each."""

    reconstruction: Float[Tensor, "batch *time 3 height width"]
    """Sum of masks * appearance, in [0, 1] units (not clamped)."""
    appearance: Float[Tensor, "batch *time slots 3 height width"]
    masks: Float[Tensor, "batch *time slots height width"]
    """Alpha masks, which sum to 1 over slots."""
    slots: Float[Tensor, "batch *time slots slot_dim"]
    attention: Float[Tensor, "batch *time slots grid_height grid_width"]
    """Softmax over slots of the last iteration of each frame, on the encoder's grid."""


class State(NamedTuple):
    """Recurrent state of a stream, of constant size."""

    slots: Float[Tensor, "batch slots slot_dim"]
    """Initial slots of the next frame."""
    attention: Float[Tensor, "batch slots inputs"]
    """Attention of the last iteration, for the attention bias."""
    previous: Float[Tensor, "batch 3 height width"]
    """The frame, for block matching."""


class SlotVideo(ClipModel):
    """Encoder, grouping, decoder and predictor: frames in [0, 1] to a `VideoOutput`.

    Args:
        encoder, grouping, decoder: as in `SlotAutoencoder`; initial slots and iterations of the first frame
            are those of the grouping.
        predictor: slots of a frame to initial slots of the next (`nn.dynamics`, or `nn.Identity`).
        later_iterations: iterations in every frame but the first (SAVi: 1 in all frames).
        condition: conditioned initial slots of the first frame, instead of the grouping's.
        modality: "frame", or "motion" by block matching.
        decodes_next: whether to decode the slots predicted for the next frame; not possible with
            attention-conditioned masks, as the next frame's attention is unknown.

    Raises:
        ValueError: `decodes_next` is combined with attention-conditioned masks.

    Example:
        >>> model = moving_sprites(num_slots=4, resolution=32)
        >>> clips = torch.rand(2, 3, 3, 32, 32)
        >>> model(clips).masks.shape
        torch.Size([2, 3, 4, 32, 32])
        >>> state = None
        >>> for frame in clips.unbind(1):
        ...     output, state = model.step(frame, state)
        >>> output.masks.shape
        torch.Size([2, 4, 32, 32])
    """

    decoder: SpatialBroadcastDecoder | PatchDecoder
    grouping: Grouping
    tracks = True

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: Grouping,
        decoder: SpatialBroadcastDecoder | PatchDecoder,
        predictor: nn.Module,
        later_iterations: int = 1,
        condition: ConditionedSlots | None = None,
        modality: Modality = "frame",
        decodes_next: bool = False,
    ):
        super().__init__(encoder, grouping, decoder.resolution, later_iterations, modality)
        if decodes_next and getattr(decoder, "attention_conditioned_masks", False):
            raise ValueError("`decodes_next` needs a decoder without attention-conditioned masks")
        self.decoder, self.predictor, self.condition = decoder, predictor, condition
        self.decodes_next = decodes_next

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`, for each image as the first frame of a clip; only the first restart is
        used."""
        first_noise = self._restart_noise(restarts, noise)[0]
        output, _ = self.step(images, num_slots=num_slots, iterations=iterations, noise=first_noise)
        return SlotOutput(**output._replace(attention=output.attention[:, None])._asdict())

    def forward(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        conditions: Float[Tensor, "batch slots numbers"] | None = None,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> VideoOutput:
        """Output for whole clips.

        Args:
            frames: in [0, 1].
            conditions: boxes (top, left, bottom, right) or centres (down, across) in [0, 1] of the first
                frame, one per slot: first 0 for the background, then the objects, then -1 for absent objects
                (see `recipes.video.object_conditions`).
            num_slots, iterations, noise: of the first frame, as in `SlotAutoencoder.forward`.

        Raises:
            ValueError: `frames` or `conditions` do not match the model.
        """
        check_images(frames, self.resolution, has_time=True)
        return self.see(self.to_modality(frames), conditions, num_slots, iterations, noise)

    def see(
        self,
        seen: Float[Tensor, "batch time 3 height width"],
        conditions: Float[Tensor, "batch slots numbers"] | None = None,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> VideoOutput:
        """`forward` after `to_modality`."""
        batch, time = seen.shape[:2]
        features = self.features(seen.flatten(0, 1)).unflatten(0, (batch, time))
        initial = self._initial_slots(batch, conditions, num_slots, noise)
        slots, decoded, attention, previous = [], [], [], None
        for now in range(time):
            rounds = iterations if now == 0 else self.later_iterations
            inputs = features[:, now].flatten(1, 2)
            found, weights = self.grouping.slot_attention(inputs, initial, rounds, previous=previous)
            previous = weights[:, -1]
            initial = self.predictor(found)
            slots.append(found)
            decoded.append(initial if self.decodes_next else found)
            attention.append(previous.unflatten(-1, features.shape[2:4]))
        return self._decode(*(torch.stack(parts, dim=1) for parts in (slots, decoded, attention)))

    def step(
        self,
        frame: Float[Tensor, "batch 3 height width"],
        state: State | None = None,
        following: Float[Tensor, "batch 3 height width"] | None = None,
        conditions: Float[Tensor, "batch slots numbers"] | None = None,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> tuple[VideoOutput, State]:
        """Output for one frame of a stream, and the state for the next.

        Args:
            frame: in [0, 1].
            state: state of the previous frame; None for the first frame.
            following: next frame, for motion; without it, motion is that from the previous frame.
            conditions, num_slots, iterations, noise: of the first frame, as in `forward`.
        """
        check_images(frame, self.resolution)
        if state is None:
            initial = self._initial_slots(len(frame), conditions, num_slots, noise)
            rounds, previous = iterations, None
        else:
            initial, rounds, previous = state.slots, self.later_iterations, state.attention
        image = frame
        if self.modality == "motion":
            image = motion_of_frame(frame, following, None if state is None else state.previous)
        features = self.features(image)
        inputs = features.flatten(1, 2)
        slots, weights = self.grouping.slot_attention(inputs, initial, rounds, previous=previous)
        predicted = self.predictor(slots)
        attention = weights[:, -1].unflatten(-1, features.shape[1:3])
        parts = slots, predicted if self.decodes_next else slots, attention
        output = self._decode(*(part[:, None] for part in parts))
        return VideoOutput(*(part[:, 0] for part in output)), State(predicted, weights[:, -1], frame)

    def _initial_slots(
        self, batch: int, conditions: Tensor | None, num_slots: int | None, noise: Tensor | None
    ) -> Float[Tensor, "batch slots slot_dim"]:
        if (conditions is None) != (self.condition is None):
            problem = "needs `conditions`; got None" if self.condition else "takes no `conditions`"
            raise ValueError(f"this model {problem}; see `conditioning` of its recipe")
        if self.condition is not None:
            return self.condition(conditions)
        return self.grouping.start(batch, num_slots, noise)

    def _decode(self, slots: Tensor, decoded: Tensor, attention: Tensor) -> VideoOutput:
        """Output with the images of `decoded` slots [batch, time, slots, dim]."""
        shape = slots.shape[:2]
        flat, maps = decoded.flatten(0, 1), attention.flatten(0, 1)
        images = drop_slots(
            self.decoder(flat, maps), self.grouping.slot_attention.keep(flat, maps.flatten(2))
        )
        reconstruction, masks = composite(images.appearance, images.mask_logits)
        appearance = from_symmetric(at_least_float32(images.appearance))
        reconstruction, appearance, masks = (
            part.unflatten(0, shape) for part in (reconstruction, appearance, masks)
        )
        return VideoOutput(reconstruction, appearance, masks, slots, attention)


def moving_sprites(
    num_slots: int = 6,
    resolution: int = 64,
    spatial_bias: float = 1.0,
    merge_penalty: float = 15.0,
    split_slots: bool = True,
    later_iterations: int = 2,
    predictor: nn.Module | None = None,
    conditioning: Conditioning = "unconditional",
    modality: Modality = "frame",
    decodes_next: bool = False,
    slot_module: str = "slot-attention",
) -> SlotVideo:
    """The modules of `autoencoder.fast_sprites` with a predictor (default: `TransformerPredictor`).

    `conditioning` is "unconditional" (learned slots), "boxes" or "centres". With `decodes_next`, masks are
    not attention-conditioned. `slot_module` is one of `nn.SLOT_MODULES`.
    """
    if resolution % 4 or resolution < 8:
        raise ValueError(f"`resolution` (={resolution}) must be a multiple of 4, at least 8")
    grid = (resolution // 2, resolution // 2)
    attention_bias = (
        SpatialBias(grid, spatial_bias, merge_penalty, split_slots) if spatial_bias or merge_penalty else None
    )
    options = SlotModuleOptions(num_slots, grid, 64, 64, attention_bias, gradient="bilevel")
    return SlotVideo(
        ConvEncoder(channels=32, feature_dim=64, strides=(2, 1)),
        Grouping(LearnedSlots(num_slots, 64), SLOT_MODULES[slot_module](options)),
        PatchDecoder(
            64,
            grid=resolution // 4,
            patch=4,
            channels=48,
            depth=2,
            kernel=1,
            attention_conditioned_masks=not decodes_next,
        ),
        TransformerPredictor(64) if predictor is None else predictor,
        later_iterations,
        None
        if conditioning == "unconditional"
        else ConditionedSlots(num_slots, 64, CONDITION_SIZES[conditioning]),
        modality,
        decodes_next,
    )


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

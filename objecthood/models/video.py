"""Objects in video: the slots of one frame begin the next, so that each stays with its object.

Kipf et al. 2022, "Conditional Object-Centric Learning from Video" (SAVi, arXiv 2111.12594). A predictor makes
of the slots of frame t the first guess for frame t + 1, slot attention corrects it with few iterations, and
every frame is decoded from its slots: the frame itself, its motion, or the frame after it. Slots start
unconditioned, or from a box or a point for each object in the first frame.

Encoder, grouping and decoder are those of `models.autoencoder`, so that one frame alone gives what the image
model gives. `moving_sprites` differs from SAVi-S (the paper, and the released code and configuration in
google-research/slot-attention-video) in this:

- Encoder: 2 convolutions, the first of stride 2, so a grid of 32 x 32 for frames of 64 x 64, and 64 features.
  SAVi-S: 4 convolutions of stride 1, a grid of 64 x 64, 32 features. Both: 32 channels, kernels of 5, a
  position embedding that is added, then layer norm and an MLP. Positions are 4 distances to the borders,
  there 2 coordinates in [-1, 1]; this holds in the decoder as well.
- Iterations: 3 in the first frame and 2 in later ones (the test of a recipe may take more). SAVi: 1 in every
  frame, the first included, in SAVi-S; the paper names no extra iterations for the first frame.
- Slot attention: slots of 64 (there 128); an MLP after the GRU (SAVi-S: none, `mlp_size` is not set); epsilon
  is added to the attention before it is normalised (there to the denominator); the spatial bias and duplicate
  suppression of `nn.attention_bias` act between iterations and from one frame on the next (there: none).
- Gradient: bilevel, through the last iteration of each frame and straight to its first slots (there: through
  all). Both go back through time.
- Start: learned slots, one each, if unconditional, as `ParamStateInit` there (`GaussianStateInit` is its
  other choice). Conditioned: an MLP of the same shape (256 hidden units, ReLU) of boxes or centres, the
  background's hint first and 0. An absent object's hint is -1, there 0 (`recipes.video.object_conditions`).
- Predictor: a transformer block of 4 heads and 256 hidden units, as there. Norms come before attention and
  MLP, not after, and the block begins as identity (`nn.dynamics`).
- Decoder: an attention-guided `PatchDecoder` on a grid of 16 x 16. SAVi-S: a spatial broadcast decoder that
  begins at 8 x 8, with 3 transposed convolutions of stride 2 and one of stride 1, of 64 channels. The mixture
  with masks that sum to 1 over slots is the same.
- Layer norms have an epsilon of 1e-3 (Keras' default; there 1e-6, Flax's); weights begin as in Keras, those
  of the hint's MLP as in PyTorch.
- What is decoded: corrected slots, as there; `decodes_next` decodes the predicted ones.
- `modality="motion"` groups a motion field, found by matching (`nn.block_matching`), in place of the frame,
  after Yang et al. 2021 (arXiv 2104.07658). SAVi sees frames.

Training and test differ as `recipes.video` lists.
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
from objecthood.nn.decoders import SpatialBroadcastDecoder
from objecthood.nn.encoders import check_images
from objecthood.nn.precision import at_least_float32
from objecthood.runtime import renamed

Conditioning = Literal["unconditional", "boxes", "centres"]
CONDITION_SIZES: dict[str, int] = {"boxes": 4, "centres": 2}


class VideoOutput(NamedTuple):
    """What a video model makes of clips, or, without the time axis, of one frame of each."""

    reconstruction: Float[Tensor, "batch *time 3 height width"]
    """Sum of masks * appearance, in [0, 1] units (not clamped), of what the model paints."""
    appearance: Float[Tensor, "batch *time slots 3 height width"]
    masks: Float[Tensor, "batch *time slots height width"]
    """Where each slot is seen; sums to 1 over slots."""
    slots: Float[Tensor, "batch *time slots slot_dim"]
    attention: Float[Tensor, "batch *time slots grid_height grid_width"]
    """Softmax over slots, of the last iteration of each frame, on the encoder's grid."""


class State(NamedTuple):
    """All that a stream carries from frame to frame, however long it is."""

    slots: Float[Tensor, "batch slots slot_dim"]
    """What the next frame starts from."""
    attention: Float[Tensor, "batch slots inputs"]
    """What they attended to last, for priors."""
    previous: Float[Tensor, "batch 3 height width"]
    """The frame itself, from which motion is found."""


class SlotVideo(ClipModel):
    """Encoder, grouping, decoder and predictor; frames in [0, 1] go in, a `VideoOutput` comes out.

    Args:
        encoder, grouping, decoder: as of `SlotAutoencoder`; the first frame's start and iterations are the
            grouping's.
        predictor: slots of a frame to the first guess for the next (`nn.dynamics`, or `nn.Identity`).
        later_iterations: of slot attention, in every frame but the first (SAVi: 1, in the first as well).
        condition: first slots from hints, in place of the grouping's own start.
        modality: "frame", or "motion" found by matching.
        decodes_next: whether each frame's painting comes from the slots predicted for the next one; for
            decoders that are not guided by attention, which no frame has before it is seen.

    Example:
        >>> model = moving_sprites(num_slots=4, resolution=32)
        >>> clips = torch.rand(2, 3, 3, 32, 32)
        >>> model(clips).masks.shape
        torch.Size([2, 3, 4, 32, 32])
        >>> state = None
        >>> for frame in clips.unbind(1):
        ...     scene, state = model.step(frame, state)
        >>> scene.masks.shape
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
            raise ValueError("`decodes_next` needs a decoder that is not guided by attention")
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
        """As `SlotModel.segment`, every image as the first frame of a clip; of the first restart."""
        start = self._restart_noise(restarts, noise)[0]
        scene, _ = self.step(images, num_slots=num_slots, iterations=iterations, noise=start)
        return SlotOutput(**scene._replace(attention=scene.attention[:, None])._asdict())

    def forward(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        conditions: Float[Tensor, "batch slots numbers"] | None = None,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> VideoOutput:
        """Whole clips at once; `conditions`, `num_slots`, `iterations` and `noise` are for the first frame.

        `conditions` are boxes (top, left, bottom, right) or centres (down, across) in [0, 1], one for each slot:
        a row of 0 first, for the background, then the objects, and a row of -1 for a slot without one
        (`recipes.video.object_conditions` makes them of masks).
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
        """`forward` from what `to_modality` gives."""
        batch, time = seen.shape[:2]
        features = self.features(seen.flatten(0, 1)).unflatten(0, (batch, time))
        start = self._start(batch, conditions, num_slots, noise)
        slots, painted, attention, before = [], [], [], None
        for now in range(time):
            rounds = iterations if now == 0 else self.later_iterations
            inputs = features[:, now].flatten(1, 2)
            found, weights = self.grouping.slot_attention(inputs, start, rounds, previous=before)
            before = weights[:, -1]
            start = self.predictor(found)
            slots.append(found)
            painted.append(start if self.decodes_next else found)
            attention.append(before.unflatten(-1, features.shape[2:4]))
        return self._paint(*(torch.stack(parts, dim=1) for parts in (slots, painted, attention)))

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
        """The next frame of a stream; without `state` the first one, to which the last arguments belong.

        A model that sees motion is shown the `following` frame as well; at the end of a stream, without one,
        it takes the motion from the frame before.
        """
        check_images(frame, self.resolution)
        if state is None:
            start, rounds, before = self._start(len(frame), conditions, num_slots, noise), iterations, None
        else:
            start, rounds, before = state.slots, self.later_iterations, state.attention
        seen = frame
        if self.modality == "motion":
            seen = motion_of_frame(frame, following, None if state is None else state.previous)
        features = self.features(seen)
        slots, weights = self.grouping.slot_attention(features.flatten(1, 2), start, rounds, previous=before)
        predicted = self.predictor(slots)
        attention = weights[:, -1].unflatten(-1, features.shape[1:3])
        parts = slots, predicted if self.decodes_next else slots, attention
        scene = self._paint(*(part[:, None] for part in parts))
        return VideoOutput(*(part[:, 0] for part in scene)), State(predicted, weights[:, -1], frame)

    def _start(
        self, batch: int, conditions: Tensor | None, num_slots: int | None, noise: Tensor | None
    ) -> Float[Tensor, "batch slots slot_dim"]:
        if (conditions is None) != (self.condition is None):
            problem = "none were given" if conditions is None else "it takes none"
            wanted = "starts from hints" if self.condition else "starts unconditioned"
            raise ValueError(f"this model {wanted}, and {problem}; see `conditioning` of its recipe")
        if self.condition is not None:
            return self.condition(conditions)
        if num_slots is None and noise is not None:
            num_slots = noise.shape[1]
        return self.grouping.initial_slots(batch, num_slots, noise)

    def _paint(self, slots: Tensor, painted: Tensor, attention: Tensor) -> VideoOutput:
        """Everything that is seen of slots [batch, time, slots, dim]."""
        shape = slots.shape[:2]
        painting = self.decoder(painted.flatten(0, 1), attention.flatten(0, 1))
        appearance = at_least_float32(painting.appearance)
        masks = at_least_float32(painting.mask_logits).softmax(dim=1)
        mixed = (masks[:, :, None] * appearance).sum(dim=1)
        reconstruction, appearance, masks = (
            part.unflatten(0, shape) for part in (0.5 + 0.5 * mixed, 0.5 + 0.5 * appearance, masks)
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
    """The blocks of `autoencoder.fast_sprites`, frame after frame; a `TransformerPredictor` unless given.

    `conditioning`: "unconditional" (learned slots), "boxes" or "centres". A model that paints the next frame is not
    guided by attention. `slot_module` is one of `nn.SLOT_MODULES`.
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

"""Slots over frozen features of video, which they must reconstruct, propagated from frame to frame.

DINOSAUR (`models.dinosaur`) with the recurrence of SAVi (Kipf et al. 2022, arXiv 2111.12594): a predictor
maps the slots of a frame to initial slots of the next. VideoSAUR (Zadaianchuk et al. 2023, arXiv 2306.04829)
has slots predict where each patch moves in feature space (`losses.temporal_similarity`); SlotContrast
(Manasyan et al. 2025, arXiv 2412.14295) contrasts slots of adjacent frames (`losses.slot_slot_contrast`).
Both are losses of `recipes.feature_video`, and one architecture: slot attention whose GRU has normalised
slots as its state, with layer norms of epsilon 1e-5, a pre-norm transformer block as predictor, and an MLP
decoder or a slot mixer.

Differences: predictor and mixer blocks start as the identity (theirs: Glorot's weights). Similarity is that
of the features, not of the keys of the transformer's last block. Off by default: an attention bias between
iterations and frames (`nn.attention_bias`), masks conditioned on the attention, positions in what slots
group, motion, and centred features. With motion, an embedding of each cell's residual motion is added to its
projected features, so that one attention groups both, and slots must reconstruct both. Centred features are
those of a cell minus its mean over training frames: what a convolutional backbone gives at the border of any
image is no object.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models.base import SlotOutput
from objecthood.models.of_features import Decoder, FeatureModel
from objecthood.nn.feature_decoders import FeatureReconstruction
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.grouping import Grouping
from objecthood.nn.stored_vit import StoredViT

MOTION_DIM = 2
"""Values of a cell's motion: across and down."""


@runtime_checkable
class Motion(Protocol):
    """Motion of frames on the grid of the features (`motion.residual`)."""

    def __call__(
        self, frame: Tensor, following: Tensor | None = None, previous: Tensor | None = None
    ) -> Float[Tensor, "batch rows columns 2"]: ...

    def of_clips(self, clips: Tensor) -> Float[Tensor, "batch time rows columns 2"]: ...


class ClipSlots(NamedTuple):
    """Slots of a clip, and what is decoded of them."""

    slots: Float[Tensor, "batch time slots slot_dim"]
    attention: Float[Tensor, "batch time slots rows columns"]
    """Of the last iteration of each frame."""
    features: Float[Tensor, "batch time rows columns feature_dim"] | None
    """None for a model that decodes similarity alone."""
    masks: Float[Tensor, "batch time slots rows columns"]
    """The decoder's, which sum to 1 over slots."""
    similarity: Float[Tensor, "batch time patches patches"] | None
    """Logits of where each patch is in the next frame; None for a model that does not predict it."""
    motion: Float[Tensor, "batch time rows columns 2"] | None
    """None for a model without motion."""


class ClipMasks(NamedTuple):
    """Masks of a clip at the frames' size."""

    slots: Float[Tensor, "batch time slots slot_dim"]
    masks: Float[Tensor, "batch time slots height width"]


class State(NamedTuple):
    """Recurrent state of a stream, of constant size."""

    slots: Float[Tensor, "batch slots slot_dim"]
    """Initial slots of the next frame."""
    attention: Float[Tensor, "batch slots inputs"]
    """Of the last iteration, for an attention bias."""
    previous: Float[Tensor, "batch 3 height width"] | None
    """The frame, for motion."""


class FeatureVideo(FeatureModel):
    """A `FeatureModel` whose slots persist.

    Args:
        backbone, grouping, image_size, hidden_dim: as of `FeatureModel`; initial slots and iterations are
            those of the first frame.
        decoder: slots to features, to motion, to logits of similarity, or to several, one after the other.
        predictor: slots of a frame to initial slots of the next.
        later_iterations: iterations in every frame but the first, at least 1.
        decodes_features: whether the decoder's first `backbone.feature_dim` values are features.
        decodes_similarity: whether its last values, one a patch, are logits of similarity.
        motion: of frames; slots group it beside the features, and decode it.
        centred: whether slots group and decode features minus their mean at each position (`track_mean`).
        options: others of `FeatureModel`.

    Raises:
        ValueError: `later_iterations` below 1, or a decoder of neither features nor similarity.

    Example:
        >>> from objecthood.nn import GaussianSlots, SlotAttention, TransformerPredictor
        >>> from objecthood.nn.feature_decoders import MLPFeatureDecoder
        >>> from objecthood.nn.frozen_features import backbone
        >>> model = FeatureVideo(
        ...     backbone("efficientnet-lite0"),
        ...     Grouping(GaussianSlots(num_slots=5, dim=16), SlotAttention(input_dim=16, slot_dim=16)),
        ...     MLPFeatureDecoder(slot_dim=16, grid=(4, 6), feature_dim=304, hidden_dim=32),
        ...     TransformerPredictor(16),
        ...     image_size=(64, 96),
        ... )
        >>> state = None
        >>> for frame in torch.rand(3, 2, 3, 64, 96):
        ...     output, state = model.step(frame, state)
        >>> output.masks.shape
        torch.Size([2, 5, 64, 96])
    """

    tracks = True

    def __init__(
        self,
        backbone: Backbone | StoredViT,
        grouping: Grouping,
        decoder: Decoder,
        predictor: nn.Module,
        image_size: tuple[int, int],
        hidden_dim: int | None = None,
        later_iterations: int = 2,
        decodes_features: bool = True,
        decodes_similarity: bool = False,
        motion: Motion | None = None,
        centred: bool = False,
        **options: Any,
    ):
        super().__init__(backbone, grouping, decoder, image_size, hidden_dim, **options)
        if later_iterations < 1:
            raise ValueError(f"`later_iterations` (={later_iterations}) must be at least 1")
        if not (decodes_features or decodes_similarity):
            raise ValueError("a decoder must have features or similarity to decode; choose one, or both")
        self.predictor, self.later_iterations = predictor, later_iterations
        self.decodes_features, self.decodes_similarity = decodes_features, decodes_similarity
        self.selects_restarts = decodes_features  # by their error
        self.feature_mean: Tensor | None
        mean = torch.zeros(*self.feature_grid, backbone.feature_dim) if centred else None
        self.register_buffer("feature_mean", mean)
        self.motion = motion
        dim = grouping.slot_attention.input_dim
        self.embed_motion = (
            None
            if motion is None
            else nn.Sequential(nn.Linear(MOTION_DIM, dim), nn.ReLU(), nn.Linear(dim, dim))
        )

    def clip(
        self,
        features: Float[Tensor, "batch time rows columns feature_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
        motion: Float[Tensor, "batch time rows columns 2"] | None = None,
    ) -> ClipSlots:
        """Slots of the features and the motion of whole clips, and what they decode to; `num_slots`,
        `iterations` and `noise` are of the first frame."""
        batch, time, rows, columns, _ = features.shape
        flat = None if motion is None else motion.flatten(0, 1)
        inputs = self.inputs(features.flatten(0, 1), flat).unflatten(0, (batch, time))
        initial = self.grouping.start(batch, num_slots, noise)
        slots, attention, previous = [], [], None
        for now in range(time):
            rounds = iterations if now == 0 else self.later_iterations
            found, weights = self.grouping.slot_attention(inputs[:, now], initial, rounds, previous=previous)
            initial, previous = self.predictor(found), weights[:, -1]
            slots.append(found)
            attention.append(previous.unflatten(-1, (rows, columns)))
        found, maps = torch.stack(slots, dim=1), torch.stack(attention, dim=1)
        decoded = self.decoder(found.flatten(0, 1), features.flatten(0, 1), None, maps.flatten(0, 1))
        known, masks, similarity, moved = (
            None if part is None else part.unflatten(0, (batch, time)) for part in self._parts(decoded)
        )
        assert masks is not None  # decoders have them
        return ClipSlots(found, maps, known, masks, similarity, moved)

    def inputs(
        self,
        features: Float[Tensor, "batch rows columns feature_dim"],
        motion: Float[Tensor, "batch rows columns 2"] | None = None,
    ) -> Float[Tensor, "batch inputs input_dim"]:
        """What slots group: projected features, and of a model with motion its embedding (by default of
        none)."""
        inputs = super().inputs(features if self.feature_mean is None else features - self.feature_mean)
        if self.embed_motion is None:
            return inputs
        if motion is None:
            motion = features.new_zeros(*features.shape[:3], MOTION_DIM)
        return inputs + self.embed_motion(motion.to(inputs)).flatten(1, 2)

    @torch.no_grad()
    def track_mean(self, features: Float[Tensor, "batch time rows columns feature_dim"], step: int) -> None:
        """Add a batch to the mean over all batches so far, of which `step` came before; nothing for a model
        without centred features. Values that are not finite, of a step that is then skipped, are left out."""
        if self.feature_mean is not None:
            mean = features.mean(dim=(0, 1)).to(self.feature_mean)
            mean = torch.where(mean.isfinite(), mean, self.feature_mean)
            self.feature_mean.lerp_(mean, 1 / (step + 1))

    def features_of(
        self, frames: Float[Tensor, "batch time 3 height width"], at_once: int = 32
    ) -> Float[Tensor, "batch time rows columns feature_dim"]:
        """The backbone's features of frames in [0, 1], `at_once` of them at a time."""
        parts = [self.backbone(some) for some in frames.flatten(0, 1).split(at_once)]
        return torch.cat(parts).unflatten(0, frames.shape[:2])

    def at_size(
        self, masks: Float[Tensor, "batch time slots rows columns"], frames: Tensor
    ) -> Float[Tensor, "batch time slots height width"]:
        """Masks of the grid at the size of `frames`."""
        return self._at_size(masks.flatten(0, 1), frames.flatten(0, 1)).unflatten(0, masks.shape[:2])

    def step(
        self,
        frame: Float[Tensor, "batch 3 height width"],
        state: State | None = None,
        following: Float[Tensor, "batch 3 height width"] | None = None,
        *,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> tuple[SlotOutput, State]:
        """Output for one frame of a stream, and the state for the next (`SlotModel.step`)."""
        features = self.backbone(frame)
        if state is None:
            initial, rounds, previous = self.grouping.start(len(frame), num_slots, noise), iterations, None
        else:
            initial, rounds, previous = state.slots, self.later_iterations, state.attention
        motion = None
        if self.motion is not None:
            motion = self.motion(frame, following, None if state is None else state.previous)
        inputs = self.inputs(features, motion)
        slots, weights = self.grouping.slot_attention(inputs, initial, rounds, previous=previous)
        attention = weights.unflatten(-1, features.shape[1:3])
        masks = self.decode(slots, features, None, attention[:, -1]).masks
        output = SlotOutput(slots, attention, self._at_size(masks, frame))
        kept = None if self.motion is None else frame
        return output, State(self.predictor(slots), weights[:, -1], kept)

    def decode(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        features: Float[Tensor, "batch rows columns feature_dim"],
        order: int | None = None,
        attention: Float[Tensor, "batch slots rows columns"] | None = None,
    ) -> FeatureReconstruction:
        """What slots decode to; for a model that decodes similarity alone, the true features."""
        known, masks, *_ = self._parts(self.decoder(slots, features, order, attention))
        return FeatureReconstruction(features if known is None else known, masks)

    def anomaly_score(
        self, images: Float[Tensor, "batch 3 height width"], output: SlotOutput
    ) -> dict[str, Float[Tensor, " batch"]]:
        """As of `FeatureModel`; by the attention, for a model that decodes similarity alone."""
        if self.decodes_features:
            return super().anomaly_score(images, output)
        return super(FeatureModel, self).anomaly_score(images, output)

    def _parts(
        self, decoded: FeatureReconstruction
    ) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """Features, masks, logits of similarity [batch, patches, patches], and motion."""
        dim = self.backbone.feature_dim if self.decodes_features else 0
        moved = dim + MOTION_DIM * (self.motion is not None)
        features = decoded.features[..., :dim] if self.decodes_features else None
        if features is not None and self.feature_mean is not None:
            features = features + self.feature_mean
        motion = None if self.motion is None else decoded.features[..., dim:moved]
        similarity = decoded.features[..., moved:].flatten(1, 2) if self.decodes_similarity else None
        return features, decoded.masks, similarity, motion

"""Contrastive object discovery in video: the slots of a frame predict those of the next as a set.

Löwe et al. 2020, "Learning Object-Centric Video Models by Contrasting Sets" (arXiv 2011.10287). Frames are
grouped independently, a transition model predicts the next frame's slots, and the loss contrasts sets of
slots over clips, independent of their order (`losses.set_contrast`, `losses.nearest_contrast`). Slot-wise
InfoNCE, after C-SWM (Kipf et al. 2020, arXiv 1911.12247; `losses.slot_infonce`), is also minimised by
collapsed slots. There is no decoder; masks are the attention.

Differences from the paper: slots are means of features with farthest-point initialisation in each frame
(`nn.SoftKMeans`), with an optional spatial bias. Projections have length 1. Features have a small receptive
field and no position embedding: with positions, slots divide the image into tiles, which identify frames as
well as objects do (results/tries.md). Slots are not propagated in training, where they could carry the
identity of a clip; they may be afterwards (`propagate_slots`). `modality="motion"` as in `models.video`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models.base import ClipModel, SlotOutput
from objecthood.nn import (
    ConvEncoder,
    PatchDecoder,
    ResidualPredictor,
    SoftKMeans,
    SpatialBias,
)
from objecthood.nn.block_matching import Modality
from objecthood.nn.decoders import composite, enlarge
from objecthood.nn.encoders import check_images
from objecthood.nn.precision import at_least_float32
from objecthood.nn.soft_kmeans import Clusters
from objecthood.runtime import renamed


class ContrastOutput(NamedTuple):
    """Output of `SetContrast` for clips."""

    slots: Float[Tensor, "batch time slots slot_dim"]
    predicted: Float[Tensor, "batch time slots slot_dim"]
    """Predicted slots of the next frame."""
    attention: Float[Tensor, "batch time slots grid_height grid_width"]
    """Softmax over slots of the last iteration of each frame, on the encoder's grid."""
    masks: Float[Tensor, "batch time slots height width"]
    """The attention at the size of the frame; sums to 1 over slots."""


class SetContrast(ClipModel):
    """Encoder, grouping and transition: frames in [0, 1] to a `ContrastOutput`.

    Args:
        encoder: as in `SlotAutoencoder`.
        grouping: features to slots.
        transition: slots of a frame to predicted slots of the next (`nn.dynamics`).
        embed: projection of slots for the contrastive loss.
        resolution: side of the square frames, in pixels.
        later_iterations: iterations in frames with propagated slots.
        modality: "frame", or "motion" by block matching.
        decoder: slots and attention to an image, for the control trained by reconstruction.

    Example:
        >>> model = moving_sprites(num_slots=4, resolution=32)
        >>> output = model(torch.rand(2, 3, 3, 32, 32))
        >>> output.masks.shape, model.project(output.predicted).shape
        (torch.Size([2, 3, 4, 32, 32]), torch.Size([2, 3, 4, 128]))
    """

    grouping: SoftKMeans

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: SoftKMeans,
        transition: nn.Module,
        embed: nn.Module,
        resolution: int,
        later_iterations: int = 2,
        modality: Modality = "frame",
        decoder: PatchDecoder | None = None,
    ):
        super().__init__(encoder, grouping, resolution, later_iterations, modality)
        self.transition, self.embed, self.decoder = transition, embed, decoder

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`, without noise; the attention is that of the last iteration."""
        output = self(images[:, None], num_slots, iterations)
        return SlotOutput(output.slots[:, 0], output.attention, output.masks[:, 0])

    def forward(
        self,
        frames: Float[Tensor, "batch time 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        propagate_slots: bool = False,
    ) -> ContrastOutput:
        """Output for whole clips.

        `propagate_slots`: frames after the first start from the means of the previous frame, with
        `later_iterations`; otherwise frames are independent.
        """
        check_images(frames, self.resolution, has_time=True)
        return self.group(self.to_modality(frames), num_slots, iterations, propagate_slots)

    def group(
        self,
        seen: Float[Tensor, "batch time 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        propagate_slots: bool = False,
    ) -> ContrastOutput:
        """`forward` after `to_modality`."""
        batch, time = seen.shape[:2]
        features = self.features(seen.flatten(0, 1))
        inputs = features.flatten(1, 2)
        if propagate_slots:
            slots, weights = self._propagate(inputs.unflatten(0, (batch, time)), num_slots, iterations)
        else:
            slots, _, weights = self.grouping.cluster(inputs, num_slots, iterations)
        attention = weights.unflatten(-1, features.shape[1:3])
        masks = enlarge(attention, self.resolution, self.resolution)
        parts = slots, self.transition(slots), attention, masks
        return ContrastOutput(*(part.unflatten(0, (batch, time)) for part in parts))

    def _propagate(
        self,
        inputs: Float[Tensor, "batch time inputs dim"],
        num_slots: int | None,
        iterations: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Slots and attention of all frames [batch * time, ...], with propagated means."""
        found: list[Clusters] = []
        for now in inputs.unbind(1):
            if not found:
                found.append(self.grouping.cluster(now, num_slots, iterations))
            else:
                _, means, attention = found[-1]
                found.append(self.grouping.cluster(now, num_slots, self.later_iterations, means, attention))
        slots, _, weights = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*found, strict=True))
        return slots, weights

    def reconstruct(self, scene: ContrastOutput) -> Float[Tensor, "batch time 3 height width"]:
        """Reconstruction by `decoder`, in [0, 1] units (not clamped)."""
        assert self.decoder is not None, "this model was built without a decoder"
        decoded = self.decoder(scene.slots.flatten(0, 1), scene.attention.flatten(0, 1))
        image, _ = composite(decoded.appearance, decoded.mask_logits)
        return image.unflatten(0, scene.slots.shape[:2])

    def project(self, slots: Float[Tensor, "*batch slots slot_dim"]) -> Float[Tensor, "*batch slots dim"]:
        """Projections of slots for the contrastive loss: vectors of length 1, at least float32."""
        return F.normalize(at_least_float32(self.embed(slots)), dim=-1)


def moving_sprites(
    num_slots: int = 6,
    resolution: int = 64,
    spatial_bias: float = 1.0,
    merge_penalty: float = 6.0,
    split_slots: bool = True,
    later_iterations: int = 2,
    modality: Modality = "frame",
    reconstruction: bool = False,
) -> SetContrast:
    """Features of 3 x 3 pixels, soft k-means with spatial bias, and a residual transition of each slot; with
    `reconstruction`, a decoder instead of transition and projection."""
    if resolution % 4 or resolution < 8:
        raise ValueError(f"`resolution` (={resolution}) must be a multiple of 4, at least 8")
    grid = (resolution // 2, resolution // 2)
    attention_bias = (
        SpatialBias(grid, spatial_bias, merge_penalty, split_slots) if spatial_bias or merge_penalty else None
    )
    projection = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128))
    return SetContrast(
        ConvEncoder(channels=32, feature_dim=64, strides=(2, 1), kernel=(3, 1), positions=False),
        SoftKMeans(num_slots, grid, 64, 64, attention_bias=attention_bias),
        nn.Identity() if reconstruction else ResidualPredictor(64),
        nn.Identity() if reconstruction else projection,
        resolution,
        later_iterations,
        modality,
        PatchDecoder(
            64,
            grid=resolution // 4,
            patch=4,
            channels=48,
            depth=2,
            kernel=1,
            attention_conditioned_masks=True,
        )
        if reconstruction
        else None,
    )


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

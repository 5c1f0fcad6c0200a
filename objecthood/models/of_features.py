"""What models of frozen features share: backbone, projection, grouping and a decoder of features.

`models.dinosaur` takes images, `models.feature_video` adds a predictor and takes videos. A model may group
the features of another backbone than the one whose features it reconstructs (SPOT's second stage).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models.base import FeatureStages, SlotModel, SlotOutput
from objecthood.nn.autoregressive_decoder import EVERY, AutoregressiveDecoder
from objecthood.nn.backbones import resized, working_size
from objecthood.nn.encoders import check_images
from objecthood.nn.feature_decoders import FeatureReconstruction, MLPFeatureDecoder, SlotMixerDecoder
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.grouping import Grouping
from objecthood.nn.guided_filter import masks_at_size
from objecthood.nn.local_context import LocalContext
from objecthood.nn.positions import PositionEmbedding
from objecthood.nn.precision import at_least_float32
from objecthood.nn.stored_vit import StoredViT

Decoder: TypeAlias = MLPFeatureDecoder | AutoregressiveDecoder | SlotMixerDecoder
FEATURE_ERROR = "reconstruction error of features"


class Slots(NamedTuple):
    """Slots of features, and what is decoded of them."""

    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots rows columns"]
    decoded: FeatureReconstruction


class FeatureModel(SlotModel):
    """Backbone, projection, grouping, and a decoder of features.

    Args:
        backbone: frozen features of images.
        grouping: projected features to slots.
        decoder: slots to the backbone's features.
        image_size: height and width of the images that go in, multiples of the backbone's stride.
        hidden_dim: of the projection, a layer norm and a two-layer MLP (paper: that of the features).
        attention_masks: whether masks are the slots' last attention, and not the decoder's masks.
        guided_masks: whether masks follow the edges of the image.
        positions: whether an embedding of their positions is added to the projected features.
        context_blocks: blocks of `LocalContext` between the projected features and the slots.
        grouped: the backbone whose features slots group, if not those that they reconstruct; of the same
            stride and size of features.

    Example:
        >>> from objecthood.nn import GaussianSlots, SlotAttention
        >>> from objecthood.nn.frozen_features import backbone
        >>> model = FeatureModel(
        ...     backbone("efficientnet-lite0"),
        ...     Grouping(GaussianSlots(num_slots=5, dim=16), SlotAttention(input_dim=16, slot_dim=16)),
        ...     MLPFeatureDecoder(slot_dim=16, grid=(4, 6), feature_dim=304, hidden_dim=32),
        ...     image_size=(64, 96),
        ... )
        >>> model.segment(torch.rand(2, 3, 64, 96)).masks.shape
        torch.Size([2, 5, 64, 96])
    """

    grouping: Grouping
    selects_restarts = True

    def __init__(
        self,
        backbone: Backbone | StoredViT,
        grouping: Grouping,
        decoder: Decoder,
        image_size: tuple[int, int],
        hidden_dim: int | None = None,
        attention_masks: bool = False,
        guided_masks: bool = False,
        positions: bool = False,
        context_blocks: int = 0,
        grouped: Backbone | StoredViT | None = None,
    ):
        super().__init__()
        self.image_size, self.feature_grid = image_size, backbone.grid(image_size)
        self.backbone, self.grouping, self.decoder, self.grouped = backbone, grouping, decoder, grouped
        self.attention_masks, self.guided_masks = attention_masks, guided_masks
        input_dim = grouping.slot_attention.input_dim
        self.positions = PositionEmbedding(input_dim) if positions else None
        self.context = LocalContext(input_dim, context_blocks)
        dim = backbone.feature_dim
        hidden_dim = dim if hidden_dim is None else hidden_dim
        self.project = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, input_dim),
        )

    def group(
        self,
        features: Float[Tensor, "batch rows columns feature_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
        order: int | None = None,
        grouped: Float[Tensor, "batch rows columns feature_dim"] | None = None,
    ) -> Slots:
        """Slots of the backbone's features, and what they decode to; `order` as of the decoder. `grouped` are
        those of the other backbone, if there is one."""
        inputs = self.inputs(features if grouped is None else grouped)
        slots, attention = self.grouping(inputs, num_slots, iterations, noise=noise)
        maps = attention.unflatten(-1, features.shape[1:3])
        return Slots(slots, maps, self.decode(slots, features, order, maps[:, -1]))

    def inputs(
        self, features: Float[Tensor, "batch rows columns feature_dim"]
    ) -> Float[Tensor, "batch inputs input_dim"]:
        """What slots group: projected features."""
        inputs = self.project(features.to(next(self.project.parameters()).dtype))
        if self.positions is not None:
            inputs = inputs + self.positions(*features.shape[1:3])
        return self.context(inputs).flatten(1, 2)

    def decode(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        features: Float[Tensor, "batch rows columns feature_dim"],
        order: int | None = None,
        attention: Float[Tensor, "batch slots rows columns"] | None = None,
    ) -> FeatureReconstruction:
        """What slots decode to; other arguments as of the decoder."""
        return self.decoder(slots, features, order, attention)

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`; the best restart has the lowest reconstruction error of features. Masks are
        the decoder's, of the images' size."""
        check_images(images, None)
        return self.segment_features(self.backbone(images), images, num_slots, iterations, restarts, noise)

    forward = segment

    def segment_features(
        self,
        features: Float[Tensor, "batch rows columns feature_dim"],
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """The same with features that are known."""
        grouped = None if self.grouped is None else self.grouped(images)
        found = [
            self.group(features, num_slots, iterations, start, EVERY, grouped)
            for start in self._restart_noise(restarts, noise)
        ]
        chosen = torch.stack([feature_error(one.decoded, features) for one in found]).argmin(dim=0)
        rows = torch.arange(len(images), device=chosen.device)
        parts = zip(*((one.slots, one.attention, one.decoded.masks) for one in found), strict=True)
        slots, attention, masks = (torch.stack(part)[chosen, rows] for part in parts)
        if self.attention_masks:
            masks = attention[:, -1]
        return SlotOutput(slots, attention, self._at_size(masks, images))

    def anomaly_score(
        self, images: Float[Tensor, "batch 3 height width"], output: SlotOutput
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Mean squared error of the features that the slots decode to; higher is worse."""
        features = self.backbone(images)
        decoded = self.decode(output.slots, features, EVERY, output.attention[:, -1])
        return {FEATURE_ERROR: feature_error(decoded, features)}

    def export_stages(self) -> FeatureStages:
        """As `SlotModel.export_stages`, of slots whose masks are their attention over bundled features."""
        if not (isinstance(self.backbone, Backbone) and self.backbone.is_bundled and self.attention_masks):
            raise ValueError(
                "slots over frozen features can be exported with the bundled backbone and masks of their "
                "attention, as `photos-slots` has; these weights have not"
            )

        def features(image: Tensor) -> Tensor:
            return self.backbone(resized(image, working_size(image, area, self.backbone.stride)))

        def group(features: Tensor) -> tuple[Tensor, Tensor]:
            slots, attention = self.grouping(self.inputs(features))
            return slots, attention[:, -1].unflatten(-1, features.shape[1:3])

        network: Any = self.backbone.part.module
        area = self.image_size[0] * self.image_size[1]
        return FeatureStages(network, features, group, area)

    def _at_size(
        self, masks: Float[Tensor, "batch slots rows columns"], images: Tensor
    ) -> Float[Tensor, "batch slots height width"]:
        """Masks of the grid at the images' size."""
        masks = at_least_float32(masks)
        if self.guided_masks:
            return torch.stack([masks_at_size(*pair) for pair in zip(masks, images, strict=True)])
        return F.interpolate(masks, images.shape[-2:], mode="bilinear", align_corners=False)


def feature_error(
    decoded: FeatureReconstruction, features: Float[Tensor, "batch rows columns feature_dim"]
) -> Float[Tensor, " batch"]:
    """Mean squared error of each image's features."""
    error = at_least_float32(decoded.features) - at_least_float32(features)
    return error.square().mean(dim=(1, 2, 3))

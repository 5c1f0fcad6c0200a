"""Slots by learned affinity: frozen features, a learned embedding, clusters of it, and a guided filter.

The embedding (`nn.pairwise_affinity`) learns which cells of photographs share a segment of normalised cuts
(`recipes.affinity`); at test time nothing is decomposed. Slots compete for cells by k-means, those of high
affinity are merged, and a slot is the mean feature of its segment, of unit length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from objecthood.models.base import AffinityStages, SlotOutput
from objecthood.models.of_photographs import PhotographModel, at_size, stacked
from objecthood.nn.backbones import resized, working_size
from objecthood.nn.consensus_cut import segments_of
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.pairwise_affinity import PairwiseAffinity, clusters_of, merged


class AffinitySlots(PhotographModel):
    """Segments images of any size and aspect ratio by learned affinity; the number of segments is found.

    Args:
        backbone: frozen features.
        affinity: of features of unit length.
        image_size: height and width of training images; others are resized to about this area.
        clusters: their number before any are merged.
        distance: between 0 and 1: clusters of more than 1 - `distance` mean affinity are merged.

    Example:
        >>> from objecthood.nn.frozen_features import backbone
        >>> features = backbone("efficientnet-lite0", final_norm=True)
        >>> model = AffinitySlots(features, PairwiseAffinity(features.feature_dim), (96, 96))
        >>> output = model.divide(torch.rand(3, 60, 90), num_segments=3)
        >>> output.masks.shape, output.slots.shape
        (torch.Size([3, 60, 90]), torch.Size([3, 304]))
    """

    num_slots = 12  # typical of photographs; `segment` finds the number

    def __init__(
        self,
        backbone: Backbone,
        affinity: PairwiseAffinity,
        image_size: tuple[int, int],
        clusters: int = 24,
        distance: float = 0.66,
    ):
        super().__init__()
        self.backbone, self.affinity = backbone, affinity
        self.image_size, self.feature_grid = image_size, backbone.grid(image_size)
        self.clusters, self.distance = clusters, distance

    @property
    def slot_dim(self) -> int:
        """Channels of the backbone's features."""
        return self.backbone.feature_dim

    @torch.no_grad()
    def group(self, image: Tensor, num_segments: int | None = None) -> tuple[Tensor, Tensor]:
        return self.group_features(self.features(image), num_segments)

    def features(self, image: Float[Tensor, "3 height width"]) -> Float[Tensor, "rows columns feature_dim"]:
        """Of an image of any size."""
        area = self.image_size[0] * self.image_size[1]
        return self.backbone(resized(image, working_size(image, area, self.backbone.stride)))[0]

    @torch.no_grad()
    def group_features(
        self, features: Float[Tensor, "rows columns feature_dim"], num_segments: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `group`, of an image's features. Clusters are computed in float32."""
        if num_segments is not None and num_segments < 1:
            raise ValueError(f"`num_segments` (={num_segments}) must be at least 1, or None")
        unit = F.normalize(features.float(), dim=-1)
        embedding = self.affinity(unit[None].to(self.affinity.project.weight.dtype)).float()
        affinity = self.affinity.probability(embedding)[0]
        labels = clusters_of(embedding[0], max(self.clusters, num_segments or 0))
        return segments_of(affinity, merged(labels, affinity, self.distance, num_segments), unit)

    def segment_features(
        self,
        features: Float[Tensor, "batch rows columns feature_dim"],
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
    ) -> SlotOutput:
        """As `segment`, with features that are known."""
        pairs = zip(images, features, strict=True)
        return stacked([at_size(self.group_features(known, num_slots), image) for image, known in pairs])

    def export_stages(self) -> AffinityStages:
        """As `SlotModel.export_stages`, over bundled features."""
        if not (isinstance(self.backbone, Backbone) and self.backbone.is_bundled):
            raise ValueError(
                "slots by learned affinity can be exported with the bundled backbone and its last norm, as "
                "`photos-affinity` has; these weights have not"
            )
        network: Any = self.backbone.part.module
        side = round((self.image_size[0] * self.image_size[1]) ** 0.5)
        return AffinityStages(network, (side,), self.distance, self.affinity, self.clusters, self.features)

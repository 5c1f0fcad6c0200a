"""Slots by learned affinity (`models.affinity_slots`): which cells share a segment of cuts, learned from many
photographs without labels. Nothing is decomposed at test time."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from objecthood.data.feature_cache import CachedFeatures, FeatureCache, default_folder
from objecthood.data.scene import Dataset, Scenes
from objecthood.data.transforms import mirror
from objecthood.models.affinity_slots import AffinitySlots
from objecthood.models.base import SlotOutput
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.consensus_cut import ConsensusCut, agreement_of
from objecthood.nn.frozen_features import Backbone
from objecthood.nn.pairwise_affinity import PairwiseAffinity
from objecthood.recipes.known_features import computed_once
from objecthood.recipes.over_features import OverFeatures
from objecthood.recipes.sources import describe_scenes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffinityDistillation(OverFeatures):
    """The teacher is the agreement of a consensus of normalised cuts, computed once: that of `photos`
    (`models.spectral`) with the bundled backbone, that of the features alone with others."""

    cached: bool = True
    dim: int = 128
    """Channels of the network."""
    context_blocks: int = 4
    """Blocks of convolutions (`nn.local_context`)."""
    embedding_dim: int = 64
    compared: int = 392
    """Random cells of an image that are compared in a step, all with all."""
    clusters: int = 24
    """Clusters before any are merged."""
    distance: float = 0.66
    """Clusters of more than 1 - `distance` mean affinity are merged."""

    minimums = OverFeatures.minimums | {
        "dim": 1,
        "context_blocks": 0,
        "embedding_dim": 1,
        "compared": 2,
        "clusters": 1,
    }
    maximums = OverFeatures.maximums | {"context_blocks": 16}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cached:
            raise ValueError("`cached` (=False) must be True here: segments are computed once and kept")
        if not 0 < self.distance < 1:
            raise ValueError(f"`distance` (={self.distance}) must lie between 0 and 1")

    def build_model(self) -> AffinitySlots:
        features = self.build_backbone()
        assert isinstance(features, Backbone)
        affinity = PairwiseAffinity(features.feature_dim, self.dim, self.context_blocks, self.embedding_dim)
        size = (self.resolution, self.resolution)
        return AffinitySlots(features, affinity, size, self.clusters, self.distance)

    def with_features(self, scenes: Dataset) -> Dataset:
        """Scenes with features, and with the partitions of the cuts."""
        known = super().with_features(scenes)
        assert isinstance(known, CachedFeatures)
        cut, side = ConsensusCut(), self.resolution
        bundled = self.backbone == "efficientnet-lite0"
        teacher = SpectralSegmenter(cut=cut, sides=(side, 5 * side // 7)) if bundled else None

        def partitions(scenes: Scenes) -> Tensor:
            """[batch, rows, columns, partitions]."""
            found = []
            for image, features in zip(scenes["image"], scenes["features"], strict=True):
                unit = F.normalize(features.float(), dim=-1)
                seen = teacher.embed(image.cpu()) if teacher else ([unit], None)
                found.append(cut.partitioned(*seen)[0].T.unflatten(0, unit.shape[:2]))
            return torch.stack(found)

        rows, columns, _ = known.cache.shape
        number = len(cut.views) * len(cut.partitions) * cut.restarts
        kind = "photos" if bundled else "cuts"
        cache = FeatureCache(default_folder(), f"{kind} {cut} of {known.cache.key}", (rows, columns, number))
        return computed_once(known, partitions, cache, "partitions")

    def loss(self, model: AffinitySlots, scenes: Scenes, step: int) -> Tensor:
        features, mirrored = self.augmented(model, scenes)
        labels = mirror(scenes["partitions"], mirrored, dim=2).flatten(1, 2)
        cells = torch.randperm(labels.shape[1])[: self.compared]
        return affinity_error(model, features, labels, cells).mean()

    def discover(self, model: AffinitySlots, scenes: Scenes, indices: Tensor) -> SlotOutput:
        features = scenes["features"] if "features" in scenes else model.backbone(scenes["image"])
        return model.segment_features(features, scenes["image"])

    def scores(self, model: AffinitySlots, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Cross entropy of the agreement, and the scores of masks where the scenes have true ones."""
        output = self.discover(model, scenes, indices)
        assert output.masks is not None
        error = affinity_error(model, scenes["features"], scenes["partitions"].flatten(1, 2))
        return {"cross_entropy": error.double()} | self.mask_scores(scenes, output.masks)

    @property
    def masks_scored(self) -> str:
        return "number of segments found, argmax of masks that follow the image's edges"

    @property
    def protocol(self) -> str:
        return (
            f"{self.test_scenes} {describe_scenes(self)} held out (at most), at {self.resolution} x "
            f"{self.resolution} pixels, {self.masks_scored}; fg_ari: adjusted Rand "
            "index of objects' pixels; mbo_i, mbo_c: mean best overlap of objects, and of classes; "
            "cross_entropy: of the cuts' agreement, in nats a pair of cells; means over images; scores of "
            "masks only where there are true ones"
        )


def affinity_error(
    model: AffinitySlots, features: Tensor, labels: Tensor, cells: Tensor | None = None
) -> Tensor:
    """Cross entropy [batch] of the agreement of labels [batch, cells, partitions], over all pairs of `cells`;
    None: of all."""
    embedding = model.affinity(F.normalize(features.float(), dim=-1))
    chosen = slice(None) if cells is None else cells
    wanted = torch.stack([agreement_of(one[chosen].T.long()) for one in labels])
    logits = model.affinity.logits(embedding[:, chosen])
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2))


photos_affinity = AffinityDistillation(
    name="photos-affinity",
    description="Slots by learned affinity over bundled features of photographs: --data-path PHOTOS",
    backbone="efficientnet-lite0",
    resolution=448,
    final_norm=True,
    steps=4000,
    batch_size=8,
    learning_rate=2e-3,
    warmup_steps=50,
    decay_half_life=0,
    gradient_clip=1.0,
    ema_decay=0.99,
)

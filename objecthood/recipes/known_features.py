"""Frozen features of a recipe's scenes, computed once (`data.feature_cache`)."""

from __future__ import annotations

from functools import lru_cache

from objecthood.data.feature_cache import CachedFeatures, Compute, FeatureCache, default_folder
from objecthood.data.scene import Dataset
from objecthood.nn.frozen_features import Backbone, backbone
from objecthood.runtime.distributed import sharers
from objecthood.runtime.environment import choose_device
from objecthood.runtime.progress import RunProgress


@lru_cache(maxsize=1)
def known_backbone(name: str, layer: int, final_norm: bool) -> Backbone:
    """The backbone that computes what is cached, where that is fastest."""
    return backbone(name, layer, final_norm).to(choose_device("auto"))


def cached(scenes: Dataset, features: Backbone, side: int, batch_size: int = 16) -> CachedFeatures:
    """Scenes of square images or frames with their features, computed where they are not in the cache."""
    rows, columns = features.grid((side, side))
    cache = FeatureCache(
        default_folder(), f"{features.key} side {side}", (rows, columns, features.feature_dim)
    )
    return computed_once(
        scenes, lambda some: features(some["image"].to(features.device)), cache, "features", batch_size
    )


def computed_once(
    scenes: Dataset, compute: Compute, cache: FeatureCache, name: str, batch_size: int = 16
) -> CachedFeatures:
    """Scenes with what `compute` gives, under `name`; processes share the work (`distributed.sharing`)."""
    processes = sharers()
    with RunProgress(name, len(scenes)) as progress:
        return CachedFeatures(
            scenes,
            compute,
            cache,
            name=name,
            tell=lambda done, of: progress.update(done, "images"),
            batch_size=batch_size,
            rank=processes.rank,
            gather=processes.gather,
        )

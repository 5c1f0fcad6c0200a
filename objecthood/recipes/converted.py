"""Recipes of weights that others published, as `checkpoint.conversion` writes them.

They rebuild the model and score it; the weights hold the backbone (`nn.stored_vit`), so that nothing is
looked up. To train such a model, use the recipes of `recipes.features` and `recipes.feature_video`."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from objecthood.data.scene import Scenes
from objecthood.models.dinosaur import Dinosaur
from objecthood.nn.stored_vit import Shape, StoredViT
from objecthood.recipes.feature_video import NORM_EPSILON, FeatureVideoDiscovery
from objecthood.recipes.features import FeatureDiscovery


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertedSpot(FeatureDiscovery):
    """SPOT (Kakogeorgiou et al. 2024, arXiv 2312.00648), with the numerics of gkakogeorgiou/spot: layer norms
    of epsilon 1e-5; slots group as many numbers a patch as there are features; the first block of the decoder
    adds to normalised tokens."""

    data: str = "coco"
    decoder_layers: int = 4
    """Blocks of the autoregressive decoder."""
    two_encoders: bool = False
    """Whether slots group features of a trained encoder beside the frozen one (second stage)."""

    minimums = FeatureDiscovery.minimums | {"decoder_layers": 1}

    def build_backbone(self) -> StoredViT:
        return _stored(self)

    @property
    def variant(self) -> dict[str, Any]:
        return {"grouped": _stored(self) if self.two_encoders else None}

    def numerics(self, feature_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            {"input_dim": feature_dim, "norm_epsilon": NORM_EPSILON},
            {"blocks": self.decoder_layers, "adds_to_normalised": True},
        )

    def frozen_features(self, scenes: Scenes) -> Tensor | None:
        return None  # they come with the weights

    def prepare_for_test(self, model: Dinosaur) -> Dinosaur:
        model = super().prepare_for_test(model)
        model.fit = "crop"  # SPOT is trained and tested on central squares
        return model


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertedVideo(FeatureVideoDiscovery):
    """VideoSAUR (arXiv 2306.04829) or SlotContrast (arXiv 2412.14295)."""

    def build_backbone(self) -> StoredViT:
        return _stored(self)

    def frozen_features(self, scenes: Scenes) -> Tensor | None:
        return None  # they come with the weights


def _stored(recipe: Any) -> StoredViT:
    """The backbone that `backbone` of a recipe describes, for its images."""
    return StoredViT(Shape.of(recipe.backbone), (recipe.resolution, recipe.resolution))

"""Scores of baselines without training, with a recipe's metrics on its held-out scenes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objecthood.analysis.baselines import (
    STATISTICS_DISTANCE,
    blocks,
    colour_components,
    colour_kmeans,
    feature_cut,
    feature_kmeans,
    motion_components,
    motion_kmeans,
)
from objecthood.evaluate import evaluate, first_scenes
from objecthood.recipes import Recipe

TITLES = {
    "components": "colour components",
    "kmeans": "colour k-means",
    "kmeans_position": "colour and position k-means",
    "blocks": "equal blocks",
    "statistics_components": "components of local statistics",
    "statistics_kmeans": "k-means on local statistics",
    "statistics_kmeans_position": "k-means on local statistics and position",
    "feature_kmeans": "k-means on the frozen features",
    "feature_cut": "normalised cut of the frozen features",
    "motion_components": "connected components of the motion",
    "motion_kmeans": "k-means on the motion",
    "feature_motion_kmeans": "k-means on the frozen features and the motion",
    "untrained": "untrained",
    "untrained_no_bias": "untrained, no spatial bias",
}
SEED_STRIDE = 1_000_000
"""Distance of the seeds of an image's k-means between two seeds."""


@torch.no_grad()
def floors(recipe: Recipe, split: str = "test", num_scenes: int | None = None) -> dict[str, dict[str, float]]:
    """Scores of the applicable baselines, keyed as `TITLES`.

    Label maps are computed from the model's input (`Recipe.model_input`), and from its local statistics and
    frozen features if it has them, and scored if the scenes have true masks. "untrained" is the recipe's
    model with initial weights of its seed, "untrained_no_bias" the same without spatial bias and duplicate
    suppression, if the recipe has them.

    Example:
        >>> from objecthood.recipes import RECIPES
        >>> floors(RECIPES["sprites"], num_scenes=4)["components"]["fg_ari"] > 0.9
        True
    """
    return of_labels(recipe, split, num_scenes) | untrained_floors(recipe, split, num_scenes)


def untrained_floors(
    recipe: Recipe, split: str = "test", num_scenes: int | None = None
) -> dict[str, dict[str, float]]:
    """Those of `floors` that depend on the model: "untrained" and "untrained_no_bias"."""
    found = {"untrained": untrained(recipe, split, num_scenes)}
    bias = [field for field in ("spatial_bias", "merge_penalty") if getattr(recipe, field, 0)]
    if bias:
        plain: Any = recipe
        plain = dataclasses.replace(plain, **dict.fromkeys(bias, 0.0))
        found["untrained_no_bias"] = untrained(plain, split, num_scenes)
    return found


def of_labels(
    recipe: Recipe,
    split: str = "test",
    num_scenes: int | None = None,
    seed: int = 0,
    colours: bool = True,
) -> dict[str, dict[str, float]]:
    """Scores of the baselines of `floors` without a model; `seed` is that of k-means. Without `colours`,
    those of colours are left out, which take seconds for a clip of large frames."""
    values: dict[str, dict[str, list[torch.Tensor]]] = {}
    slots: int = getattr(recipe, "num_slots", 0)
    for indices, scenes in first_scenes(recipe, split, num_scenes):
        if not recipe.mask_scores(scenes, scenes.get("masks", scenes["image"])):
            break
        images = recipe.model_input(scenes)
        first = int(indices[0]) + seed * SEED_STRIDE
        labels: dict[str, torch.Tensor] = {}
        if colours:
            labels["components"] = colour_components(images)
            labels["kmeans"] = colour_kmeans(images, slots, first)
            labels["kmeans_position"] = colour_kmeans(images, slots, first, position=1.0)
        labels["blocks"] = blocks(images, slots)
        if (statistics := recipe.statistics(scenes)) is not None:
            labels |= of_statistics(statistics, slots, first)
        if (features := recipe.frozen_features(scenes)) is not None:
            grids = {"feature_kmeans": feature_kmeans(features, slots, first)}
            if features.ndim == 4:  # of images
                grids["feature_cut"] = feature_cut(features, slots, first)
            if (motion := recipe.frame_motion(scenes)) is not None:
                grids["motion_components"] = motion_components(motion)
                grids["motion_kmeans"] = motion_kmeans(motion, slots, first)
                grids["feature_motion_kmeans"] = feature_kmeans(features, slots, first, motion)
            labels |= {name: recipe.enlarge(found, images) for name, found in grids.items()}
        for floor, masks in labels.items():
            for name, score in recipe.mask_scores(scenes, masks).items():
                values.setdefault(floor, {}).setdefault(name, []).append(score.double())
    return {
        floor: recipe.summarize({name: torch.cat(parts) for name, parts in scores.items()})
        for floor, scores in values.items()
    }


def of_statistics(
    statistics: Float[Tensor, "batch channels height width"], slots: int, first: int
) -> dict[str, Int[Tensor, "batch height width"]]:
    """Label maps of the baselines on local statistics of the image; `first` seeds the first k-means."""
    return {
        "statistics_components": colour_components(statistics, STATISTICS_DISTANCE),
        "statistics_kmeans": colour_kmeans(statistics, slots, first),
        "statistics_kmeans_position": colour_kmeans(statistics, slots, first, position=1.0),
    }


def untrained(recipe: Recipe, split: str = "test", num_scenes: int | None = None) -> dict[str, float]:
    """Scores of the recipe's model with initial weights of its seed, one restart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = recipe.prepare_for_test(recipe.build_model())
    scored: Any = recipe
    if hasattr(recipe, "restarts"):
        scored = dataclasses.replace(scored, restarts=1)
    return evaluate(model, scored, split, num_scenes)

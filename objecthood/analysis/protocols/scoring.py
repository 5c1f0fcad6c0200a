"""Evaluation protocols of the literature by name: the scores of a model with their standard errors.

Every protocol takes one restart (the first). Protocols of images take each test image alone, "video" whole
clips. Means are over images (or clips) where a score is defined; the standard error is the sample standard
deviation over them divided by the root of their number. It holds for these weights: for a method, compare
seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from objecthood import metrics
from objecthood.analysis.diagnosis import check, segment
from objecthood.analysis.protocols import properties
from objecthood.analysis.protocols.boundaries import object_boundary_f
from objecthood.analysis.protocols.segments import (
    correct_localization,
    object_recovery,
    panoptic_quality,
    segmentation_covering,
)
from objecthood.data.scene import Scenes, to_device
from objecthood.evaluate import first_scenes
from objecthood.recipes import Recipe
from objecthood.runtime.spelling import did_you_mean


class Score(NamedTuple):
    """A score of a data set; nan where it is undefined."""

    mean: float
    error: float
    """Standard error of the mean; nan for fewer than two values."""
    defined: int
    """Images or clips where the score is defined; for property prediction, matched objects."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How masks are scored."""

    description: str
    """One line: scores and source."""
    scores: Callable[[Scenes, Tensor], dict[str, Tensor]] | None = None
    """Scores [batch] of true scenes and predicted masks; None for property prediction."""
    clips: bool = False
    """Whether it takes clips instead of images."""


def discovery(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Scores of object discovery on generated scenes."""
    return metrics.discovery_scores(scenes["masks"], masks)


def dinosaur(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Scores of DINOSAUR; those of classes where the scenes have them."""
    return metrics.dinosaur_scores(scenes["masks"], masks, scenes.get("classes"))


def covering(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Scores of GENESIS and GENESIS-V2."""
    truth = scenes["masks"]
    return {
        "fg_ari": metrics.adjusted_rand_index(truth, masks, ignore_background=True),
        "sc": segmentation_covering(truth, masks),
        "msc": metrics.mean_best_overlap(truth, masks),
    }


def localization(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Scores of unsupervised localisation."""
    truth = scenes["masks"]
    return {
        "corloc": correct_localization(truth, masks),
        "corloc_masks": correct_localization(truth, masks, boxes=False),
        "object_recovery": object_recovery(truth, masks),
    }


def panoptic(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Class-agnostic panoptic quality."""
    found = panoptic_quality(scenes["masks"], masks)
    return {"pq": found.quality, "sq": found.segmentation, "rq": found.recognition}


def boundaries(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Boundary accuracy of objects."""
    return {"boundary_f": object_boundary_f(scenes["masks"], masks)}


def video(scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
    """Scores of whole clips."""
    truth = scenes["masks"]
    return {
        "video_fg_ari": metrics.video_adjusted_rand_index(truth, masks, ignore_background=True),
        "video_mbo": metrics.video_mean_best_overlap(truth, masks),
    }


PROTOCOLS: dict[str, Protocol] = {
    "discovery": Protocol("FG-ARI, ARI, mBO and mIoU (Locatello et al. 2020, and later)", discovery),
    "dinosaur": Protocol(
        "FG-ARI, mBO of instances and of classes; overlaps and crowds ignored (Seitzer et al. 2023)", dinosaur
    ),
    "covering": Protocol("FG-ARI, SC and mSC of objects (Engelcke et al. 2020 and 2021, GENESIS)", covering),
    "localization": Protocol(
        "CorLoc of boxes and of masks, object recovery; overlap above 0.5 (Seitzer et al. 2023)", localization
    ),
    "panoptic": Protocol("class-agnostic PQ, SQ and RQ, per image (Kirillov et al. 2019)", panoptic),
    "boundaries": Protocol("F of outlines of matched objects (Perazzi et al. 2016, DAVIS)", boundaries),
    "video": Protocol("FG-ARI and mBO over whole clips (Kipf et al. 2022; Seitzer et al. 2023)", video, True),
    "properties": Protocol("properties from slots, by linear and MLP probes (Dittadi et al. 2022)"),
}
"""Protocols by name."""


@torch.no_grad()
def protocol_scores(
    model: Any,
    recipe: Recipe,
    name: str,
    split: str = "test",
    num_scenes: int | None = None,
    batch_size: int = 32,
) -> dict[str, Score]:
    """Scores of `model` on a recipe's scenes by the protocol of that name, with standard errors.

    Args:
        model: model of the recipe, moved to its device.
        name: one of `PROTOCOLS`.
        num_scenes: number of scenes (default: the recipe's `test_scenes`). "properties" fits its probes on as
            many scenes of "validation" (of "train", if `split` is "validation").

    Raises:
        ValueError: the protocol is unknown or does not fit the recipe, or the scenes have no true masks.

    Example:
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> scores = protocol_scores(recipe.build_model(), recipe, "covering", num_scenes=4)
        >>> list(scores), scores["sc"].defined
        (['fg_ari', 'sc', 'msc'], 4)
    """
    check_protocol(model, recipe, name, split)
    protocol, settings = PROTOCOLS[name], as_ruled(recipe, name)
    was_training = model.training
    model.eval()
    try:
        if protocol.scores is None:
            return _properties(model, settings, split, num_scenes, batch_size)
        values: dict[str, list[Tensor]] = {}
        for indices, scenes in first_scenes(settings, split, num_scenes, batch_size):
            scenes = to_device(scenes, next(model.parameters()).device)
            masks = predicted(model, settings, scenes, indices).masks
            for score, found in protocol.scores(scenes, masks).items():
                values.setdefault(score, []).append(found.double().cpu())
    finally:
        model.train(was_training)
    return {score: mean_and_error(torch.cat(found)) for score, found in values.items()}


def check_protocol(model: Any, recipe: Recipe, name: str, split: str = "test") -> None:
    """Raise ValueError where the protocol is unknown or does not fit the recipe, or scenes have no true
    masks."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown; {did_you_mean(name, list(PROTOCOLS))}")
    protocol, settings = PROTOCOLS[name], as_ruled(recipe, name)
    images = first_image(settings, split, name)
    if protocol.clips != (images.dim() == 5):
        kind, other = ("clips", "images") if protocol.clips else ("images", "clips")
        raise ValueError(f"protocol {name!r} scores {kind}, and recipe {recipe.name!r} has {other}")
    if not protocol.clips:
        check(model, settings, split)


def as_ruled(recipe: Recipe, name: str) -> Any:
    """The recipe with one restart, and the protocol's treatment of overlapping objects."""
    changes: dict[str, Any] = {"restarts": 1} if hasattr(recipe, "restarts") else {}
    if name == "dinosaur" and hasattr(recipe, "overlaps"):
        changes["overlaps"] = "ignore"
    return dataclasses.replace(recipe, **changes)


def first_image(recipe: Recipe, split: str, name: str) -> Tensor:
    """The image or clip of the first scene, with a batch axis; ValueError if it has no true masks."""
    scenes = recipe.dataset(split)[[0]]
    if "masks" not in scenes:
        raise ValueError(
            f"protocol {name!r} needs true masks, and the scenes of recipe {recipe.name!r} have none"
        )
    return scenes["image"]


def predicted(model: Any, recipe: Any, scenes: Scenes, indices: Tensor) -> Any:
    """The model's output for held-out images or clips, noise fixed by the index."""
    if scenes["image"].dim() == 5:
        return recipe.discover(model, scenes, indices)
    return segment(model, recipe, scenes["image"], indices)


def mean_and_error(values: Tensor) -> Score:
    """Mean of the values that are not nan, and its standard error.

    Example:
        >>> found = mean_and_error(torch.tensor([1.0, 2.0, 3.0, float("nan")]).double())
        >>> found.mean, round(found.error, 6), found.defined
        (2.0, 0.57735, 3)
    """
    defined = values[~values.isnan()].numpy()
    if not len(defined):
        return Score(math.nan, math.nan, 0)
    error = float(np.std(defined, ddof=1)) / math.sqrt(len(defined)) if len(defined) > 1 else math.nan
    return Score(float(defined.mean()), error, len(defined))


def _properties(
    model: Any, recipe: Recipe, split: str, num_scenes: int | None, batch_size: int
) -> dict[str, Score]:
    fitted_on = "train" if split == "validation" else "validation"
    found = []
    for part in (fitted_on, split):
        batches = []
        for indices, scenes in first_scenes(recipe, part, num_scenes or recipe.test_scenes, batch_size):
            scenes = to_device(scenes, next(model.parameters()).device)
            output = predicted(model, recipe, scenes, indices)
            batches.append(properties.matched_objects(scenes, output.slots, output.masks, indices))
        found.append(properties.joined(batches))
    count = len(found[1].slots)
    scores = properties.property_scores(*found)
    return {name: Score(mean, error, count) for name, (mean, error) in scores.items()}

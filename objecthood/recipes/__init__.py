"""Recipes: one dataclass per task, and named instances, listed in `RECIPES`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objecthood.recipes.ablations import Ablation, clevr6_ablation
from objecthood.recipes.affinity import AffinityDistillation, photos_affinity
from objecthood.recipes.base import Recipe
from objecthood.recipes.center_votes import CenterVoteDiscovery, center_votes
from objecthood.recipes.contrast import Contrast, camouflage_contrast, moving_sprites_contrast
from objecthood.recipes.converted import ConvertedSpot, ConvertedVideo
from objecthood.recipes.discovery import (
    Discovery,
    FastTetrominoes,
    PaperClevr,
    SlotFrameDiscovery,
    SpatialBiasDiscovery,
    Unmodified,
    clevr6_like,
    clevr6_paper,
    folder,
    sprites,
    sprites_paper,
    tetrominoes,
    tetrominoes_guided,
    tetrominoes_paper,
    tetrominoes_unmodified,
)
from objecthood.recipes.feature_video import (
    ClipsSlots,
    FeatureVideoDiscovery,
    VideoSaur,
    clips_slots,
    slotcontrast_dinov2_base,
    slotcontrast_dinov2_small,
    videosaur_dinov2_base,
    videosaur_vitb16,
)
from objecthood.recipes.features import (
    CutDistillation,
    FeatureDiscovery,
    SelfTraining,
    dinosaur_dinov2_small,
    dinosaur_vits16_coco,
    photos_slots,
    spot_vitb16,
    spot_vitb16_teacher,
)
from objecthood.recipes.motion_grouping import MotionGrouping, motion_grouping
from objecthood.recipes.set_prediction import (
    FastSetPrediction,
    SetPrediction,
    set_clevr10_paper,
    set_clevr_like,
)
from objecthood.recipes.textures import TextureDiscovery, textures
from objecthood.recipes.video import Video, camouflage, moving_sprites
from objecthood.runtime import limits, renamed

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        tetrominoes,
        tetrominoes_guided,
        tetrominoes_unmodified,
        sprites,
        folder,
        textures,
        center_votes,
        tetrominoes_paper,
        sprites_paper,
        clevr6_like,
        clevr6_paper,
        clevr6_ablation,
        set_clevr_like,
        set_clevr10_paper,
        moving_sprites,
        camouflage,
        motion_grouping,
        moving_sprites_contrast,
        camouflage_contrast,
        photos_slots,
        photos_affinity,
        dinosaur_vits16_coco,
        dinosaur_dinov2_small,
        spot_vitb16_teacher,
        spot_vitb16,
        clips_slots,
        videosaur_vitb16,
        videosaur_dinov2_base,
        slotcontrast_dinov2_small,
        slotcontrast_dinov2_base,
    )
}
TASKS: dict[str, type[Recipe]] = {
    task.__name__: task for task in (*map(type, RECIPES.values()), ConvertedSpot, ConvertedVideo)
}

__all__ = [
    "RECIPES",
    "TASKS",
    "Ablation",
    "AffinityDistillation",
    "CenterVoteDiscovery",
    "ClipsSlots",
    "Contrast",
    "ConvertedSpot",
    "ConvertedVideo",
    "CutDistillation",
    "Discovery",
    "FastSetPrediction",
    "FastTetrominoes",
    "FeatureDiscovery",
    "FeatureVideoDiscovery",
    "MotionGrouping",
    "PaperClevr",
    "Recipe",
    "SelfTraining",
    "SetPrediction",
    "SlotFrameDiscovery",
    "SpatialBiasDiscovery",
    "TextureDiscovery",
    "Unmodified",
    "Video",
    "VideoSaur",
    "from_dict",
    "from_file",
]


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)


def from_dict(settings: Mapping[str, Any], task: type[Recipe] | None = None) -> Recipe:
    """The recipe of settings from `Recipe.to_dict`; `task` is its class if that is a custom one.

    Raises:
        ValueError: the class is unknown, the fields do not match, or one is longer than
            `limits.SETTING_LENGTH`.

    >>> from_dict(RECIPES["sprites"].to_dict()) == RECIPES["sprites"]
    True
    """
    fields = dict(settings)
    for field, value in fields.items():
        length = len(f"{field!r}{value!r}")
        if length > limits.SETTING_LENGTH:
            raise ValueError(
                f"the setting {field!r:.60} has {length} characters; at most {limits.SETTING_LENGTH} are "
                "allowed"
            )
    name = fields.pop("task", None)
    name = renamed.TASKS.get(name, name) if isinstance(name, str) else name
    task = TASKS.get(name) if task is None else task
    if task is None or task.__name__ != name:
        wanted = "a built-in one" if task is None else f"{task.__name__!r}"
        raise ValueError(
            f"made by recipe class {name!r}, not {wanted}; name the Python file of its recipe as well"
        )
    try:
        return task(**fields)
    except TypeError as error:
        raise ValueError(f"made by another version of recipe class {name!r}: {error}") from error


def from_file(path: str | Path) -> Recipe:
    """The module-level `recipe` of a Python file, which is executed.

    Raises:
        ValueError: there is no such file, or no `recipe` in it.
    """
    path = Path(path)
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(
            f"no recipe file (.py) at {path}; check the spelling, or name a recipe of `objecthood list`"
        )
    name = f"objecthood_recipe_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up there
    specification.loader.exec_module(module)
    recipe = getattr(module, "recipe", None)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{path} has no module-level `recipe`; add one: recipe = Mine(name=..., ...)")
    return recipe

"""Data sets by name, for the `data` field of recipes.

Splits are disjoint, except for folders that are too small for three splits (`Folder.overlaps`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.folder import Folder
from objecthood.data.generated.sprites import Background, Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.data.generated.texture import Level, Texture
from objecthood.data.published.clevr import Clevr
from objecthood.data.published.clevrtex import ClevrTex
from objecthood.data.published.coco import Coco, Orientation, Overlaps
from objecthood.data.published.multi_object_packed import Packed
from objecthood.data.scene import Dataset, Scenes
from objecthood.data.shards import Shards
from objecthood.models.placement import Fit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Selection of scenes; see the fields of the same names in `recipes.discovery`."""

    path: str
    split: str
    seed: int
    resolution: int
    background: Background
    objects: tuple[int, int]
    overlaps: Overlaps = "front"


def source_of(recipe: Any, split: str) -> Source:
    """The source of a recipe's scenes; fields that it lacks do not matter for its data."""
    return Source(
        path=recipe.data_path,
        split=split,
        # Test scenes do not depend on the seed: seeds are compared on the same images.
        seed=recipe.seed if split == "train" else 0,
        resolution=recipe.resolution,
        background=getattr(recipe, "background", "grey"),
        objects=(getattr(recipe, "min_objects", 0), getattr(recipe, "max_objects", 10)),
        overlaps=getattr(recipe, "overlaps", "front"),
    )


def open_dataset(recipe: Any, split: str) -> Dataset:
    """The data set of a recipe; ValueError if it is unknown, or needs a path and has none."""
    data, source = recipe.data, source_of(recipe, split)
    if data in MADE_HERE:
        return MADE_HERE[data](source)
    if data not in READ_FROM_FILES:
        raise ValueError(f"`data` (={data!r}) must be one of {', '.join([*MADE_HERE, *READ_FROM_FILES])}")
    if not source.path:
        raise ValueError(f"recipe data {data!r} needs `data_path` (=''): name a folder, --data-path FOLDER")
    return READ_FROM_FILES[data](source)


def describe_scenes(recipe: Any) -> str:
    """Description of a recipe's test scenes, for evaluation protocols."""
    data, source = recipe.data, source_of(recipe, "test")
    if data in COCO:
        return "images of the COCO file (at most; 5 % of it by a hash of their names)"
    if data in UNLABELLED:
        return "images without masks (at most; 5 % of them by a hash of their names)"
    if data == "sprites":
        return f"generated sprites scenes ({source.background} background)"
    if data in MADE_HERE:
        return f"generated {data} scenes"
    if data == "clevrtex":  # not filtered by number
        return "clevrtex scenes"
    return f"{data} scenes of {source.objects[0]} to {source.objects[1]} objects"


def fit_of(data: str) -> Fit:
    """How a model trained on that data fits images of another aspect ratio: "squash" if training does, else
    "pad"."""
    return "squash" if data in SQUASHED else "pad"


class Untouched(Dataset):
    """Test scenes from `FIRST_TEST_SCENE` on; earlier ones were once used to choose settings."""

    endless = True

    def __init__(self, scenes: Dataset):
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        return self.scenes.batch(np.asarray(indices) + FIRST_TEST_SCENE)


def _generated(make: Callable[[Source], Dataset]) -> Callable[[Source], Dataset]:
    return lambda source: Untouched(make(source)) if source.split == "test" else make(source)


def _texture(level: Level) -> Callable[[Source], Dataset]:
    return _generated(lambda source: Texture(source.split, source.seed, level, source.resolution))


def _coco(orientation: Orientation | None) -> Callable[[Source], Dataset]:
    return lambda source: Coco(
        Path(source.path) / "images",
        Path(source.path) / "instances.json",
        source.resolution,
        split=source.split,
        overlaps=source.overlaps,
        orientation=orientation,
    )


COCO: dict[str, Orientation | None] = {"coco": None, "coco-stored": "stored", "coco-upright": "upright"}
"""Names of a COCO folder, by the pixels that its annotations are of (`Coco`'s `orientation`)."""
UNLABELLED = ("folder", "shards")
"""Images of one's own, without masks."""
FIRST_TEST_SCENE = 1000
SQUASHED = ("clevr",)
"""Data whose images are resized whole to a square for training, whatever their aspect ratio."""
MADE_HERE: dict[str, Callable[[Source], Dataset]] = {
    "tetrominoes": _generated(lambda s: Tetrominoes(s.split, s.seed)),
    "sprites": _generated(lambda s: Sprites(s.split, s.seed, s.background, s.resolution)),
    **{f"texture-{level}": _texture(level) for level in get_args(Level)},
}
READ_FROM_FILES: dict[str, Callable[[Source], Dataset]] = {
    "folder": lambda s: Folder(s.path, s.resolution, s.split, skip_bad=True),
    "shards": lambda s: Shards(s.path, s.resolution, s.split),
    "clevr-like": lambda s: ClevrLike(s.path, s.split, s.resolution, objects=s.objects),
    "multi-object": lambda s: Packed(
        s.path, s.split, resolution=s.resolution, min_objects=s.objects[0], max_objects=s.objects[1]
    ),
    "clevr": lambda s: Clevr(
        s.path, s.resolution, s.split, min_objects=s.objects[0], max_objects=s.objects[1]
    ),
    "clevrtex": lambda s: ClevrTex(s.path, s.resolution, s.split),
    **{name: _coco(orientation) for name, orientation in COCO.items()},
}

"""Bundled weights by name: files, facts and loading. Imports no heavy packages.

Every entry of `PRETRAINED` has three files in `weights/`: NAME.safetensors, NAME.json (SHA-256, licence,
data, scores with protocol and seeds, limitations) and NAME.png (a held-out image; NAME.mkv, a clip, for
models of videos), all written by `runs/release/publish_weights.py`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objecthood.runtime import renamed
from objecthood.runtime.files import sha256_of
from objecthood.runtime.spelling import nearest

if typing.TYPE_CHECKING:
    from torch import nn

    from objecthood.recipes import Recipe

WEIGHTS = Path(__file__).parents[1] / "weights"
UNTRAINED = {
    "photos": "objects in photographs: frozen features of EfficientNet-lite0, divided by normalised cuts",
    "video": "objects in real video, moving or not: the same features, a head adapted to each clip, motion",
}
"""Models by name that no recipe trains, and so without a weight file of their own, and what they do."""
DEFAULT = "clevr"
"""Default weights of `predict`."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Bundled weights."""

    name: str
    facts: Mapping[str, Any]
    """Content of the JSON file: "recipe" (name), "settings", "seed", "chosen" (selection of the seed),
    "any_size" (whether images may have any size; left out: no), "parameters", "bytes", "sha256", "licence",
    "data", "limits", "scores" and "protocol" (test scenes), "validation" and "test_by_seed", "calibration"
    and "warnings" (share of images with an out-of-distribution warning, by kind), "trained" (costs, machine,
    commit), "picture", and "frozen" (identities of frozen modules by path)."""
    folder: Path = WEIGHTS

    @property
    def file(self) -> Path:
        """The weight file (safetensors)."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def is_video(self) -> bool:
        """Whether the weights are for videos: their main score is one of videos."""
        return "video_fg_ari" in self.scores

    @property
    def example(self) -> Path:
        """A held-out example: an image, or a clip for weights for videos."""
        return self.folder / f"{self.name}.{'mkv' if self.is_video else 'png'}"

    picture = renamed.attribute("picture", "example")

    @property
    def sha256(self) -> str:
        return self.facts["sha256"]

    @property
    def licence(self) -> str:
        """An SPDX identifier."""
        return self.facts["licence"]

    @property
    def scores(self) -> dict[str, float]:
        """Test scores, measured by `protocol`."""
        return self.facts["scores"]

    @property
    def protocol(self) -> str:
        return self.facts["protocol"]

    def check(self) -> Path:
        """The weight file; ValueError if it is missing or its SHA-256 differs."""
        check_sha256(self.file, self.sha256, f"weights {self.name!r}", "reinstall objecthood")
        return self.file


def check_sha256(file: Path, wanted: str, name: str, remedy: str) -> None:
    """Raise ValueError if `file` is missing or its SHA-256 is not `wanted`."""
    if not file.is_file():
        raise ValueError(f"{name} are missing ({file}); {remedy}")
    found = sha256_of(file)
    if found != wanted:
        raise ValueError(
            f"{name} are not the published ones: {file} has SHA-256 {found}, expected {wanted}; {remedy}"
        )


def read_all(folder: Path) -> dict[str, Pretrained]:
    """Weights by name, from the JSON files of a folder."""
    return {
        file.stem: Pretrained(file.stem, json.loads(file.read_text()), folder)
        for file in sorted(folder.glob("*.json"))
    }


PRETRAINED: dict[str, Pretrained] = read_all(WEIGHTS)
"""Bundled weights by name."""


def resolve(source: str | Path) -> Path:
    """The weight file of a name, file or run folder.

    Names in `PRETRAINED` take precedence (`./sprites` is a path), and their SHA-256 is verified. Raises
    ValueError if there is no such file or its SHA-256 differs.
    """
    if isinstance(source, str) and source in PRETRAINED:
        return PRETRAINED[source].check()
    if source in UNTRAINED and not Path(source).exists():
        raise ValueError(f"{source} has no weight file, as it is not trained; use it with predict or oh.load")
    path = Path(source)
    if path.is_dir():
        if not (path / "recipe.json").exists() and not (path / "weights.safetensors").exists():
            raise ValueError(f"{path} is not a run folder; pass a run folder or a weight file")
        path = path / "weights.safetensors"
        if not path.exists():
            raise ValueError(
                f"{source} has no weights yet; finish it with objecthood train --resume {source}"
            )
    if not path.exists():
        near = nearest(str(source), PRETRAINED)
        question = f"did you mean {near}?" if near else f"known names are {', '.join(PRETRAINED)};"
        raise ValueError(
            f"no weight file at {path}, and no weights of that name; {question} finished runs have "
            "RUN/weights.safetensors"
        )
    return path


def load(source: str | Path, recipe: Recipe | None = None) -> nn.Module:
    """The model of weights by name, file or run folder, ready for use, with `model.recipe`.

    Names are those in `oh.PRETRAINED` (`objecthood list weights`), whose files are bundled and verified by
    SHA-256. Files of a custom recipe class need that `recipe`.

    Raises ValueError if the weights are unknown, damaged, of another format, or do not fit the recipe.

    Example:
        >>> import objecthood as oh
        >>> model = oh.load("sprites")
        >>> model.num_slots, model.recipe.data
        (6, 'sprites')
    """
    if source == "photos":
        from objecthood.recipes.photos import photos

        return photos()
    if source == "video":
        from objecthood.recipes.moving_objects import video

        return video()
    from objecthood import checkpoint

    return checkpoint.load(resolve(source), recipe)

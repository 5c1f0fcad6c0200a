"""Weights by name: what comes with the package, what is known of it, and how it is loaded.

Every entry of `PRETRAINED` is three files in `weights/`: NAME.safetensors, NAME.json (SHA-256, licence, data,
scores with protocol and seeds, limits), NAME.png (a held-out image). `runs/release/publish_weights.py`
writes all three; nothing else needs to change for weights to be added or replaced. Imports nothing heavy,
so that what is known is told at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objecthood.runtime import renamed
from objecthood.runtime.spelling import nearest

if typing.TYPE_CHECKING:
    from torch import nn

    from objecthood.recipes import Recipe

WEIGHTS = Path(__file__).parents[1] / "weights"
UNTRAINED = ("photos",)
"""Models that `load` knows by name and whose grouping is not trained: they have no weight file."""
DEFAULT = "clevr"
"""Whose weights look at images where none are named."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights that come with the package."""

    name: str
    facts: Mapping[str, Any]
    """All that is published: "recipe" (name), "settings", "seed", "chosen" (how the seed was), "parameters",
    "bytes", "sha256", "licence", "data", "limits", "scores" and "protocol" (test scenes), "validation" and
    "test_by_seed", "calibration" and "warnings" (share of images, by kind, that are told to be unlike what was
    trained on), "trained" (costs, machine, commit), "image", and "frozen" (identities by place) where parts
    of the model are not in the file."""
    folder: Path = WEIGHTS

    @property
    def file(self) -> Path:
        """The weights, as safetensors."""
        return self.folder / f"{self.name}.safetensors"

    @property
    def example(self) -> Path:
        """An image to try them on, held out of training."""
        return self.folder / f"{self.name}.png"

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
        """On test scenes, by the `protocol`."""
        return self.facts["scores"]

    @property
    def protocol(self) -> str:
        return self.facts["protocol"]

    def check(self) -> Path:
        """The file, after its SHA-256 was compared; ValueError where it is missing or another."""
        check_sha256(self.file, self.sha256, f"weights {self.name!r}", "reinstall objecthood")
        return self.file


def check_sha256(file: Path, wanted: str, name: str, remedy: str) -> None:
    """ValueError, in one line, where `file` is not there or not what was published."""
    if not file.is_file():
        raise ValueError(f"{name} are not there ({file}); {remedy}")
    found = sha256_of(file)
    if found != wanted:
        raise ValueError(
            f"{name} are not those that were published: {file} has SHA-256 {found}, expected {wanted}; "
            f"{remedy}"
        )


def sha256_of(file: Path) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read_all(folder: Path) -> dict[str, Pretrained]:
    """Name to weights, from the JSON files of a folder."""
    return {
        file.stem: Pretrained(file.stem, json.loads(file.read_text()), folder)
        for file in sorted(folder.glob("*.json"))
    }


PRETRAINED: dict[str, Pretrained] = read_all(WEIGHTS)
"""Weights that come with the package, by name."""


def resolve(source: str | Path) -> Path:
    """The weight file that a name, a file or a run folder stands for.

    A name of `PRETRAINED` is taken as such (`./sprites` is a file or folder), and its SHA-256 compared.
    Raises ValueError where nothing is found, or another file than was published.
    """
    if isinstance(source, str) and source in PRETRAINED:
        return PRETRAINED[source].check()
    if source in UNTRAINED and not Path(source).exists():
        raise ValueError(
            f"{source} has no weight file, for its grouping is not trained; it serves predict, and oh.load"
        )
    path = Path(source)
    if path.is_dir():
        if not (path / "recipe.json").exists() and not (path / "weights.safetensors").exists():
            raise ValueError(f"{path} is not a run folder; name one, or a weights file")
        path = path / "weights.safetensors"
        if not path.exists():
            raise ValueError(
                f"{source} has no weights yet; finish it with objecthood train --resume {source}"
            )
    if not path.exists():
        near = nearest(str(source), PRETRAINED)
        question = f"did you mean {near}?" if near else f"known names are {', '.join(PRETRAINED)};"
        raise ValueError(
            f"no weight file at {path}, and no weights of that name; {question} a finished run has one as "
            "RUN/weights.safetensors"
        )
    return path


def load(source: str | Path, recipe: Recipe | None = None) -> nn.Module:
    """The model of weights by name, by file, or of a run folder, ready for use; its recipe is `model.recipe`.

    Names are those of `oh.PRETRAINED` (`objecthood list weights`); their files come with the package and are
    compared with their SHA-256. A file made by a recipe class of your own needs that `recipe`.

    Raises ValueError where there is nothing of that name, the file is not ours, is not what was published, or
    does not fit the recipe.

    Example:
        >>> import objecthood as oh
        >>> model = oh.load("sprites")
        >>> model.num_slots, model.recipe.data
        (6, 'sprites')
    """
    if source in UNTRAINED:
        from objecthood.recipes.photos import photos

        return photos()
    from objecthood import checkpoint

    return checkpoint.load(resolve(source), recipe)

"""What the page is told of the models that it shows: `config.json`, and example images as files."""

from __future__ import annotations

import dataclasses
import io
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from objecthood import hub
from objecthood.analysis import out_of_distribution
from objecthood.export.examples import example_images
from objecthood.export.export import facts
from objecthood.export.stages import stages_of_discovery
from objecthood.models import SlotModel
from objecthood.models.base import MOST, WHOLE
from objecthood.recipes.base import Recipe
from objecthood.runtime import limits
from objecthood.runtime.files import check_name

MAX_BYTES = limits.UPLOAD_BYTES
"""Of an uploaded image."""
NUM_EXAMPLES = 12
EXAMPLE_SIDE = 128
"""Pixels a side of examples, where the data has them finer than the model's own size."""
PAGE = Path(__file__).parent / "page"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """One model on the page."""

    name: str
    model: SlotModel
    about: str

    def __post_init__(self) -> None:
        """ValueError where the name, which becomes part of paths and addresses, is not plain."""
        check_name(self.name, "name")


def load_shown(names: list[str]) -> list[Shown]:
    """Discovery models by name of `hub.PRETRAINED`, file or run folder; all that come with the package unless
    named.

    Raises ValueError where one cannot be loaded, is no discovery model, or shares another's name.
    """
    shown: list[Shown] = []
    for source in names or discovery_names():
        model: Any = hub.load(source)
        try:
            stages_of_discovery(model)
        except ValueError as error:
            raise ValueError(
                f"the demo cannot show {source!r}: {error}; take {', '.join(discovery_names())} or "
                "weights of your own discovery recipe"
            ) from error
        known, recipe = hub.PRETRAINED.get(source), typing.cast(Recipe, model.recipe)
        name = source if known else recipe.name
        if any(other.name == name for other in shown):
            raise ValueError(f"two models are called {name!r}; show one of them at a time")
        about = f"{known.facts['data']} {known.facts['limits']}" if known else recipe.description
        shown.append(Shown(name, model, about))
    return shown


def discovery_names() -> list[str]:
    """Names of published weights that paint, those of `hub.DEFAULT` first."""
    names = [name for name, known in hub.PRETRAINED.items() if "masks" in known.protocol]
    return sorted(names, key=lambda name: (name != hub.DEFAULT, name))


def config(engine: str, shown: list[Shown]) -> dict[str, Any]:
    """What `main.js` reads first; `engine` is "server" or "browser"."""
    return {"engine": engine, "max_bytes": MAX_BYTES, "models": [describe(one) for one in shown]}


def describe(one: Shown) -> dict[str, Any]:
    """One model, as JSON values."""
    known = facts(one.model)
    recipe = known.pop("recipe") or {}
    quantiles: Mapping[str, Any] = one.model.calibration.get("quantiles", {})
    is_drawn = recipe.get("data") == "sprites"
    return known | {
        "name": one.name,
        "about": one.about,
        "scenes": "sprites" if is_drawn else "examples",
        "background": recipe.get("background", "grey"),
        "examples": [
            f"examples/{one.name}-{number}.png" for number in range(0 if is_drawn else NUM_EXAMPLES)
        ],
        "usual_error": quantiles.get(WHOLE, {}).get("0.5"),
        "strange_above": {
            measure: out_of_distribution.FACTORS[measure] * quantiles[measure][out_of_distribution.BASE]
            for measure in (WHOLE, MOST)
            if measure in quantiles
        },
    }


def page_files() -> dict[str, bytes]:
    """The page itself, by name."""
    return {file.name: file.read_bytes() for file in sorted(PAGE.iterdir()) if file.suffix in TYPES}


def example_files(one: Shown) -> dict[str, bytes]:
    """Images that the model is at home with, as PNG, by the names that `describe` gives."""
    names = describe(one)["examples"]
    if not names:
        return {}
    side = EXAMPLE_SIDE if getattr(one.model.recipe, "data", "") == "clevr-like" else one.model.resolution
    pictures = example_images(one.model, len(names), side).permute(0, 2, 3, 1)
    pixels = np.rint(pictures.numpy() * 255).astype(np.uint8)
    return {name: png_of(picture) for name, picture in zip(names, pixels, strict=True)}


def png_of(pixels: np.ndarray) -> bytes:
    """The file of uint8 [height, width, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

"""Configuration of the demo page: the models in `config.json`, and example images."""

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
from objecthood.export.stages import export_stages_of, stages_of_discovery
from objecthood.models import SlotModel
from objecthood.models.base import (
    MOST,
    WHOLE,
    AffinityStages,
    ExportStages,
    FeatureStages,
    PhotographStages,
    SpectralStages,
)
from objecthood.nn import guided_filter
from objecthood.recipes.base import Recipe
from objecthood.runtime import limits
from objecthood.runtime.files import check_name

MAX_BYTES = limits.UPLOAD_BYTES
"""Size limit of an uploaded image file."""
NUM_EXAMPLES = 12
EXAMPLE_SIDE = 128
"""Side of example images in pixels, for data with a higher resolution than the model's."""
PHOTOGRAPHS = "photos"
"""The model of the page of photographs."""
LIGHT_PHOTOGRAPHS = "photos-affinity"
"""The same in a browser: its scores are about as good, without decompositions, which take longest there."""
LIVE = "photos-slots"
"""The model of the page of live images."""
FRAME = 320 * 240
"""Pixels of a live frame in a browser: three quarters of those that `photos-slots` was trained with."""
SAMPLES = ("sample-coffee.webp", "sample-cat.webp", "sample-rocket.webp")
PAGE = Path(__file__).parent / "page"
ABOUT_PHOTOGRAPHS = {
    name: "The features are those of EfficientNet-lite0, trained with class labels of ImageNet; the grouping "
    f"{grouping}. It finds most large objects, cuts some into parts, and misses small ones. Samples: Rachel "
    "Michetti and Stefan van der Walt (CC0), SpaceX (public domain)."
    for name, grouping in (
        (PHOTOGRAPHS, "is not trained"),
        (LIGHT_PHOTOGRAPHS, "was learned without labels from normalised cuts of 1,560 photographs"),
    )
}
KINDS = {
    SpectralStages: "photographs",
    AffinityStages: "photographs",
    FeatureStages: "live",
    ExportStages: "slots",
}
"""The page for each kind of model."""
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclasses.dataclass(frozen=True)
class Shown:
    """One model on the page."""

    name: str
    model: SlotModel
    about: str

    @property
    def kind(self) -> str:
        """Of the page: "photographs", "live" or "slots"."""
        return KINDS[type(export_stages_of(self.model))]

    def __post_init__(self) -> None:
        """Raise ValueError if the name is not safe in paths and addresses."""
        check_name(self.name, "name")


def load_shown(names: list[str]) -> list[Shown]:
    """Discovery models by name, file or run folder; `photos` and all bundled ones by default.

    Raises ValueError if one cannot be loaded, is not a discovery model, or has the name of another.
    """
    shown: list[Shown] = []
    for source in names or discovery_names():
        model: Any = hub.load(source)
        if source in ABOUT_PHOTOGRAPHS:
            add_shown(shown, Shown(source, model, ABOUT_PHOTOGRAPHS[source]))
            continue
        try:
            if isinstance(export_stages_of(model), ExportStages):
                stages_of_discovery(model)
        except ValueError as error:
            raise ValueError(
                f"the demo cannot show {source!r}: {error}; use {', '.join(discovery_names())} or weights of "
                "your own discovery recipe"
            ) from error
        known, recipe = hub.PRETRAINED.get(source), typing.cast(Recipe, model.recipe)
        name = source if known else recipe.name
        about = f"{known.facts['data']} {known.facts['limits']}" if known else recipe.description
        add_shown(shown, Shown(name, model, about))
    return shown


def add_shown(shown: list[Shown], one: Shown) -> None:
    """Append `one`; ValueError where another has its name, or one that a file system may take for it."""
    if any(other.name.casefold() == one.name.casefold() for other in shown):
        raise ValueError(f"two models are called {one.name!r}; show one of them at a time")
    shown.append(one)


def discovery_names() -> list[str]:
    """Names of models that the demo shows: `photos`, the model of live images, `hub.DEFAULT`, others."""
    names = [
        name for name, known in hub.PRETRAINED.items() if "ap" not in known.scores and not known.is_video
    ]
    first = [name for name in (LIVE, hub.DEFAULT) if name in names]
    return [PHOTOGRAPHS, *first, *sorted(name for name in names if name not in first)]


def config(engine: str, shown: list[Shown]) -> dict[str, Any]:
    """The content of `config.json`; `engine` is "server" or "browser"."""
    return {"engine": engine, "max_bytes": MAX_BYTES, "models": [describe(one) for one in shown]}


def describe(one: Shown) -> dict[str, Any]:
    """The description of one model, as JSON values."""
    known = facts(one.model)
    stages = export_stages_of(one.model)
    if isinstance(stages, PhotographStages):
        return known | {
            "name": one.name,
            "about": one.about,
            "stride": stages.backbone.stride,
            "guide": guided_filter.SIDE,
            "samples": list(SAMPLES),
        }
    if isinstance(stages, FeatureStages):
        return known | {
            "name": one.name,
            "about": one.about,
            "stride": stages.backbone.stride,
            "area": FRAME,
            "samples": list(SAMPLES),
        }
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
    """The files of the page, by name."""
    return {file.name: file.read_bytes() for file in sorted(PAGE.iterdir()) if file.suffix in TYPES}


def example_files(one: Shown) -> dict[str, bytes]:
    """In-distribution example images as PNG, by the names in `describe`."""
    names = describe(one).get("examples")
    if not names:
        return {}
    side = EXAMPLE_SIDE if getattr(one.model.recipe, "data", "") == "clevr-like" else one.model.resolution
    images = example_images(one.model, len(names), side).permute(0, 2, 3, 1)
    pixels = np.rint(images.numpy() * 255).astype(np.uint8)
    return {name: png_of(image) for name, image in zip(names, pixels, strict=True)}


def png_of(pixels: np.ndarray) -> bytes:
    """The PNG file of uint8 [height, width, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

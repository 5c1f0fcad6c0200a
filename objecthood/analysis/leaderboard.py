"""A leaderboard of slot modules: the same recipe, budget and scenes for each, and what is within noise.

Two columns: at equal CPU seconds, each module takes the steps that the budget pays for; at equal steps, all
take those of the first module. Modules are compared on the same test scenes and seeds: a paired bootstrap
resamples both (Efron and Tibshirani 1993; for seeds, Agarwal et al. 2021, arXiv 2108.13264).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float

from objecthood.analysis.floors import TITLES, floors, untrained_floors
from objecthood.data.generated.texture import Level
from objecthood.data.loader import batches
from objecthood.data.scene import to_device
from objecthood.evaluate import first_scenes
from objecthood.recipes import RECIPES, Recipe
from objecthood.recipes.score_names import mean_and_deviation, title
from objecthood.runtime.environment import choose_precision

SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "tetrominoes": ("tetrominoes", {}),
    "sprites": ("sprites", {}),
    "sprites-coloured": ("sprites", {"background": "coloured"}),
    "random-dot-motion": ("camouflage", {}),
    "clevr6-like": ("clevr6-like", {}),
    "clevr6-textured": ("clevr6-like", {}),
    **{f"texture-{level}": ("sprites", {"data": f"texture-{level}"}) for level in get_args(Level)},
}
"""Recipe and its fields by name of the scenes."""
RENDERED = {"clevr6-like": "plain", "clevr6-textured": "textured"}
"""Sets that are read from a folder, and their `objecthood data render clevr --background`."""
COLUMNS = {"cpu": "equal CPU seconds", "steps": "equal steps"}
WARM_STEPS, MEASURED_STEPS = 2, 5
RESAMPLES = 2000


def recipe_of(
    name: str, module: str, *, seed: int, steps: int, test_scenes: int | None = None, folder: str = ""
) -> Recipe:
    """The recipe of a cell, without its expected score; `folder` holds the scenes of a rendered set."""
    base, fields = SETS[name]
    changes: dict[str, Any] = fields | {"slot_module": module, "seed": seed, "steps": steps, "expected": ""}
    changes |= {} if test_scenes is None else {"test_scenes": test_scenes}
    changes |= {"data_path": folder} if folder else {}
    return dataclasses.replace(RECIPES[base], **changes)


def seconds_per_step(recipe: Recipe, device: torch.device) -> float:
    """CPU seconds of a training step (wall seconds on a GPU): the mean of `MEASURED_STEPS` late steps.

    The global random state is unchanged.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    precision = choose_precision(recipe.precision, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = recipe.build_model().to(device, memory_format=torch.channels_last)
        optimizers = recipe.build_optimizers(model)
        scenes_of_step = batches(recipe.dataset("train"), recipe.batch_size, seed=recipe.seed)
        for step in range(WARM_STEPS + MEASURED_STEPS):
            if step == WARM_STEPS:
                began = clock()
            scenes = to_device(next(scenes_of_step), device)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                loss = recipe.loss(model, scenes, max(recipe.steps, 10**6))
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            loss.item()  # waits for a GPU
    return (clock() - began) / MEASURED_STEPS


@torch.no_grad()
def scores_by_scene(model: Any, recipe: Recipe, batch_size: int = 32) -> list[float | None]:
    """The main score of every test scene, one restart; None where undefined."""
    device = next(model.parameters()).device
    once: dict[str, Any] = {"restarts": 1} if hasattr(recipe, "restarts") else {}
    recipe = dataclasses.replace(recipe, **once)
    found: list[float] = []
    for indices, scenes in first_scenes(recipe, "test", None, batch_size):
        values = recipe.scores(model, to_device(scenes, device), indices)[recipe.main_score]
        found += values.double().cpu().tolist()
    return [None if value != value else value for value in found]


def floors_of(recipes: Sequence[Recipe]) -> dict[str, dict[str, float]]:
    """Floors of a set (`analysis.floors`), from the recipes of its modules: of floors that depend on the
    module, as untrained weights, the highest by the main score."""
    score, found = recipes[0].main_score, floors(recipes[0])
    for recipe in recipes[1:]:
        for name, scores in untrained_floors(recipe).items():
            found[name] = max(found[name], scores, key=lambda one: one[score])
    return found


def paired_difference(
    first: Float[np.ndarray, "seeds scenes"], second: Float[np.ndarray, "seeds scenes"]
) -> tuple[float, float, float]:
    """Mean difference of two modules' scores, and its 95 % interval over resampled seeds and scenes.

    Rows are the same seeds, columns the same scenes; nan where a scene has no score. With one seed, only
    scenes are resampled, so that differences between seeds do not count.

    Example:
        >>> better = np.random.default_rng(0).random((3, 40))
        >>> [round(value, 3) for value in paired_difference(better, better - 0.1)]
        [0.1, 0.1, 0.1]
    """
    difference = first - second
    generator = np.random.default_rng(0)
    num_seeds, num_scenes = difference.shape
    means = []
    for _ in range(RESAMPLES):
        rows = generator.integers(num_seeds, size=num_seeds)
        columns = generator.integers(num_scenes, size=num_scenes)
        means.append(np.nanmean(difference[np.ix_(rows, columns)]))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.nanmean(difference)), float(low), float(high)


def verdicts(by_module: Mapping[str, Mapping[int, Sequence[float | None]]]) -> dict[str, str]:
    """Compare each module with the one of the highest mean, from the scores of its seeds' scenes.

    "best", "within noise" (the 95 % interval of the paired difference contains 0), "worse", or "failed"
    without a finished seed. Seeds that only one of the two finished are left out.
    """
    scores = {
        module: {seed: np.array(values, dtype=float) for seed, values in seeds.items()}
        for module, seeds in by_module.items()
    }
    means = {module: np.nanmean([*seeds.values()]) for module, seeds in scores.items() if seeds}
    found = dict.fromkeys(scores, "failed")
    if not means:
        return found
    best = max(means, key=lambda module: means[module])
    found[best] = "best"
    for module in means:
        shared = sorted(scores[best].keys() & scores[module].keys())
        if module == best or not shared:
            continue
        pair = (np.stack([scores[name][seed] for seed in shared]) for name in (best, module))
        difference, low, high = paired_difference(*pair)
        verdict = "within noise" if low <= 0 <= high else "worse"
        found[module] = f"{verdict} ({-difference:+.3f}, 95 % {-high:+.3f} to {-low:+.3f})"
    for module in means.keys() - {best}:
        if found[module] == "failed":
            found[module] = "no seed in common with the best"
    return found


def page(facts: Mapping[str, Any]) -> str:
    """The leaderboard as Markdown: a table for each set, floors below the modules, and a picture a cell."""
    lines = ["# Leaderboard of slot modules", "", facts["protocol"], ""]
    for name, table in tables(facts).items():
        lines += [f"## {name}", "", *table, ""]
        for module, cells in facts["sets"][name]["modules"].items():
            pictures = {cells[at]["picture"]: words for at, words in reversed(COLUMNS.items())}
            for picture, words in reversed(pictures.items()):
                if picture:
                    what = f"{module}, {words}"
                    lines += [f"{what}:", "", f"![{name}, {what}]({picture})", ""]
    return "\n".join(lines)


def tables(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """The lines of a Markdown table for each set: modules, then floors."""
    found = {}
    for name, board in facts["sets"].items():
        keys = board["shown"]
        head = ["module", *(f"{score}, {words}" for words in COLUMNS.values() for score in keys.values())]
        head += ["failed seeds", "steps", "CPU s per seed", "verdict"]
        lines = [row(head), "| --- |" + " ---: |" * (len(head) - 2) + " --- |"]
        for module, cells in board["modules"].items():
            columns = [cells[at] for at in COLUMNS]
            scores = [mean_and_deviation(cell["scores"].get(key), 3) for cell in columns for key in keys]
            failed = [f"{len(cell['failed'])} of {len(cell['seeds'])}" for cell in columns]
            steps = [str(cell["steps"]) for cell in columns]
            costs = [mean_and_deviation(cell["cpu_seconds"], 0) for cell in columns]
            both = [" / ".join(dict.fromkeys(part)) for part in (failed, steps, costs)]
            lines.append(row([f"`{module}`", *scores, *both, cells["verdict"]]))
        for floor, scores in board["floors"].items():
            shown = [f"{scores[key]:.3f}" if key in scores else "-" for key in keys]
            lines.append(row([f"floor: {TITLES[floor]}", *shown * len(COLUMNS), *["-"] * 4]))
        found[name] = lines
    return found


def row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def shown_scores(recipe: Recipe) -> dict[str, str]:
    """Keys and titles of the scores of the table: the main one, and its best of several restarts."""
    keys, restarts = [recipe.main_score], getattr(recipe, "restarts", 1)
    keys += [f"{recipe.main_score}_best_of_{restarts}"] if restarts > 1 else []
    return {key: title(key) for key in keys}


def picture_of(folder: Path, out: Path) -> str:
    """The address of a run's picture, relative to the page; "" if there is none."""
    file = folder / "latest.png"
    return file.relative_to(out).as_posix() if file.exists() else ""

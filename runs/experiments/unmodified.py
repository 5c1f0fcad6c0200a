"""What the trained unmodified model does with more iterations, more objects and other numbers of slots.

    python runs/experiments/unmodified.py runs/tetrominoes-unmodified-hour-seed? \\
        --short runs/tetrominoes-unmodified-seed?

One restart, no training: scores after 1 to 10 iterations, of scenes with 3 (as trained), 4 and 5 pieces and
one slot more than pieces, and of 3 pieces with 3 to 8 slots; of shorter runs, after 5 iterations. Written to
results/unmodified-tests.json; the first run is drawn in docs/images/unmodified-*.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import objecthood as oh
from objecthood import metrics
from objecthood.analysis import baselines
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.data.randomness import restart_noise
from objecthood.data.scene import Dataset
from objecthood.recipes.sources import Untouched
from objecthood.runtime.environment import describe
from objecthood.visualize import figures
from objecthood.visualize.charts import score_curves

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
PIECES, ITERATIONS, SLOTS = (3, 4, 5), range(1, 11), (3, 4, 5, 6, 8)
SCENES, SCENE, DRAWN = 320, 3, ((3, 3), (3, 4), (3, 6), (4, 5), (5, 6))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of tetrominoes-unmodified")
    parser.add_argument("--short", type=Path, nargs="*", default=[], help="run folders of its default steps")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    runs = arguments.runs
    models = [oh.load(run) for run in runs]
    rows = []
    for model in models:
        for iterations in ITERATIONS:
            rows += [measure(model, pieces, pieces + 1, iterations) for pieces in PIECES]
        rows += [measure(model, 3, slots, 3) for slots in SLOTS if slots != 4]
    facts = {
        "recipe": models[0].recipe.name,
        "protocol": f"{SCENES} generated tetrominoes scenes held out, one restart, argmax of decoder masks",
        "trained": [json.loads((run / "result.json").read_text())["machine"]["commit"] for run in runs],
        "machine": describe(),
        "rows": rows,
        "short": [measure(oh.load(run), 3, 4, 5) for run in arguments.short],
        "components": {pieces: components(pieces) for pieces in PIECES},
        "starts": [failing(models[0], iterations) for iterations in (3, 5)],
    }
    (ROOT / "results" / "unmodified-tests.json").write_text(json.dumps(facts, indent=1) + "\n")
    curves = {
        f"{pieces} pieces, {pieces + 1} slots": [
            (iterations, mean(rows, pieces=pieces, slots=pieces + 1, iterations=iterations))
            for iterations in ITERATIONS
        ]
        for pieces in PIECES
    }
    chart = score_curves(curves, name="FG-ARI over test iterations", axis="test iterations")
    (IMAGES / "unmodified-iterations.svg").write_text(chart)
    draw(models[0])
    draw_failures(models[0])


def mean(rows: list[dict[str, Any]], **wanted: int) -> float:
    """Mean FG-ARI over seeds of the rows with these values."""
    return statistics.mean(
        row["scores"]["fg_ari"] for row in rows if all(row[key] == value for key, value in wanted.items())
    )


def measure(model: Any, pieces: int, slots: int, iterations: int) -> dict[str, Any]:
    """Scores of one setting."""

    class Pieces(type(model.recipe)):
        def dataset(self, split: str) -> Tetrominoes:
            return test_scenes(pieces)

    fields = dataclasses.asdict(model.recipe) | {
        "num_slots": slots,
        "test_iterations": iterations,
        "test_scenes": SCENES,
    }
    learned = model.grouping.initial_slots.num_slots
    model.grouping.initial_slots.num_slots = slots
    try:
        scores = oh.evaluate(model, Pieces(**fields))
    finally:
        model.grouping.initial_slots.num_slots = learned
    row = {"steps": model.recipe.steps, "seed": model.recipe.seed}
    row |= {"pieces": pieces, "slots": slots, "iterations": iterations}
    print(row, scores, flush=True)
    return row | {"scores": scores}


def test_scenes(pieces: int) -> Dataset:
    """With three pieces, the test scenes of the recipe."""
    return Untouched(Tetrominoes("test", pieces=pieces))


def components(pieces: int) -> float:
    """FG-ARI of connected components of one colour on the same scenes: the floor."""
    scenes = test_scenes(pieces)[range(SCENES)]
    labels = baselines.colour_components(scenes["image"])
    return metrics.adjusted_rand_index(scenes["masks"], labels, ignore_background=True).mean().item()


@torch.no_grad()
def failing(model: Any, iterations: int) -> dict[str, int]:
    """How many validation scenes have FG-ARI below 0.9 from all of four starts, and from some."""
    scenes, starts = model.recipe.dataset("validation")[range(SCENES)], 4
    noise = restart_noise(np.arange(SCENES), starts, model.num_slots, model.slot_dim)
    found = torch.stack(
        [
            metrics.adjusted_rand_index(
                scenes["masks"],
                model(scenes["image"], iterations=iterations, noise=noise[start]).masks,
                ignore_background=True,
            )
            for start in range(starts)
        ]
    )
    failed = (found < 0.9).sum(dim=0)
    some = ((failed > 0) & (failed < starts)).sum().item()
    return {
        "iterations": iterations,
        "scenes": SCENES,
        "starts": starts,
        "all": (failed == starts).sum().item(),
        "some": some,
    }


@torch.no_grad()
def draw(model: Any) -> None:
    """Scenes with other numbers of slots and pieces, a row each."""
    rows, names, most = [], [], max(slots for _, slots in DRAWN)
    for pieces, slots in DRAWN:
        image = test_scenes(pieces)[[SCENE]]["image"]
        noise = torch.randn(1, slots, model.slot_dim, generator=torch.Generator().manual_seed(0))
        output = model(image, num_slots=slots, iterations=model.recipe.test_iterations, noise=noise)
        scale = figures.legible_scale(image)
        large, masks = figures.enlarge(image[0], scale), output.masks[0]
        alone = [figures.on_chequer(*pair, scale) for pair in zip(output.appearance[0], masks, strict=True)]
        blank = [Image.new("RGB", alone[0].size, figures.PAPER)] * (most - slots)
        rows.append(
            [figures.to_image(large), figures.overlay_one(large, masks, figures.STRONG), *alone, *blank]
        )
        names.append(f"{pieces} pieces\n{slots} slots")
    figure = figures.grid(rows, ["image", "segmentation"], num_slots=most, row_names=names)
    figure.save(IMAGES / "unmodified-more.webp", lossless=True, method=6)


@torch.no_grad()
def draw_failures(model: Any) -> None:
    """The first validation scenes with FG-ARI below 0.9."""
    scenes = model.recipe.dataset("validation")[range(SCENES)]
    output = model.recipe.discover(model, scenes["image"], torch.arange(SCENES))
    scores = metrics.adjusted_rand_index(scenes["masks"], output.masks, ignore_background=True)
    failed = (scores < 0.9).nonzero().flatten()[:5]
    drawn = (output.reconstruction, output.masks, output.appearance)
    figure = figures.slots_figure(scenes["image"][failed], *(part[failed] for part in drawn))
    figure.save(IMAGES / "unmodified-failures.webp", lossless=True, method=6)


if __name__ == "__main__":
    main()

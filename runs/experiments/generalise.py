"""Score trained discovery models on scenes with more objects than they saw, at several numbers of iterations.

    python runs/experiments/generalise.py clevr6-like scenes --slots 11 runs/clevr6-like-seed* clevr

The paper's generalisation figure (Locatello et al. 2020, section 4.1): no training, more slots, 1 to 10 test
iterations, one restart. Written to results/NAME-generalisation.json, drawn into
docs/images/NAME-generalisation.svg.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch

import objecthood as oh
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.runtime.environment import describe
from objecthood.visualize.charts import score_curves

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the JSON file")
    parser.add_argument("scenes", type=Path, help="a folder of `objecthood data render`, split test")
    parser.add_argument(
        "weights", nargs="+", help="run folders, weight files or names, of one recipe with several seeds"
    )
    parser.add_argument("--slots", type=int, default=11)
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 2, 3, 5, 7, 10])
    arguments = parser.parse_args()
    rows = []
    for weights in arguments.weights:
        model = oh.load(weights)
        known = dataclasses.replace(model.recipe, data_path=str(arguments.scenes), restarts=1)
        more = ClevrLike(arguments.scenes, "test", model.resolution, objects=(7, 10), count=320)
        for iterations in arguments.iterations:
            recipe = dataclasses.replace(known, test_iterations=iterations)
            seen = oh.evaluate(model, recipe)
            new = evaluate_more(model, recipe, more, arguments.slots)
            rows.append({"seed": known.seed, "iterations": iterations, "as_trained": seen, "more": new})
            print(rows[-1], flush=True)
    protocol = (
        f"iterations as in each row. as_trained: otherwise as in {known.protocol}. more: {len(more)} "
        f"clevr-like scenes of 7 to 10 objects, {arguments.slots} slots, otherwise the same; not trained on"
    )
    facts = {"recipe": known.name, "protocol": protocol, "machine": describe(), "rows": rows}
    target = ROOT / "results" / f"{arguments.name}-generalisation.json"
    target.write_text(json.dumps(facts, indent=1) + "\n")
    curves = {
        f"{title}, {objects} objects": means(rows, key, score)
        for score, title in (("fg_ari", "FG-ARI"), ("ari", "ARI"))
        for key, objects in (("as_trained", "3 to 6"), ("more", "7 to 10"))
    }
    chart = score_curves(curves, name="scores over test iterations", axis="test iterations")
    (ROOT / "docs" / "images" / f"{arguments.name}-generalisation.svg").write_text(chart)


def means(rows: list[dict], key: str, score: str) -> list[tuple[int, float]]:
    """(iterations, mean over seeds) of a score."""
    by_iterations: dict[int, list[float]] = {}
    for row in rows:
        by_iterations.setdefault(row["iterations"], []).append(row[key][score])
    return [(number, statistics.mean(values)) for number, values in sorted(by_iterations.items())]


def evaluate_more(
    model: torch.nn.Module, recipe: oh.recipes.Recipe, scenes: ClevrLike, num_slots: int
) -> dict[str, float]:
    """Scores of `recipe` on other scenes with another number of slots."""

    class Other(type(recipe)):
        def dataset(self, split: str) -> ClevrLike:
            return scenes

    model.grouping.initial_slots.num_slots, before = num_slots, model.num_slots
    try:
        return oh.evaluate(model, Other(**dataclasses.asdict(recipe)))
    finally:
        model.grouping.initial_slots.num_slots = before


if __name__ == "__main__":
    main()

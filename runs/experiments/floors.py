"""Score what needs no learning on the scenes of every published table: results/floors.json.

    python runs/experiments/floors.py --clevr FOLDER --textured FOLDER
    python runs/experiments/floors.py --only sprites-grey tetrominoes

FOLDERs hold rendered scenes with a split "test". Untrained models are means over seeds. With `--only` the
other entries of the file stay, with `--labels` the scores of untrained models, which take the longest;
`--skip-colours` leaves out what takes long for clips of large frames (`clips-slots-textured`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import objecthood as oh
from objecthood.analysis import baselines
from objecthood.analysis.floors import floors, of_labels, untrained
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "floors.json"
ENTRIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "tetrominoes": ("tetrominoes", {}, 5),
    "tetrominoes-guided": ("tetrominoes-guided", {}, 5),
    "tetrominoes-unmodified": ("tetrominoes-unmodified", {}, 5),
    "tetrominoes-unmodified-hour": ("tetrominoes-unmodified", {}, 5),
    "sprites-grey": ("sprites", {"background": "grey"}, 5),
    "sprites-coloured": ("sprites", {"background": "coloured"}, 5),
    "clevr6-like": ("clevr6-like", {"data_path": "clevr"}, 5),
    "clevr6-textured": ("clevr6-like", {"data_path": "textured"}, 5),
    "clevr6-ablation": ("clevr6-ablation", {"data_path": "clevr"}, 3),
    "moving-sprites": ("moving-sprites", {}, 3),
    "camouflage": ("camouflage", {}, 3),
    "contrast-clean": ("moving-sprites-contrast", {"test_scenes": 40}, 3),
    "contrast-textured": ("moving-sprites-contrast", {"test_scenes": 40, "background": "textured"}, 3),
    "contrast-camouflage": ("camouflage-contrast", {"test_scenes": 40}, 3),
    "clips-slots-textured": (
        "clips-slots",
        {"data": "moving-sprites", "background": "textured", "camera": 1.0, "clips": 200},
        3,
    ),
    "set-clevr-like": ("set-clevr-like", {"data_path": "clevr"}, 5),
}
"""Published name: recipe, its fields, and seeds of untrained models."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clevr", help="rendered CLEVR-like scenes")
    parser.add_argument("--textured", help="rendered scenes with textured backgrounds")
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--skip-colours", action="store_true", help="leave out floors of colours")
    parser.add_argument("--labels", action="store_true", help="score what needs no model alone")
    arguments = parser.parse_args()
    found = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    for name in arguments.only:
        recipe_name, fields, seeds = ENTRIES[name]
        if "data_path" in fields:
            fields = fields | {"data_path": getattr(arguments, fields["data_path"])}
        began = time.process_time()
        recipe = dataclasses.replace(oh.RECIPES[recipe_name], **fields, seed=0)
        if arguments.skip_colours:
            found[name] = of_labels(recipe, colours=False) | {"untrained": over_seeds(recipe, seeds)}
        elif arguments.labels:
            found[name] = of_labels(recipe) | {
                key: row for key, row in found[name].items() if key.startswith("untrained")
            }
        else:
            found[name] = floors(recipe) | {"untrained": over_seeds(recipe, seeds)}
        found[name]["protocol"] = f"untrained: mean over {seeds} seeds. {recipe.protocol}"
        found[name]["cpu_seconds"] = round(time.process_time() - began, 1)
        print(name, found[name], flush=True)
    found["settings"] = {
        "components": f"neighbours within {baselines.COLOUR_DISTANCE} in RGB, regions below "
        f"{baselines.FEWEST_PIXELS} pixels given to the nearest larger one",
        "kmeans": "as many clusters as slots, on colour alone",
    }
    found["machine"] = describe()
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


def over_seeds(recipe: oh.recipes.Recipe, seeds: int) -> dict[str, float]:
    """Mean scores of untrained models."""
    scores = [untrained(dataclasses.replace(recipe, seed=seed)) for seed in range(seeds)]
    return {name: statistics.mean(score[name] for score in scores) for name in scores[0]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

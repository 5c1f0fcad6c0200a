"""Average precision of set prediction on more objects than it was trained on: results/set-more-objects.json.

    python runs/experiments/set_more_objects.py scenes runs/set-clevr6-like-seed0 runs/set-clevr6-like-seed1

`scenes` is a folder of `objecthood data render`, split test. Each run, trained on up to 6 objects, is scored
on scenes of 3 to 6 and of 7 to 10 objects with its own slots and its own number of iterations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import objecthood as oh
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"as_trained": (3, 6), "more": (7, 10)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", help="folder of rendered scenes")
    parser.add_argument("runs", nargs="+", help="run folders of one recipe with several seeds")
    arguments = parser.parse_args()
    rows, protocols = [], {}
    for run in arguments.runs:
        model = oh.load(run)
        row = {"seed": model.recipe.seed}
        for part, (fewest, most) in PARTS.items():
            recipe = dataclasses.replace(
                model.recipe, data_path=arguments.scenes, min_objects=fewest, max_objects=most
            )
            row[part] = oh.evaluate(model, recipe, "test", len(recipe.dataset("test")))
            protocols[part] = f"{len(recipe.dataset('test'))} scenes: {recipe.protocol}"
        rows.append(row)
        print(row, flush=True)
    facts = {"name": "set-more-objects", "protocol": protocols, "machine": describe(), "rows": rows}
    (ROOT / "results" / "set-more-objects.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

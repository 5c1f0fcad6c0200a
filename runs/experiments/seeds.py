"""Train a recipe with several seeds and keep what is published of each: results/NAME-seedS.json.

    python runs/experiments/seeds.py tetrominoes                        # seeds 0 to 4
    python runs/experiments/seeds.py sprites --background coloured --name sprites-coloured
    python runs/experiments/seeds.py center-votes --data-path FOLDER    # rendered scenes

A seed whose JSON is there is left alone, so the command can be stopped and given again; a run that was
stopped goes on from its checkpoint. Fields of the recipe follow as `--field value`, as with `objecthood
train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import objecthood as oh

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=list(oh.RECIPES))
    parser.add_argument("--name", help="of the JSON files (default: the recipe's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments, fields = parser.parse_known_args()
    recipe = oh.RECIPES[arguments.recipe]
    recipe = dataclasses.replace(recipe, **typed(recipe, fields))
    for seed in arguments.seeds:
        publish(dataclasses.replace(recipe, seed=seed), f"{arguments.name or recipe.name}-seed{seed}")


def publish(recipe: oh.recipes.Recipe, name: str) -> None:
    """Train one seed, unless its result is there."""
    target = ROOT / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        return
    out = ROOT / "runs" / name
    result = oh.train(recipe, out, resume=(out / "recipe.json").exists())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line.pop("kind") == "evaluate"]
    settings = result["settings"]
    if settings.get("data_path"):  # the folder's name tells the data; where it lay is nobody's concern
        settings["data_path"] = Path(settings["data_path"]).name
    target.write_text(json.dumps(result | {"name": name, "curve": curve}, indent=1) + "\n")


def typed(recipe: oh.recipes.Recipe, fields: list[str]) -> dict[str, object]:
    """`--field value` pairs with values of the fields' types."""
    names = [name.removeprefix("--").replace("-", "_") for name in fields[::2]]
    return {name: type(getattr(recipe, name))(value) for name, value in zip(names, fields[1::2], strict=True)}


if __name__ == "__main__":
    main()

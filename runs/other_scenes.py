"""Score discovery weights on rendered scenes of other kinds, and count what is wrong with their masks.

    python runs/other_scenes.py clevr-like plain=clevr textured=RUN --scenes plain=FOLDER textured=FOLDER

Every weights (a name, a file or a run folder) on every folder of `objecthood data render`, split test.
Written to results/NAME-scenes.json; the first scenes of each folder, seen by the weights of the same title,
are drawn into docs/images/NAME-TITLE-scenes.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import objecthood as oh
from objecthood.diagnosis import diagnose
from objecthood.environment import describe

ROOT = Path(__file__).resolve().parent.parent
DRAWN = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the JSON file")
    parser.add_argument("weights", nargs="+", help="TITLE=WEIGHTS; a title may come several times, for seeds")
    parser.add_argument("--scenes", nargs="+", required=True, help="TITLE=FOLDER")
    arguments = parser.parse_args()
    rows, protocol = [], ""
    folders = dict(scenes.split("=", 1) for scenes in arguments.scenes)
    for title, weights in (one.split("=", 1) for one in arguments.weights):
        model = oh.load(weights)
        for scenes, folder in folders.items():
            recipe = dataclasses.replace(model.recipe, data_path=folder)
            protocol = recipe.protocol
            row = {"weights": title, "seed": recipe.seed, "scenes": scenes}
            row |= {"scores": oh.evaluate(model, recipe), "summary": diagnose(model, recipe).summary}
            print(row, flush=True)
            if title == scenes and not any(known["weights"] == known["scenes"] == title for known in rows):
                first = recipe.dataset("test")[list(range(DRAWN))]
                picture = recipe.picture(model, {key: torch.as_tensor(first[key]) for key in first})
                picture.save(ROOT / "docs" / "images" / f"{arguments.name}-{title}-scenes.png")
            rows.append(row)
    facts = {"protocol": protocol, "machine": describe(), "rows": rows}
    (ROOT / "results" / f"{arguments.name}-scenes.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

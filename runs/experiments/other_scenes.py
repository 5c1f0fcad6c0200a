"""Score discovery weights on rendered scenes of other kinds, and count what is wrong with their masks.

    python runs/experiments/other_scenes.py clevr-like plain=clevr textured=RUN \
        --scenes plain=FOLDER textured=FOLDER

Every weights (a name, a file or a run folder) on every folder of `objecthood data render`, split test, as
they are and with slots that reach across the image united (`nn.merge_background`). Written to
results/NAME-scenes.json; the first scenes of each folder, seen by the weights of the same title, are drawn
into docs/images/NAME-TITLE-scenes.png, and with a united ground, where that changes anything, into
docs/images/NAME-TITLE-merged-background-scenes.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

import objecthood as oh
from objecthood.analysis.diagnosis import diagnose
from objecthood.nn import merge_background
from objecthood.recipes import Discovery
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
DRAWN = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the JSON file")
    parser.add_argument("weights", nargs="+", help="TITLE=WEIGHTS; a title may come several times, for seeds")
    parser.add_argument("--scenes", nargs="+", required=True, help="TITLE=FOLDER")
    arguments = parser.parse_args()
    rows, protocol, drawn = [], "", set()
    folders = dict(scenes.split("=", 1) for scenes in arguments.scenes)
    for title, weights in (one.split("=", 1) for one in arguments.weights):
        model = oh.load(weights)
        for scenes, folder in folders.items():
            recipe = dataclasses.replace(model.recipe, data_path=folder)
            protocol = recipe.protocol
            first = {
                name: torch.as_tensor(values) for name, values in recipe.dataset("test")[range(DRAWN)].items()
            }
            seen: dict[tuple[int, ...], Any] = {}
            for what in (title, f"{title}-merged-background"):
                how = looking_once(recipe, what != title, seen)
                row = {
                    "weights": title,
                    "seed": recipe.seed,
                    "scenes": scenes,
                    "merge_background": what != title,
                }
                row |= {"scores": oh.evaluate(model, how), "summary": diagnose(model, how).summary}
                print(row, flush=True)
                rows.append(row)
                is_changed = what == title or row["scores"] != rows[-2]["scores"]
                if title == scenes and what not in drawn and is_changed:
                    drawn.add(what)
                    how.preview(model, first).save(IMAGES / f"{arguments.name}-{what}-scenes.png")
    facts = {"protocol": protocol, "machine": describe(), "rows": rows}
    (ROOT / "results" / f"{arguments.name}-scenes.json").write_text(json.dumps(facts, indent=1) + "\n")


def looking_once(recipe: Discovery, united: bool, seen: dict[tuple[int, ...], Any]) -> Discovery:
    """The recipe, which keeps in `seen` what a model makes of images; `united`: with one ground."""

    class LookingOnce(type(recipe)):
        def discover(self, model: Any, images: Any, indices: Any) -> Any:
            key = self.test_iterations, *indices.tolist()
            if key not in seen:
                seen[key] = super().discover(model, images, indices)
            scene = seen[key]
            if not united:
                return scene
            masks, appearance = merge_background(scene.masks, scene.appearance)
            return scene._replace(masks=masks, appearance=appearance)

    return LookingOnce(**dataclasses.asdict(recipe))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

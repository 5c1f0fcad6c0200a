"""Publish the sets of a leaderboard: their part of results/leaderboard/leaderboard.json, and
docs/images/leaderboard-SET.webp, on which every module is seen on the same test scenes.

    objecthood leaderboard --modules ... --sets ... --out runs/leaderboard
    python runs/pictures/leaderboard_sheet.py runs/leaderboard
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import objecthood as oh
from objecthood.visualize import figures

ROOT = Path(__file__).resolve().parents[2]
SCENES = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("board", type=Path, help="the folder given to --out")
    board = parser.parse_args().board
    torch.set_num_threads(1)
    facts = json.loads((board / "leaderboard.json").read_text())
    target = ROOT / "results" / "leaderboard" / "leaderboard.json"
    published = json.loads(target.read_text())
    for name, found in facts["sets"].items():
        cells = {module: columns["cpu"].pop("picture") for module, columns in found["modules"].items()}
        for columns in found["modules"].values():
            columns["steps"].pop("picture", None)
        sheet = draw({module: (board / picture).parent for module, picture in cells.items() if picture})
        sheet.save(ROOT / "docs" / "images" / f"leaderboard-{name}.webp", lossless=True, method=6)
        measured = {"budget": facts["protocol"], "machine": facts["machine"]}
        published["sets"][name] = measured | found
    target.write_text(json.dumps(published, indent=1) + "\n")


@torch.no_grad()
def draw(runs: dict[str, Path]) -> Image.Image:
    """The first test scenes, then the segmentation by each module."""
    rows: list[list[Image.Image]] = []
    for run in runs.values():
        model: Any = oh.load(run)
        images = model.recipe.dataset("test")[range(SCENES)]["image"]
        found = model.recipe.discover(model, images, torch.arange(SCENES), 1)
        large = figures.enlarge(images, figures.legible_scale(images[0]))
        if not rows:
            rows.append([figures.to_image(image) for image in large])
        rows.append(
            [figures.overlay_one(*pair, figures.STRONG) for pair in zip(large, found.masks, strict=True)]
        )
    return figures.grid(rows, [""] * SCENES, num_slots=0, row_names=["image", *runs])


if __name__ == "__main__":
    main()

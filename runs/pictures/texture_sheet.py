"""Draw docs/images/texture-levels.png: a column a level of the texture scenes, a spiral, a star and a comb,
and their true masks; and docs/images/texture-layers.png: what the recipe `textures`, with the label field's
start values, finds in scenes of two levels.

python runs/pictures/texture_sheet.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

import objecthood as oh
from objecthood.data.generated.texture import Level, Texture
from objecthood.visualize.figures import grid, slot_colors, to_image

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
FREQUENCIES = {"oriented": 4, "shifted": 1}
SCENES = (3, 0, 4, 2)  # of the split "validation"
RESOLUTION = 128


def main() -> None:
    levels = get_args(Level)
    scenes = {
        level: Texture("validation", level=level, resolution=RESOLUTION)[list(SCENES)] for level in levels
    }
    colors = np.concatenate([np.full((1, 3), 60, np.uint8), slot_colors(3)])
    rows = [
        [to_image(scenes[level]["image"][row]) for level in levels]
        + [Image.fromarray(colors[scenes["solid"]["masks"][row].numpy()])]
        for row in range(len(SCENES))
    ]
    sheet = grid(rows, [*levels, "true masks"], num_slots=0)
    sheet.quantize(256).save(IMAGES / "texture-levels.png", optimize=True)
    layers()


def layers() -> None:
    """Image, reconstruction, segmentation and slots of the first scenes of each level."""
    rows = []
    for level, number in FREQUENCIES.items():
        recipe: Any = oh.RECIPES["textures"]
        recipe = dataclasses.replace(recipe, data=f"texture-{level}", num_frequencies=number)
        model = recipe.prepare_for_test(recipe.build_model())
        rows.append(recipe.preview(model, recipe.dataset("validation")[range(3)]))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * rows[0].height))
    sheet.quantize(256).save(IMAGES / "texture-layers.png", optimize=True)


if __name__ == "__main__":
    main()

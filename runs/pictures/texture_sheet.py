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
from PIL import Image, ImageDraw, ImageFont

import objecthood as oh
from objecthood.data.generated.texture import Level, Texture
from objecthood.visualize.figures import slot_colors, to_image

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
FREQUENCIES = {"oriented": 4, "shifted": 1}
SCENES = (3, 0, 4, 2)  # of the split "validation"
RESOLUTION, GAP, TITLE = 128, 6, 22
MASKS = "masks"


def main() -> None:
    columns = (*get_args(Level), MASKS)
    step = RESOLUTION + GAP
    sheet = Image.new("RGB", (len(columns) * step - GAP, TITLE + len(SCENES) * step - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    colors = np.concatenate([np.full((1, 3), 235, np.uint8), slot_colors(3)])
    for column, name in enumerate(columns):
        draw.text((column * step, 2), name, fill="black", font=ImageFont.load_default(15))
        level = "solid" if name == MASKS else name
        scenes = Texture("validation", level=level, resolution=RESOLUTION)[list(SCENES)]
        for row, (image, masks) in enumerate(zip(scenes["image"], scenes["masks"], strict=True)):
            picture = Image.fromarray(colors[masks.numpy()]) if name == MASKS else to_image(image)
            sheet.paste(picture, (column * step, TITLE + row * step))
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

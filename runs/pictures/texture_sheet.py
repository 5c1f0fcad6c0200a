"""Draw docs/images/texture-levels.png: a column a level of the texture scenes, a spiral, a star and a comb,
and their true masks.

python runs/pictures/texture_sheet.py
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from objecthood.data.generated.texture import Level, Texture
from objecthood.visualize.figures import slot_colors, to_image

TARGET = Path(__file__).resolve().parents[2] / "docs" / "images" / "texture-levels.png"
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
    sheet.quantize(256).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()

"""Draw docs/images/set-objects.webp: what a trained set predictor sees in the first four test scenes.

python runs/pictures/set_pictures.py runs/set-clevr-like-seed0
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from PIL import Image

import objecthood as oh
from objecthood.visualize import figures

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SIDE = 480  # pixels of one scene


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder of a set prediction recipe")
    parser.add_argument("--data-path", help="the recipe's own unless named")
    arguments = parser.parse_args()
    model = oh.load(arguments.run / "weights.safetensors")
    recipe = model.recipe
    if arguments.data_path:
        recipe = dataclasses.replace(recipe, data_path=arguments.data_path)
    sheet = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, image in enumerate(recipe.dataset("test")[range(4)]["image"]):
            figures.to_image(image).save(folder / f"{number}.png")
        for number, result in enumerate(oh.predict(model, folder, folder / "seen", animate=False)):
            with Image.open(result.files["drawing"]) as drawing:
                sheet.paste(drawing.resize((SIDE, SIDE)), (number % 2 * SIDE, number // 2 * SIDE))
    sheet.save(IMAGES / "set-objects.webp", quality=85)


if __name__ == "__main__":
    main()

"""Draw docs/images/clevr-like*.png: 64 scenes that come with the package, 36 with their masks, 36 textured.

    python runs/pictures/clevr_like_sheets.py textured-scenes

The textured scenes are rendered into the folder named (needs mitsuba) unless they are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from objecthood.data.clevr_render.clevr_like import ClevrLike, render_dataset
from objecthood.visualize import figures

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("textured", type=Path, help="folder for textured scenes")
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    plain = ClevrLike()[range(64)]
    pictures = [figures.to_image(image) for image in plain["image"]]
    sheet(pictures, 8).save(IMAGES / "clevr-like.png", optimize=True)
    marked = [
        figures.overlay_one(image, masks, opacity=0.5)
        for image, masks in zip(plain["image"][:36], plain["masks"][:36], strict=True)
    ]
    sheet(marked, 6).save(IMAGES / "clevr-like-masks.png", optimize=True)
    render_dataset(arguments.textured, 36, (3, 10), background="textured", split="test", say=print)
    textured = ClevrLike(arguments.textured)[range(36)]["image"]
    pictures = [figures.to_image(image) for image in textured]
    sheet(pictures, 6).save(IMAGES / "clevr-like-textured.png", optimize=True)


def sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Square images of one size side by side."""
    side = pictures[0].width
    whole = Image.new("RGB", (columns * side, len(pictures) // columns * side))
    for place, picture in enumerate(pictures):
        whole.paste(picture, (place % columns * side, place // columns * side))
    return whole


if __name__ == "__main__":
    main()

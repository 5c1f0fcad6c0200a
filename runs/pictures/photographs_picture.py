"""Draw docs/images/photographs.webp: the sample photographs of the demo, and the segments of `MODELS` below.

python runs/pictures/photographs_picture.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import objecthood as oh

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cat", "coffee", "rocket")
MODELS = ("photos", "photos-affinity")
HEIGHT, GAP = 240, 8


def main() -> None:
    columns = []
    for name in NAMES:
        with Image.open(ROOT / "objecthood" / "demo" / "page" / f"sample-{name}.webp") as file:
            photograph = file.convert("RGB")
        size = round(photograph.width * HEIGHT / photograph.height), HEIGHT
        found = [oh.predict(model, photograph)[0].plot("overlay").convert("RGB") for model in MODELS]
        columns.append([image.resize(size) for image in (photograph, *found)])
    width = sum(column[0].width + GAP for column in columns) - GAP
    height, left = (1 + len(MODELS)) * (HEIGHT + GAP) - GAP, 0
    sheet = Image.new("RGB", (width, height), "white")
    for column in columns:
        for row, image in enumerate(column):
            sheet.paste(image, (left, row * (HEIGHT + GAP)))
        left += column[0].width + GAP
    sheet.save(ROOT / "docs" / "images" / "photographs.webp", quality=85, method=6)


if __name__ == "__main__":
    main()

"""Draw docs/images/photographs.webp: the sample photographs of the demo, and the segments of `photos` below.

python runs/pictures/photographs_picture.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import objecthood as oh

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("cat", "coffee", "rocket")
HEIGHT, GAP = 240, 8


def main() -> None:
    columns = []
    for name in NAMES:
        with Image.open(ROOT / "objecthood" / "demo" / "page" / f"sample-{name}.webp") as file:
            photograph = file.convert("RGB")
        (result,) = oh.predict("photos", photograph)
        size = round(photograph.width * HEIGHT / photograph.height), HEIGHT
        columns.append([image.resize(size) for image in (photograph, result.plot("overlay").convert("RGB"))])
    width = sum(above.width + GAP for above, _ in columns) - GAP
    sheet, left = Image.new("RGB", (width, 2 * HEIGHT + GAP), "white"), 0
    for above, below in columns:
        sheet.paste(above, (left, 0))
        sheet.paste(below, (left, HEIGHT + GAP))
        left += above.width + GAP
    sheet.save(ROOT / "docs" / "images" / "photographs.webp", quality=85, method=6)


if __name__ == "__main__":
    main()

"""Synthetic masks that each metric scores differently: images and the table of docs/metrics.md.

python runs/pages/metric_examples.py  (--check: say by the exit code whether page and images are up to date)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from objecthood import metrics
from objecthood.visualize.figures import slot_colors

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images" / "metrics"
SIDE, SCALE = 48, 3
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")


def disc(row: int, column: int, radius: float) -> Tensor:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


def scene(grow: float = 0.0) -> Tensor:
    """Background 0, two large discs 1 and 2, a small one 3; all of them larger by `grow` pixels."""
    labels = torch.zeros(SIDE, SIDE, dtype=torch.int64)
    for number, (row, column, radius) in enumerate([(15, 13, 8), (30, 33, 9), (38, 12, 3)], start=1):
        labels[disc(row, column, radius + grow)] = number
    return labels


TRUTH = scene()


def examples() -> dict[str, tuple[str, Tensor]]:
    """Description and masks by name."""
    quarters = 4 + (ROWS >= SIDE // 2) * 2 + (COLUMNS >= SIDE // 2)
    shattered = torch.where(TRUTH == 0, quarters, TRUTH)
    nearest = torch.stack(
        [
            ((ROWS - row) ** 2 + (COLUMNS - column) ** 2).float()
            for row, column in ((15, 13), (30, 33), (38, 12))
        ]
    )
    stripes = (ROWS * 4 // SIDE) * 4 + COLUMNS * 4 // SIDE
    return {
        "perfect": ("one slot for each object, one for the background", TRUTH),
        "shattered": ("objects perfect, background in four pieces", shattered),
        "spilled": (
            "no background slot: each object's mask covers its surroundings",
            nearest.argmin(0) + 1,
        ),
        "missed": ("a large object in the background slot", torch.where(TRUTH == 2, 0, TRUTH)),
        "small-missed": ("the small object in the background slot", torch.where(TRUTH == 3, 0, TRUTH)),
        "shared": ("two large objects in one slot", torch.where(TRUTH == 2, 1, TRUTH)),
        "halved": (
            "every object split in two",
            torch.where((TRUTH > 0) & (COLUMNS % 32 >= 13), TRUTH + 3, TRUTH),
        ),
        "thick": ("correct, but 2 pixels too large on every side", scene(grow=2)),
        "one": ("one slot takes everything", torch.zeros_like(TRUTH)),
        "squares": ("16 equal squares, whatever the image", stripes),
    }


def scores(masks: Tensor) -> list[float]:
    """FG-ARI, ARI, mBO and mIoU of one image."""
    pair = TRUTH[None], masks[None]
    values = (
        metrics.adjusted_rand_index(*pair, ignore_background=True),
        metrics.adjusted_rand_index(*pair, ignore_background=False),
        metrics.mean_best_overlap(*pair),
        metrics.mean_iou(*pair),
    )
    return [float(value) for value in values]


def picture(masks: Tensor) -> Image.Image:
    """The masks in colours of slots; background slot 0 in near black."""
    colors = np.concatenate([[[38, 41, 48]], slot_colors(24)]).astype(np.uint8)
    large = np.kron(masks.numpy(), np.ones((SCALE, SCALE), np.int64))
    return Image.fromarray(colors[large])


def table() -> str:
    """A row for each example: image, description, scores."""
    lines = [
        "| masks | description | FG-ARI | ARI | mBO | mIoU |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (words, masks) in examples().items():
        values = " | ".join(f"{value + 0.0:.2f}".replace("-0.00", "0.00") for value in scores(masks))
        lines.append(f"| ![{words}](images/metrics/{name}.png){{ width=96 }} | {words} | {values} |")
    return "\n".join(lines)


def main() -> int:
    page = ROOT / "docs" / "metrics.md"
    before = page.read_text()
    block = re.compile(r"(<!-- examples -->\n).*?(\n<!-- /examples -->)", re.DOTALL)
    after = block.sub(lambda match: match[1] + table() + match[2], before)
    drawn = {name: picture(masks) for name, (_, masks) in examples().items()}
    if "--check" in sys.argv[1:]:
        same = all(
            np.array_equal(np.asarray(Image.open(IMAGES / f"{name}.png").convert("RGB")), np.asarray(one))
            for name, one in drawn.items()
        )
        return int(after != before or not same)
    page.write_text(after)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, one in drawn.items():
        one.quantize(32).save(IMAGES / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

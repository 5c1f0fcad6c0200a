"""Draw docs/images/contrast.png: one frame of some clips, and the attention of each row's model in it.

    python runs/pictures/contrast_picture.py

It needs the runs in `ROWS`, as runs/experiments/contrast.py left them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

import objecthood as oh
from objecthood.visualize.figures import GAP, PAPER, STRONG, enlarge, overlay_one, to_image
from objecthood.visualize.video import label_columns

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "nearest-clean-seed0": "set contrast",
    "single-clean-seed0": "single-slot contrast",
    "untrained-clean-seed0": "untrained",
}
CLIPS, TIME, SCALE = range(6), 4, 3


@torch.no_grad()
def main() -> None:
    scenes = oh.load(weights("nearest-clean-seed0")).recipe.dataset("validation")[CLIPS]
    large = enlarge(scenes["image"][:, TIME], SCALE)
    columns = [[to_image(frame) for frame in large]]
    for row in ROWS:
        model = oh.load(weights(row))
        attention = model.recipe.discover(model, scenes, torch.arange(len(large))).attention[:, TIME]
        masks = torch.nn.functional.interpolate(attention, large.shape[-2:], mode="bilinear")
        columns.append([overlay_one(*pair, STRONG) for pair in zip(large, masks, strict=True)])
    side = columns[0][0].width + GAP
    sheet = Image.new("RGB", (side * len(columns), side * len(large)), PAPER)
    for across, column in enumerate(columns):
        for down, cell in enumerate(column):
            sheet.paste(cell, (across * side + GAP // 2, down * side + GAP // 2))
    label_columns(sheet, ["frame", *ROWS.values()]).save(ROOT / "docs" / "images" / "contrast.png")


def weights(row: str) -> Path:
    return ROOT / "runs" / f"contrast-{row}" / "weights.safetensors"


if __name__ == "__main__":
    main()

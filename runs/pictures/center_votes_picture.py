"""Draw docs/images/center-votes.png: the first test scenes with patterned surfaces, divided in three ways.

python runs/pictures/center_votes_picture.py FOLDER RUN     # rendered scenes; a run of `center-votes`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import objecthood as oh
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.models.center_votes import OFF_LINE
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.background_line import background_line, off_line
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.cut_and_paste import regions
from objecthood.visualize.figures import enlarge, overlay_one, to_image

TARGET = Path(__file__).resolve().parents[2] / "docs" / "images" / "center-votes.png"
SCENES, SCALE, GAP, TITLE = 6, 3, 6, 22


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("run")
    arguments = parser.parse_args()
    small, large = (ClevrLike(arguments.folder, "test", side, (3, 6))[range(SCENES)] for side in (64, 128))
    images, model = small["image"], oh.load(arguments.run)
    distance = off_line(images, background_line(images)).norm(dim=1)
    segmenter = SpectralSegmenter(cut=ConsensusCut(num_segments=model.num_slots))
    columns: dict[str, Tensor | None] = {
        "image": None,
        "off the line": numbered(regions(distance > OFF_LINE)),
        "consensus of cuts": segmenter.segment(large["image"]).masks,
        "votes for centres": model.segment(images).masks,
        "true masks": small["masks"],
    }
    step = 64 * SCALE + GAP
    sheet = Image.new("RGB", (len(columns) * step - GAP, TITLE + SCENES * step - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, masks) in enumerate(columns.items()):
        draw.text((column * step, 2), title, fill="black", font=ImageFont.load_default(15))
        for row, image in enumerate(enlarge(images, SCALE)):
            shown = to_image(image) if masks is None else overlay_one(image, masks[row], 0.75)
            sheet.paste(shown, (column * step, TITLE + row * step))
    sheet.quantize(256).save(TARGET, optimize=True)


def numbered(labels: Tensor) -> Tensor:
    """Labels of each image from 0 on without gaps, its smallest regions last; as many colours as needed."""
    found = []
    for one in labels:
        _, places, counts = one.unique(return_inverse=True, return_counts=True)
        order = counts.argsort(descending=True).argsort()
        found.append(order[places])
    return torch.stack(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

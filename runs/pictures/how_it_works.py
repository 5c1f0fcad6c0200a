"""Draw the images of docs/how-it-works.md: docs/images/how/*.webp, all from models trained here.

    python runs/pictures/how_it_works.py features attention competition sum  # need weights and a sprites run
    python runs/pictures/how_it_works.py learning                      # trains sprites once more, a minute

`features`, `attention` and `competition` come from the weights `clevr` and a scene of the package, `sum` from
the run runs/sprites-coloured (objecthood train sprites --background coloured).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import objecthood as oh
from objecthood import metrics
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.recipes.discovery import SpatialBiasDiscovery
from objecthood.visualize import animation, figures
from objecthood.visualize.figures import (
    GAP,
    INK,
    MARGIN,
    PAPER,
    STRONG,
    enlarge,
    slot_colors,
    to_image,
    write,
)

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images" / "how"
WEIGHTS = "clevr"
SCENE = 17
"""Of the scenes in the package: six objects, two of them cut off by the border."""
TOLD = 6
"""Iterations that are drawn."""
PLACES = {"yellow block": (9, 12), "red cylinder": (8, 23), "red ball": (15, 21)}
"""Rows and columns, on the grid of 32 x 32 features, of the places whose vote is shown."""
HOLD = 14


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+", choices=list(DRAWN))
    torch.set_num_threads(1)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in parser.parse_args().pictures:
        DRAWN[name]()


@torch.no_grad()
def look() -> tuple[oh.SlotAutoencoder, Tensor, Tensor]:
    """The model, an image, and the attention of its iterations [iterations, slots, rows, columns]."""
    model = oh.load(WEIGHTS)
    images = ClevrLike(resolution=64)[[SCENE]]["image"]
    recipe = dataclasses.replace(model.recipe, test_iterations=TOLD)
    return model, images, recipe.discover(model, images, torch.tensor([SCENE])).attention[0]


@torch.no_grad()
def features() -> None:
    """An image, and its features as colours: their three principal components, at every place."""
    model, images, _ = look()
    grid = model.encoder(model.input_transform(images).contiguous(memory_format=torch.channels_last))[0]
    flat = grid.flatten(0, 1) - grid.mean(dim=(0, 1))
    main_axes = torch.pca_lowrank(flat, q=3, center=False)[2]
    colors = (flat @ main_axes).unflatten(0, grid.shape[:2]).permute(2, 0, 1)
    low, high = (colors.flatten(1).quantile(part, dim=1)[:, None, None] for part in (0.01, 0.99))
    left, right = enlarge(images[0], 5), enlarge((colors - low) / (high - low), 10)
    size = (2 * MARGIN + 2 * 320 + 3 * GAP, MARGIN + 320 + 40)
    figure = Image.new("RGB", size, PAPER)
    for number, (picture, name) in enumerate(((left, "image, 64 x 64"), (right, "features, 32 x 32 x 64"))):
        x = MARGIN + number * (320 + 3 * GAP)
        figure.paste(to_image(picture), (x, MARGIN))
        write(figure, (x + 160, MARGIN + 340), name)
    figure.save(IMAGES / "features.webp", quality=90, method=6)


def attention() -> None:
    """Where every slot looks, iteration by iteration."""
    _, images, weights = look()
    frames = animation.attention_frames(images[0], weights[:TOLD], scale=2)
    animation.save_animation(frames, IMAGES / "attention.webp")


def competition() -> None:
    """Who explains a place: the vote of three places between the slots, iteration by iteration."""
    _, images, weights = look()
    image, steps = enlarge(images[0], 5), 10
    frames = []
    for number in range(TOLD):
        now = weights[number]
        frames += [_vote(image, now, number + 1.0)] * HOLD
        if number + 1 < TOLD:
            mixed = [torch.lerp(now, weights[number + 1], step / steps) for step in range(1, steps)]
            frames += [_vote(image, one, number + 1 + step / steps) for step, one in enumerate(mixed, 1)]
    animation.save_animation(frames + [frames[-1]] * HOLD, IMAGES / "competition.webp")


def _vote(image: Tensor, weights: Tensor, now: float) -> Image.Image:
    """The image with its places, and beside it one row of bars for each place."""
    side, colors = image.shape[-1], [tuple(color) for color in slot_colors(len(weights)).tolist()]
    frame = Image.new("RGB", (side + 460, side + 2 * MARGIN + 24), PAPER)
    frame.paste(to_image(image), (MARGIN, MARGIN))
    draw, cell = ImageDraw.Draw(frame), side // weights.shape[-1]
    left, room, width = side + 3 * MARGIN, side // len(PLACES), 44
    for index, (name, (row, column)) in enumerate(PLACES.items()):
        x, y = MARGIN + (column + 0.5) * cell, MARGIN + (row + 0.5) * cell
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=PAPER, outline=INK, width=2)
        write(frame, (x, y), "abc"[index])
        floor = MARGIN + (index + 1) * room - 12
        draw.text((left, floor - room + 14), f"{'abc'[index]}   {name}", fill=INK, font=_font())
        for slot, (share, color) in enumerate(zip(weights[:, row, column].tolist(), colors, strict=True)):
            bar = left + slot * (width + 5)
            draw.rectangle((bar, floor - 2 - share * (room - 42), bar + width, floor), fill=color)
    for slot in range(len(colors)):
        write(frame, (left + slot * (width + 5) + width / 2, MARGIN + side + 14), f"slot {slot + 1}")
    write(frame, (MARGIN + side / 2, MARGIN + side + 14), f"iteration {round(now)} of {TOLD}")
    return frame


def _font():
    from PIL import ImageFont

    return ImageFont.load_default(figures.TEXT_SIZE)


@torch.no_grad()
def add_up() -> None:
    """An image painted by its slots, one after the other, the largest first."""
    model = oh.load(ROOT / "runs" / "sprites-coloured" / "weights.safetensors")
    images = model.recipe.dataset("test")[[22]]["image"]
    seen = model.recipe.discover(model, images, torch.tensor([11]))
    masks, appearance = seen.masks[0], seen.appearance[0]
    order = [
        slot for slot in masks.sum(dim=(1, 2)).argsort(descending=True).tolist() if masks[slot].max() > 0.5
    ]
    frames: list[Image.Image] = []
    painted = torch.zeros_like(masks[0])
    for count, slot in enumerate(order):
        for step in range(1, 11):
            soft = painted + masks[slot] * step / 10
            frames.append(_canvas(images[0], masks, appearance, soft, order[: count + 1], step / 10))
        painted = painted + masks[slot]
        frames += [frames[-1]] * 10
    animation.save_animation(frames + [frames[-1]] * 2 * HOLD, IMAGES / "sum.webp")


def _canvas(
    image: Tensor, masks: Tensor, appearance: Tensor, painted: Tensor, slots: list[int], strength: float
) -> Image.Image:
    """The image to be made, the sum so far (a chequer where nothing is painted), and the slots added."""
    shown = torch.zeros(len(masks))
    shown[slots] = 1.0
    shown[slots[-1]] = strength
    total = (masks * shown[:, None, None])[:, None].mul(appearance).sum(dim=0)
    board = figures.on_chequer((total / painted.clamp_min(1e-3)).clamp(0, 1), painted, 4)
    size, small = 256, 120
    frame = Image.new(
        "RGB", (2 * (size + MARGIN) + MARGIN + 3 * (small + GAP), size + 2 * MARGIN + 24), PAPER
    )
    for x, picture, name in (
        (MARGIN, to_image(enlarge(image, 4)), "image"),
        (size + 2 * MARGIN, board, "sum of the slots so far"),
    ):
        frame.paste(picture, (x, MARGIN))
        write(frame, (x + size / 2, MARGIN + size + 16), name)
    for place, slot in enumerate(slots):
        x = 2 * size + 3 * MARGIN + (place % 3) * (small + GAP)
        y = MARGIN + (place // 3) * (small + 20 + GAP)
        alone = figures.on_chequer(appearance[slot], masks[slot] * shown[slot], 4)
        frame.paste(alone.resize((small, small), Image.Resampling.LANCZOS), (x, y))
        bar = (x, y + small + 2, x + small, y + small + 4)
        ImageDraw.Draw(frame).rectangle(bar, fill=tuple(slot_colors(slot + 1)[slot].tolist()))
        write(frame, (x + small / 2, y + small + 13), f"slot {slot + 1}")
    return frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(SpatialBiasDiscovery):
    """Training on sprites that keeps what it sees of the same scenes at every evaluation."""

    def preview(self, model, scenes):
        scenes = self.dataset("test")[[6, 15, 7, 10]]
        seen = self.discover(model, scenes["image"], torch.arange(4))
        score = metrics.adjusted_rand_index(scenes["masks"], seen.masks, ignore_background=True).nanmean()
        KEPT.append((scenes["image"], seen.reconstruction.clamp(0, 1), seen.masks, float(score)))
        return super().preview(model, scenes)


KEPT: list[tuple[Tensor, Tensor, Tensor, float]] = []


def learning() -> None:
    """Reconstruction and segmentation of four scenes while a model learns."""
    fields = dataclasses.asdict(oh.RECIPES["sprites"]) | {"background": "coloured", "seed": 1, "expected": ""}
    every = 25
    recipe = Watched(
        **fields | {"steps": 400, "evaluate_every": every, "validation_scenes": 4, "test_scenes": 4}
    )
    oh.train(recipe, ROOT / "runs" / "watched", device="cpu")
    frames = []
    for number, (images, rebuilt, masks, _) in enumerate(KEPT[: recipe.steps // every], start=1):
        rows = [
            [to_image(enlarge(image, 2)) for image in images],
            [to_image(enlarge(image, 2)) for image in rebuilt],
            [
                figures.overlay_one(enlarge(image, 2), mask, STRONG)
                for image, mask in zip(images, masks, strict=True)
            ],
        ]
        frames += [_film(rows, f"step {number * every} of {recipe.steps}")] * 3
    animation.save_animation(frames + [frames[-1]] * 2 * HOLD, IMAGES / "learning.webp", milliseconds=90)


def _film(rows: list[list[Image.Image]], caption: str) -> Image.Image:
    """Rows of images with their names on the left and a caption below."""
    side, left = rows[0][0].width, 120
    frame = Image.new(
        "RGB",
        (left + len(rows[0]) * (side + GAP) + MARGIN, 2 * MARGIN + len(rows) * (side + GAP) + 16),
        PAPER,
    )
    for row, (name, cells) in enumerate(zip(("image", "reconstruction", "segmentation"), rows, strict=True)):
        write(frame, (left / 2, MARGIN + row * (side + GAP) + side / 2), name)
        for column, cell in enumerate(cells):
            frame.paste(cell, (left + column * (side + GAP), MARGIN + row * (side + GAP)))
    write(frame, (left + 2 * (side + GAP), frame.height - MARGIN), caption)
    return frame


DRAWN = {
    "features": features,
    "attention": attention,
    "competition": competition,
    "sum": add_up,
    "learning": learning,
}

if __name__ == "__main__":
    main()

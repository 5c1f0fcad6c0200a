"""Figures of clips: frames above their segmentation, static and animated; arrows mark moving slots."""

from __future__ import annotations

from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from objecthood.motion.tracking import Tracks
from objecthood.visualize.figures import (
    GAP,
    INK,
    MARGIN,
    PAPER,
    STRONG,
    TEXT_SIZE,
    enlarge,
    legible_scale,
    overlay_one,
    slot_colors,
    to_image,
    write,
)

ARROW = 4.0
"""Length of an arrow, in frames of motion."""


def clips_figure(
    frames: Float[Tensor, "batch time 3 height width"],
    masks: Float[Tensor, "batch time slots height width"],
    shown: int = 6,
) -> Image.Image:
    """Two rows per clip: up to `shown` frames, including first and last, and their segmentation.

    >>> import torch
    >>> clips_figure(torch.rand(1, 3, 3, 32, 32), torch.rand(1, 3, 4, 32, 32).softmax(2)).size
    (344, 240)
    """
    time = frames.shape[1]
    count = min(shown, time)
    chosen = [round(place * (time - 1) / max(count - 1, 1)) for place in range(count)]
    scale = legible_scale(frames)
    rows = []
    for clip, its_masks in zip(frames, masks, strict=True):
        large = enlarge(clip[chosen], scale)
        rows.append([to_image(frame) for frame in large])
        rows.append([overlay_one(*pair, STRONG) for pair in zip(large, its_masks[chosen], strict=True)])
    return _sheet(rows)


def clips_frames(
    frames: Float[Tensor, "batch time 3 height width"],
    masks: Float[Tensor, "batch time slots height width"],
    tracks: Tracks,
) -> list[Image.Image]:
    """One image per time step: every clip's frame above its segmentation, with an arrow on moving slots and
    a dot on static ones.

    >>> import torch
    >>> from objecthood.motion.tracking import track
    >>> frames, masks = torch.rand(2, 3, 3, 32, 32), torch.rand(2, 3, 4, 32, 32).softmax(2)
    >>> len(clips_frames(frames, masks, track(frames, masks)))
    3
    """
    scale = 2 * legible_scale(frames)
    sheets = []
    for now in range(frames.shape[1]):
        large = enlarge(frames[:, now], scale)
        found = [overlay_one(*pair, STRONG) for pair in zip(large, masks[:, now], strict=True)]
        for clip, image in enumerate(found):
            mark_motion(image, Tracks(*(part[clip, now] for part in tracks)), scale)
        sheets.append(_sheet([[to_image(frame) for frame in large], found]))
    return sheets


def mark_motion(image: Image.Image, tracks: Tracks, scale: float | tuple[float, float]) -> None:
    """Draw an arrow on each moving slot and a dot on each static one, except the background (largest slot).

    `tracks` are of one frame of one clip (no batch axis); `scale` is the number of pixels of `image` per
    pixel of the tracks, as (across, down) if they differ.
    """
    across, down = (scale, scale) if isinstance(scale, int | float) else scale
    size = max(2.0, min(image.size) / 64)
    draw = ImageDraw.Draw(image)
    colors = slot_colors(len(tracks.area))
    for slot, (x, y) in enumerate(tracks.centre.tolist()):
        if x < 0 or slot == int(tracks.area.argmax()):
            continue
        x, y = (x + 0.5) * across, (y + 0.5) * down
        color = tuple(colors[slot].tolist())
        if not tracks.moving[slot]:
            draw.circle((x, y), size, fill=INK, outline=PAPER)
            continue
        velocity = tracks.velocity[slot].tolist()
        end = (x + ARROW * velocity[0] * across, y + ARROW * velocity[1] * down)
        draw.line([(x, y), end], fill=PAPER, width=round(2 * size))
        draw.line([(x, y), end], fill=INK, width=round(size))
        draw.circle(end, 1.5 * size, fill=color, outline=INK)


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """A grid of cells of one size."""
    width, height = rows[0][0].size
    size = (
        2 * MARGIN + len(rows[0]) * (width + GAP) - GAP,
        2 * MARGIN + len(rows) * (height + GAP) - GAP,
    )
    sheet = Image.new("RGB", size, PAPER)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            sheet.paste(cell, (MARGIN + column * (width + GAP), MARGIN + row * (height + GAP)))
    return sheet


def label_columns(sheet: Image.Image, names: list[str]) -> Image.Image:
    """`sheet` with a name above each of its equally wide columns.

    >>> import torch
    >>> label_columns(Image.new("RGB", (100, 20)), ["a", "b"]).size
    (100, 40)
    """
    top = TEXT_SIZE + 7
    named = Image.new("RGB", (sheet.width, sheet.height + top), PAPER)
    named.paste(sheet, (0, top))
    for column, name in enumerate(names):
        write(named, ((column + 0.5) * sheet.width / len(names), top / 2 + 3), name)
    return named

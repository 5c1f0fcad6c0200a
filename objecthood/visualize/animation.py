"""Animations of the attention of every slot over iterations.

The static version is `visualize.attention_figure` (Locatello et al. 2020, Figure 3). Frames are Pillow
images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from objecthood.visualize.figures import (
    BAR,
    INK,
    MARGIN,
    PAPER,
    STRONG,
    attention_cell,
    enlarge,
    legible_scale,
    overlay_one,
    slot_colors,
    to_image,
    write,
)

GAP = 12  # pixels between cells: wider than in static figures, for captions
CAPTION = 24  # pixels below a slot for its colour bar and name
FAINT = (0x3A, 0x3E, 0x48)  # colour of iterations to come


def attention_frames(
    image: Float[Tensor, "3 height width"],
    attention: Float[Tensor, "iterations slots rows columns"],
    *,
    hold: int = 12,
    between: int = 10,
    scale: int | None = None,
) -> list[Image.Image]:
    """Frames that show the image, the slot with the largest attention, and every slot's attention per
    iteration.

    Args:
        image: values in [0, 1].
        attention: softmax over slots of every iteration, in [0, 1]; any resolution.
        hold: frames per iteration; the last iteration has twice as many.
        between: transition frames between iterations.
        scale: enlargement of slot cells (the two large cells have twice that); by default a cell reaches 96
            pixels.

    Returns: iterations * hold + (iterations - 1) * between + hold frames of one size.

    >>> frames = attention_frames(torch.rand(3, 35, 35), torch.rand(3, 4, 35, 35).softmax(1))
    >>> len(frames)
    68
    """
    scale = scale or legible_scale(image)
    small, large = enlarge(image, scale), enlarge(image, 2 * scale)
    total = len(attention)
    frames = []
    for number, weights in enumerate(attention, start=1):
        frames += [_frame(small, large, weights, float(number), total)] * hold
        if number < total:
            for step in range(1, between + 1):
                part = _ease(step / (between + 1))
                mixed = torch.lerp(weights, attention[number], part)
                frames.append(_frame(small, large, mixed, number + part, total))
    return frames + [frames[-1]] * hold


def save_animation(frames: Sequence[Image.Image], path: str | Path, milliseconds: int = 50) -> Path:
    """Write frames as a looping animation: .webp (recommended), .png (APNG, lossless) or .gif (256 colours).

    Args:
        frames: images of one size.
        milliseconds: duration of each frame; multiples of 10 for .gif.

    Raises: ValueError for another suffix.

    >>> import tempfile
    >>> frames = [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    >>> save_animation(frames, Path(tempfile.mkdtemp()) / "two.gif").name
    'two.gif'
    """
    path = Path(path)
    options: dict[str, dict[str, Any]] = {
        ".gif": {"optimize": True},
        ".webp": {"quality": 85, "method": 4},
        ".png": {"format": "PNG"},
    }
    suffix = path.suffix.lower()
    if suffix not in options:
        raise ValueError(
            f"cannot write an animation as {path.name!r}: the name must end in .gif, .webp or .png, "
            "or, for `Animation.save`, in .mp4"
        )
    if suffix == ".gif":
        frames = _with_one_palette(frames)
    first, *rest = frames
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, **options[suffix])
    return path


def _ease(part: float) -> float:
    """Smoothstep from 0 to 1."""
    return part * part * (3.0 - 2.0 * part)


def _frame(small: Tensor, large: Tensor, weights: Tensor, now: float, total: int) -> Image.Image:
    """One frame. `now` is the iteration, 1.0 to `total`, fractional in transitions."""
    colors = slot_colors(len(weights))
    columns = -(-len(weights) // 2)
    height, width = small.shape[-2:]
    slots_left = MARGIN + 2 * (2 * width + GAP) + GAP
    size = (slots_left + columns * (width + GAP) - GAP + MARGIN, 2 * (height + CAPTION + MARGIN) + GAP)
    frame = Image.new("RGB", size, PAPER)
    for index, (weight, color) in enumerate(zip(weights, colors, strict=True)):
        row, column = divmod(index, columns)
        x, y = slots_left + column * (width + GAP), MARGIN + row * (height + CAPTION + GAP)
        frame.paste(attention_cell(small, weight, color), (x, y))
        bar = (x, y + height + 3, x + width - 1, y + height + 2 + BAR)
        ImageDraw.Draw(frame).rectangle(bar, fill=tuple(color.tolist()))
        write(frame, (x + width / 2, y + height + CAPTION - 7), f"slot {index + 1}")
    for column, cell in enumerate((to_image(large), overlay_one(large, weights, STRONG))):
        frame.paste(cell, (MARGIN + column * (2 * width + GAP), MARGIN))
    middle = MARGIN + 2 * height + 32
    write(frame, (MARGIN + width, middle), "image", 16)
    x = MARGIN + 2 * width + GAP
    write(frame, (x + width, middle), f"iteration {round(now)} of {total}", 16)
    _progress(frame, (x, MARGIN + 2 * height + 10, x + 2 * width), now, total)
    return frame


def _progress(frame: Image.Image, place: tuple[int, int, int], now: float, total: int) -> None:
    """A progress bar at `place` (left, top, right) with one segment per iteration."""
    left, top, right = place
    length = (right - left + BAR) / total
    draw = ImageDraw.Draw(frame)
    for index in range(total):
        start, stop = left + index * length, left + (index + 1) * length - BAR - 1
        draw.rectangle((round(start), top, round(stop), top + BAR - 1), fill=FAINT)
        filled = min(max(now - index, 0.0), 1.0)
        if filled > 0.0:
            draw.rectangle(
                (round(start), top, round(start + (stop - start) * filled), top + BAR - 1), fill=INK
            )


def _with_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """All frames with one palette of 256 colours, from the first, middle and last frame, to avoid flicker."""
    samples = [frames[0], frames[len(frames) // 2], frames[-1]]
    width, height = samples[0].size
    sheet = Image.new("RGB", (width, 3 * height))
    for row, sample in enumerate(samples):
        sheet.paste(sample, (0, row * height))
    sheet = sheet.resize((width // 3, height), Image.Resampling.NEAREST)  # a ninth is enough for the palette
    # Maximum coverage includes rare colours, so that small slots keep their hue.
    palette = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]

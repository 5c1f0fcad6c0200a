"""Fit an image of any size to a model's input, and map masks back to the image."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

Fit = Literal["pad", "crop", "squash"]
"""How an image of another aspect ratio is fitted. "pad": the whole image, centred, with its border pixels
repeated. "crop": the largest central part of the model's aspect ratio. "squash": the whole image, without
keeping its aspect ratio."""
FITS: tuple[str, ...] = get_args(Fit)


class Placement(NamedTuple):
    """The part of an image that a model's input shows, and its location there.

    Example:
        >>> _, placement = place(np.zeros((40, 120, 3), np.uint8), (32, 32), "pad")
        >>> placement.padding, placement.shown((32, 32))
        ((0, 0, 10, 11), (11, 32))
        >>> import torch
        >>> placement.restore(torch.rand(5, 32, 32)).shape
        torch.Size([5, 40, 120])
    """

    size: tuple[int, int]
    """Height and width of the image, in pixels."""
    box: tuple[int, int, int, int]
    """Top, left, height and width of the shown part, in pixels of the image."""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Padding of the input: columns left and right, rows above and below (as in
    `torch.nn.functional.pad`)."""

    def crop(
        self, maps: Float[Tensor, "*maps rows columns"]
    ) -> Float[Tensor, "*maps fewer_rows fewer_columns"]:
        """Maps of the model's input without padding."""
        left, right, top, bottom = self.padding
        return maps[..., top : maps.shape[-2] - bottom, left : maps.shape[-1] - right]

    def restore(
        self, maps: Float[Tensor, "*maps rows columns"], outside: float = 0.0
    ) -> Float[Tensor, "*maps height width"]:
        """Maps of the model's input resized bilinearly to the image; `outside` in parts removed by "crop"."""
        top, left, height, width = self.box
        inside = self.crop(maps)
        flat = inside.reshape(1, -1, *inside.shape[-2:])
        large = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False)
        large = large.view(*maps.shape[:-2], height, width)
        if (height, width) == self.size:
            return large
        whole = large.new_full((*maps.shape[:-2], *self.size), outside)
        whole[..., top : top + height, left : left + width] = large
        return whole

    def shown(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a model's input (height, width) that show the image."""
        left, right, top, bottom = self.padding
        return input_size[0] - top - bottom, input_size[1] - left - right

    def locate(self, across: float, down: float, input_size: tuple[int, int]) -> tuple[float, float]:
        """Image coordinates (across, down) in [0, 1] of a point (across, down) in [0, 1] of a model's input
        of (height, width) `input_size`; points in the padding are moved to the image's border."""
        (left, _, top, _), (rows, columns) = self.padding, self.shown(input_size)
        across = min(max((across * input_size[1] - left) / columns, 0.0), 1.0)
        down = min(max((down * input_size[0] - top) / rows, 0.0), 1.0)
        first_row, first_column, height, width = self.box
        return (first_column + across * width) / self.size[1], (first_row + down * height) / self.size[0]


def whole(size: tuple[int, int]) -> Placement:
    """The placement of an image (height, width) that fills the input."""
    return Placement(size, (0, 0, *size))


def place(
    image: UInt8[np.ndarray, "height width 3"], input_size: tuple[int, int], fit: Fit
) -> tuple[UInt8[np.ndarray, "rows columns 3"], Placement]:
    """The image resized to `input_size` (height, width), bilinear with antialiasing, and its placement.

    Raises:
        ValueError: `fit` is not one of `FITS`.
    """
    if fit not in FITS:
        raise ValueError(f"`fit` (={fit!r}) must be one of {', '.join(FITS)}")
    size = image.shape[0], image.shape[1]
    box, shown = (0, 0, *size), input_size
    if fit == "pad":
        shown = _largest_within(input_size, size)
    elif fit == "crop":
        height, width = _largest_within(size, input_size)
        box = (size[0] - height) // 2, (size[1] - width) // 2, height, width
    part = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
    pixels = np.array(Image.fromarray(part).resize(shown[::-1], Image.Resampling.BILINEAR))
    top, left = (input_size[0] - shown[0]) // 2, (input_size[1] - shown[1]) // 2
    bottom, right = input_size[0] - shown[0] - top, input_size[1] - shown[1] - left
    if (top, bottom, left, right) != (0, 0, 0, 0):
        pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")
    return pixels, Placement(size, box, (left, right, top, bottom))


def _largest_within(outer: tuple[int, int], ratio: tuple[int, int]) -> tuple[int, int]:
    """The largest size (height, width) with the aspect ratio of `ratio` inside `outer`, in whole pixels."""
    (rows, columns), (height, width) = outer, ratio
    if height * columns >= width * rows:
        return rows, max(1, (2 * rows * width + height) // (2 * height))
    return max(1, (2 * columns * height + width) // (2 * width)), columns

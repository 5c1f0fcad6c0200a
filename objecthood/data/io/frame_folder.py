"""A folder of frames as a sequence, in natural order of the file names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from objecthood.data.io.images import ImageError, read_image, suffixes

RATE = Fraction(24)
"""Assumed frame rate of a folder, that of DAVIS."""


class FrameFolder:
    """The images of a folder, not those below it; frame-2 comes before frame-10.

    Attributes:
        paths: the images in order.
        size: (height, width) in pixels.
        rate: frames per second, as given.
        num_frames: how many images there are.

    Raises:
        ImageError: no such folder, no image in it, a damaged one, or images of different sizes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in (10, 2):
        ...     Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"frame-{number}.png")
        >>> [frame[0, 0, 0].item() for frame in FrameFolder(folder)]
        [2, 10]
    """

    def __init__(self, path: str | os.PathLike[str], rate: Fraction = RATE):
        self.path, self.rate = Path(path), rate
        if not self.path.is_dir():
            raise ImageError(f"{str(path)!r}: is not a folder; name a folder of frames")
        allowed = suffixes()
        found = (entry for entry in self.path.iterdir() if not entry.name.startswith("."))
        self.paths = sorted(
            (entry for entry in found if entry.suffix.lower() in allowed and entry.is_file()),
            key=lambda entry: in_natural_order(entry.name),
        )
        if not self.paths:
            raise ImageError(f"{str(path)!r}: no frames (images) in this folder; name another")
        self.num_frames = len(self.paths)
        self.size: tuple[int, int] = read_image(self.paths[0]).shape[:2]

    def seconds(self, number: int) -> float:
        """Time of a frame in seconds, relative to the first."""
        return float(number / self.rate)

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for path in self.paths:
            picture = read_image(path)
            if picture.shape[:2] != self.size:
                raise ImageError(
                    f"{str(path)!r}: {picture.shape[:2]} pixels, the first frame {self.size}; frames must be "
                    "of one size"
                )
            yield picture


def in_natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key by which numbers in names are compared as numbers.

    >>> sorted(["b2", "b10", "a", "5²5"], key=in_natural_order)
    ['5²5', 'a', 'b2', 'b10']
    """
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)

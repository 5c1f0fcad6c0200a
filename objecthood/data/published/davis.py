"""DAVIS-2016 as it is published: JPEGImages/480p/SEQUENCE/00000.jpg and Annotations/480p/SEQUENCE/00000.png.

Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation". One
foreground a sequence: whatever is annotated above 0 (0 or 255 as published; 0 or 1, and numbers of objects,
as other tools save it). Sequences are listed by what is there; the published lists of
training and validation sequences are not needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import MAX_PIXELS, ImageError


class Davis2016:
    """The sequences of DAVIS-2016.

    Args:
        path: the folder with JPEGImages and Annotations.
        resolution: "480p" or "1080p".

    Raises:
        ImageError: the folder is not laid out like DAVIS.
    """

    def __init__(self, path: str | os.PathLike[str], resolution: str = "480p"):
        self.images, self.annotations = (
            Path(path) / kind / resolution for kind in ("JPEGImages", "Annotations")
        )
        if not self.images.is_dir():
            raise ImageError(f"{str(path)!r}: no JPEGImages/{resolution} here; name the folder that holds it")
        self.sequences = sorted(
            entry.name
            for entry in self.images.iterdir()
            if entry.is_dir() and not entry.name.startswith((".", "__"))
        )

    def frames(self, sequence: str) -> FrameFolder:
        """The frames of a sequence."""
        return FrameFolder(self.images / sequence)

    def truth(self, sequence: str) -> Bool[np.ndarray, "frames height width"]:
        """The foreground mask of every frame; ImageError if frames and annotations do not match in number or
        size."""
        frames, folder = self.frames(sequence), self.annotations / sequence
        files = [folder / f"{frame.stem}.png" for frame in frames.paths]
        for frame, before, file in zip(frames.paths[1:], files, files[1:], strict=False):
            if file == before:
                raise ImageError(f"{str(frame)!r}: two frames of this name; keep one of them")
        for file in files:
            if not file.is_file():
                raise ImageError(f"{str(file)!r}: this frame has no annotation; complete the copy")
        for file in sorted({*folder.glob("*.png")} - {*files}):
            raise ImageError(f"{str(file)!r}: this annotation has no frame; complete the copy")
        return np.stack([read_foreground(file, frames.size) for file in files])


def read_foreground(file: Path, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Where an annotation is above 0, in the numbers that it stores: grey, indices of a palette, or colours.

    ImageError where it cannot be read, or is not of `size`, (height, width).
    """
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if image.size != size[::-1] or image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{str(file)!r}: is {image.width} x {image.height}, its frame {size[1]} x {size[0]}; "
                    "complete the copy"
                )
            bands = len(image.getbands())
            values = np.asarray(image).reshape(*size, bands)
            opaque = bands - ("A" in image.getbands())  # whatever is transparent is as opaque as the rest
            return np.asarray((values[..., :opaque] > 0).any(axis=-1))
    except ImageError:
        raise
    except Exception as error:  # damaged data makes decoders raise nearly anything
        raise ImageError(f"{str(file)!r}: damaged annotation ({error}); copy it again") from error


def folds(sequences: Sequence[str], count: int = 3) -> list[tuple[list[str], list[str]]]:
    """Sequences to train on and sequences held out, `count` times, each held out once: every `count`-th name.

    >>> folds(["a", "b", "c", "d"], 2)
    [(['b', 'd'], ['a', 'c']), (['a', 'c'], ['b', 'd'])]
    """
    held_out = [list(sequences[start::count]) for start in range(count)]
    return [([name for name in sequences if name not in out], out) for out in held_out]

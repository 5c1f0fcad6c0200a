"""DAVIS-2016 as it is published: JPEGImages/480p/SEQUENCE/00000.jpg and Annotations/480p/SEQUENCE/00000.png.

Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation". One
foreground a sequence: annotations are 0 or 255. Sequences are listed by what is there; the published lists of
training and validation sequences are not needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import ImageError, read_image

FOREGROUND = 128
"""Grey level from which an annotated pixel is foreground."""


class Davis2016:
    """The sequences of a copy of DAVIS-2016.

    Args:
        path: the folder that holds JPEGImages and Annotations.
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
        self.sequences = sorted(entry.name for entry in self.images.iterdir() if entry.is_dir())

    def frames(self, sequence: str) -> FrameFolder:
        """The frames of a sequence."""
        return FrameFolder(self.images / sequence)

    def truth(self, sequence: str) -> Bool[np.ndarray, "frames height width"]:
        """Where the foreground is in every frame; ImageError where a frame has no annotation."""
        masks = []
        for frame in self.frames(sequence).paths:
            file = self.annotations / sequence / f"{frame.stem}.png"
            if not file.is_file():
                raise ImageError(f"{str(file)!r}: this frame has no annotation; complete the copy")
            masks.append(read_image(file).max(axis=-1) >= FOREGROUND)
        return np.stack(masks)


def folds(sequences: Sequence[str], count: int = 3) -> list[tuple[list[str], list[str]]]:
    """Sequences to train on and sequences held out, `count` times, each held out once: every `count`-th name.

    >>> folds(["a", "b", "c", "d"], 2)
    [(['b', 'd'], ['a', 'c']), (['a', 'c'], ['b', 'd'])]
    """
    held_out = [list(sequences[start::count]) for start in range(count)]
    return [([name for name in sequences if name not in out], out) for out in held_out]

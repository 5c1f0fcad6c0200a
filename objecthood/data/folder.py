"""A data set of a folder of images, without masks.

Every image is decoded once when the data set is built, so that damaged files are found before training.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from objecthood.data.io.cache import Decoded, resized
from objecthood.data.io.images import ImageError, ImageWarning, find_images, read_image
from objecthood.data.randomness import indices_of_split, split_number
from objecthood.data.scene import DecodedDataset


class Folder(DecodedDataset):
    """All images in a folder and its sub-folders: the central square of each, resized.

    The split of an image depends only on its path relative to the folder: about 90 % train, 5 % validation,
    5 % test, on every machine, unaffected by other images. If a split of a small folder would be empty,
    "validation" and "test" reuse the last images (5 %, at least one) and "train" takes all: `overlaps` is
    then True, and scores are not held-out scores.

    Args:
        path: the folder.
        resolution: side of the resized images in pixels.
        split: "train", "validation" or "test".
        crop: take the central square; False resizes the whole image without keeping its aspect ratio.
        skip_bad: skip images that cannot be read and list them in `skipped`, with an `ImageWarning`, instead
            of raising.

    Attributes:
        paths: the images, in the order of the indices.
        skipped: (path, reason) of every skipped image.
        overlaps: whether splits share images because the folder is small.

    Raises:
        ImageError: no such folder, no readable image in it, or, without `skip_bad`, an unreadable one.
        ValueError: unknown split, or a resolution below 1.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> Image.new("RGB", (64, 48), "red").save(f"{folder.name}/red.png")
        >>> Folder(folder.name, resolution=32)[[0]]["image"].shape
        torch.Size([1, 3, 32, 32])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int,
        split: str = "train",
        *,
        crop: bool = True,
        skip_bad: bool = False,
    ):
        super().__init__(resolution, split)
        name = repr(os.fspath(path))
        if not os.path.isdir(path):
            raise ImageError(f"{name}: is not a folder; name a folder of images")
        everything = find_images([Path(path)])
        names = [image.relative_to(path).as_posix() for image in everything]
        chosen, self.overlaps = indices_of_split(np.array([split_number(name) for name in names]), split)
        members = [everything[number] for number in chosen]
        self.crop = crop
        self.paths: list[Path] = []
        self.skipped: list[tuple[Path, str]] = []
        self._read_all(members, skip_bad)
        count, reason = len(members), self.skipped[0][1] if self.skipped else ""
        if not self.paths:
            raise ImageError(f"{name}: none of {count} images can be read; the first: {reason}")
        if self.skipped:
            problem = f"{len(self.skipped)} of {count} images cannot be read; the first: {reason}"
            warnings.warn(ImageWarning(name, problem), stacklevel=2)

    def decode(self, number: int) -> Decoded:
        picture = read_image(self.paths[number], warn=True)
        return resized(picture, None, self.resolution, 1.0 if self.crop else None)

    def _read_all(self, members: list[Path], skip_bad: bool) -> None:
        for member in members:
            self.paths.append(member)
            try:
                self._cache[len(self.paths) - 1]
            except ImageError as error:
                if not skip_bad:
                    raise
                self.skipped.append((self.paths.pop(), str(error)))

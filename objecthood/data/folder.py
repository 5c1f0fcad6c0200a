"""A data set of a folder of images, without masks.

Every image is decoded once when the data set is built, so that damaged files are found before training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from objecthood.data.io.images import ImageError, find_images, read_image, resize_image
from objecthood.data.randomness import HELD_OUT, SPLITS, split_of
from objecthood.data.scene import Dataset, Scenes
from objecthood.data.transforms import central_square

# Cache size for resized images (20,000 of 128 x 128); further images are read at every use. It leaves memory
# on a machine with 8 GB, where several processes may each hold a copy.
CACHE_BYTES = 1_000_000_000


class Folder(Dataset):
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
        skip_bad: skip images that cannot be read and list them in `skipped`, instead of raising.

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
        if split not in SPLITS:
            raise ValueError(f"`split` (={split!r}) must be one of {', '.join(SPLITS)}")
        if resolution < 1:
            raise ValueError(f"`resolution` (={resolution}) must be at least 1 pixel")
        name = repr(os.fspath(path))
        if not os.path.isdir(path):
            raise ImageError(f"{name}: is not a folder; name a folder of images")
        everything = find_images([Path(path)])
        members, self.overlaps = _members(everything, Path(path), split)
        self.resolution, self.crop = resolution, crop
        self.paths: list[Path] = []
        self.skipped: list[tuple[Path, str]] = []
        self._cache: dict[Path, UInt8[np.ndarray, "height width 3"]] = {}
        self._read_all(members, skip_bad)
        if not self.paths:
            count, reason = len(self.skipped), self.skipped[0][1]
            raise ImageError(f"{name}: none of {count} images can be read; the first: {reason}")

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """A batch: `image` float32 [batch, 3, resolution, resolution] in [0, 1].

        Raises:
            ImageError: an image outside the cache was removed or damaged since the data set was built.
        """
        batch = np.empty((len(indices), self.resolution, self.resolution, 3), dtype=np.uint8)
        for row, index in enumerate(indices):
            path = self.paths[index]
            batch[row] = self._cache[path] if path in self._cache else self._read(path)
        return {"image": torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float().div_(255)}

    def _read(self, path: Path) -> UInt8[np.ndarray, "height width 3"]:
        image = read_image(path, warn=True)
        if self.crop:
            image = np.ascontiguousarray(image[central_square(image.shape[0], image.shape[1])])
        return resize_image(image, (self.resolution, self.resolution))

    def _read_all(self, members: list[Path], skip_bad: bool) -> None:
        capacity = CACHE_BYTES // (3 * self.resolution**2)
        for member in members:
            try:
                image = self._read(member)
            except ImageError as error:
                if not skip_bad:
                    raise
                self.skipped.append((member, str(error)))
                continue
            if len(self._cache) < capacity:
                self._cache[member] = image
            self.paths.append(member)


def _members(everything: list[Path], folder: Path, split: str) -> tuple[list[Path], bool]:
    """The images of a split, and whether it shares them with others."""
    splits: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for path in everything:
        splits[split_of(path.relative_to(folder).as_posix())].append(path)
    if splits[split]:
        # An empty held-out split reuses images of the training split.
        return splits[split], not all(splits.values())
    if split == "train":
        return everything, True
    return everything[-max(1, round(HELD_OUT * len(everything))) :], True

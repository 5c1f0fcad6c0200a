"""A user's folder of images as a data set: images only, no masks.

Every image is decoded once when the data set is built, so that a damaged file shows at once and not after
hours of training.
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

# Resized images are kept in memory up to this many bytes (20,000 of 128 x 128), later ones are read anew at
# every use. It leaves room on a machine of 8 GB, where several processes may each hold a copy.
CACHE_BYTES = 1_000_000_000


class Folder(Dataset):
    """All images below a folder, the central square of each, resized.

    Which split an image belongs to depends on its path below the folder and nothing else: about 90 % train,
    5 % validation, 5 % test, the same on every machine, and unchanged for old images when new ones come.
    Where a folder is so small that a split would be empty, "validation" and "test" reuse the last images
    (5 %, at least one) and "train" takes all: `overlaps` is then true, and scores are not held-out scores.

    Args:
        path: the folder.
        resolution: side of the images that come out, in pixels.
        split: "train", "validation" or "test".
        crop: take the central square of an image; False resizes it whole, without keeping its aspect ratio.
        skip_bad: leave out images that cannot be read and list them in `skipped`, instead of raising.

    Attributes:
        paths: the images, in the order of the indices.
        skipped: (path, reason) of every image left out.
        overlaps: whether this split shares images with others because the folder is small.

    Raises:
        ImageError: no such folder, no good image in it, or, without `skip_bad`, a bad one.
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
            ImageError: an image beyond the cache has gone or was damaged since the data set was built.
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
                picture = self._read(member)
            except ImageError as error:
                if not skip_bad:
                    raise
                self.skipped.append((member, str(error)))
                continue
            if len(self._cache) < capacity:
                self._cache[member] = picture
            self.paths.append(member)


def _members(everything: list[Path], folder: Path, split: str) -> tuple[list[Path], bool]:
    """The images of a split, and whether it shares them with others."""
    splits: dict[str, list[Path]] = {name: [] for name in SPLITS}
    for path in everything:
        splits[split_of(path.relative_to(folder).as_posix())].append(path)
    if splits[split]:
        # A training split that is whole may still be what an empty held-out split reuses.
        return splits[split], not all(splits.values())
    if split == "train":
        return everything, True
    return everything[-max(1, round(HELD_OUT * len(everything))) :], True

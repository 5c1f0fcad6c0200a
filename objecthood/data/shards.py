"""Images in tar files, the shards of WebDataset's layout, without masks: for millions of images.

The headers of the shards are read once, and every image is then reached directly, so that shards have what
all data sets have: a length, any order, worker processes, and training that is resumed at any step. Library
`webdataset` writes such files (`webdataset.TarWriter`), as does `tar`.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np

from objecthood.data.io.cache import Decoded, resized
from objecthood.data.io.images import ImageError, read_image, suffixes, what_to_do
from objecthood.data.randomness import indices_of_split, split_number
from objecthood.data.scene import DecodedDataset
from objecthood.runtime import limits

_RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")
_BLOCK = 512  # bytes of a tar header


class Shards(DecodedDataset):
    """The images of uncompressed tar files: the central square of each, resized.

    A member is an image if what follows the first dot of its name is an image's suffix: `0001.jpg`, and not
    `0001.seg.png` or `0001.json`. The split of an image depends on its name in the shard alone, as in
    `Folder`. Images are decoded when they are asked for, the first gigabyte kept.

    Args:
        path: a tar file, a folder of them (below it as well), a pattern ("data/*.tar"), or a range
            ("data/photos-{000..999}.tar").
        resolution: side of the resized images in pixels.
        split: "train", "validation" or "test".
        crop: take the central square; False resizes the whole image without keeping its aspect ratio.

    Attributes:
        paths: the shards, sorted.
        overlaps: whether splits share images because there are few.

    Raises:
        ImageError: no such shard, one that is compressed, damaged or cut, or no image in them; when read, a
            shard that has changed, or a damaged image.
        ValueError: unknown split, or a resolution below 1.

    Example:
        >>> import io, tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> Image.new("RGB", (64, 48), "red").save(f"{folder.name}/0.jpg")
        >>> with tarfile.open(f"{folder.name}/photos-0.tar", "w") as shard:
        ...     shard.add(f"{folder.name}/0.jpg", "0.jpg")
        >>> Shards(folder.name, resolution=32)[0]["image"].shape
        torch.Size([3, 32, 32])
        >>> folder.cleanup()
    """

    def __init__(
        self, path: str | os.PathLike[str], resolution: int, split: str = "train", *, crop: bool = True
    ):
        super().__init__(resolution, split)
        self.crop, self.paths = crop, find_shards(path)
        self._states = [_state(shard) for shard in self.paths]
        indexed = [_index(shard) for shard in self.paths]
        members = np.concatenate([rows for rows, _ in indexed])
        shard = np.repeat(np.arange(len(indexed)), [len(rows) for rows, _ in indexed])
        if not len(members):
            raise ImageError(f"{os.fspath(path)!r}: no image in {len(indexed)} tar files")
        chosen, self.overlaps = indices_of_split(np.concatenate([splits for _, splits in indexed]), split)
        self._shard, self._start, self._bytes = shard[chosen], members[chosen, 0], members[chosen, 1]

    def __len__(self) -> int:
        return len(self._shard)

    def decode(self, number: int) -> Decoded:
        shard = int(self._shard[number])
        path, start, size = self.paths[shard], int(self._start[number]), int(self._bytes[number])
        try:
            with path.open("rb") as file:
                if _state(path, file.fileno()) != self._states[shard]:
                    raise ImageError(f"{os.fspath(path)!r}: has changed since it was opened; start again")
                file.seek(start - _BLOCK)
                header, content = file.read(_BLOCK), file.read(size)
        except OSError as error:
            raise ImageError(f"{os.fspath(path)!r}: cannot be read ({error.strerror})") from error
        try:
            picture = read_image(content)
        except ImageError as error:
            name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
            raise ImageError(f"{os.fspath(path)!r}, member {name!r}: {error}") from error
        return resized(picture, None, self.resolution, 1.0 if self.crop else None)


def find_shards(path: str | os.PathLike[str]) -> list[Path]:
    """The tar files that a file, folder, pattern or range ("{000..999}") names, sorted.

    Raises:
        ImageError: there is none, or one of a range is missing.

    Example:
        >>> find_shards("nowhere/photos-{00..01}.tar")
        Traceback (most recent call last):
        objecthood.data.io.images.ImageError: 'nowhere/photos-00.tar': no such file; check the spelling
    """
    name = os.fspath(path)
    if span := _RANGE.search(name):
        first, last = span.groups()
        if int(first) > int(last):
            raise ImageError(f"{name!r}: the range ends before it begins; name the lower number first")
        numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
        found = []
        for number in numbers:
            found.append(Path(name[: span.start()] + number + name[span.end() :]))
            if not found[-1].is_file():
                raise ImageError(f"{os.fspath(found[-1])!r}: no such file; check the spelling")
        return found
    if os.path.isdir(name):
        found = sorted(Path(name).rglob("*.tar"))
        remedy = "tar files end in .tar"
    else:
        found = [Path(name)] if os.path.isfile(name) else sorted(map(Path, glob.glob(name, recursive=True)))
        remedy = what_to_do(name)
    found = [shard for shard in found if shard.is_file() and not shard.name.startswith(".")]
    if not found:
        raise ImageError(f"{name!r}: no tar file there; {remedy}")
    return found


def _index(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """First byte and size of each image of a shard [images, 2], and its split's number [images]."""
    rows, splits, allowed = [], [], suffixes()
    size, name = shard.stat().st_size, os.fspath(shard)
    try:
        with _Headers(io.FileIO(shard)) as content, tarfile.open(fileobj=content, mode="r:") as members:
            for member in members:
                if member.size < 0:
                    raise ValueError(f"member {member.name!r:.200} of {member.size} bytes")
                base = member.name.rpartition("/")[2]
                suffix = "." + base.partition(".")[2].lower()
                if member.isreg() and not member.issparse() and suffix in allowed and base[0] != ".":
                    rows.append((member.offset_data, member.size))
                    splits.append(split_number(member.name))
                if member.offset_data + member.size > size:
                    raise ImageError(f"{name!r}: ends within member {member.name!r:.200}; copy it again")
                members.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, ImageError):
            raise
        problem = f"is not an uncompressed tar file, or is damaged ({error!s:.200})"
        raise ImageError(f"{name!r}: {problem}; unpack .tar.gz with gunzip, or copy it again") from error
    return np.array(rows, np.int64).reshape(-1, 2), np.array(splits, np.uint8)


class _Headers(io.BufferedReader):
    """A shard of which headers are read, and no more than `limits.TAR_HEADER_BYTES` at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= limits.TAR_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        return super().read(size)


def _state(path: Path, descriptor: int | None = None) -> tuple[int, int]:
    """Size and time of last change of a file."""
    facts = path.stat() if descriptor is None else os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns

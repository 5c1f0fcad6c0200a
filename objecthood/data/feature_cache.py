"""Features of images or frames, computed once and kept on disk: a training step costs what the slots cost.

Rows are keyed by the content of the image (SHA-256 of its pixels), and lie in a folder of their own for each
key (backbone, layer, image size): several data sets, splits and runs share them. Rows are only ever appended,
the features first and then, once they are on disk, the digest; so whoever is killed loses at most one batch.
Values are float16, memory-mapped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes
from objecthood.runtime.files import check_length, read_json, refuse_link, write_json

Compute = Callable[[Scenes], Tensor]
"""Scenes to features [batch, rows, columns, dim]."""
DIGEST_BYTES = 32
MAX_BYTES = 100 * 2**30
"""Of one folder's features, unless said otherwise: COCO's 118,287 images take 18 GB at 14 x 14 x 384."""


class FeatureCache:
    """Features of one kind, by content of the image.

    Args:
        folder: where folders of all kinds lie.
        key: what features depend on beside the image.
        shape: rows, columns and size of an image's features.
        max_bytes: what the features may take.

    Raises:
        ValueError: the folder holds features of another shape.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        key: str,
        shape: tuple[int, int, int],
        max_bytes: int = MAX_BYTES,
    ):
        self.folder = Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.key, self.shape, self.max_bytes = key, shape, max_bytes
        self.row_bytes = 2 * math.prod(shape)
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"key": key, "shape": list(shape)}
        file = self.folder / "facts.json"
        if not file.exists():
            write_json(file, facts)
        elif read_json(file) != facts:
            raise ValueError(f"{file} is not of {facts}; remove {self.folder} to compute features anew")
        self._places: dict[bytes, int] = {}
        self._rows = 0  # more than places where two processes wrote the same image on a system without locks
        self._map: np.ndarray | None = None

    def places(self, digests: Sequence[bytes]) -> Int[np.ndarray, " images"]:
        """The row of each image, -1 where there is none."""
        return np.array([self._places.get(digest, -1) for digest in digests], np.int64)

    def read(self, places: Int[np.ndarray, "*images"]) -> Float16[np.ndarray, "*images rows columns dim"]:
        """The features of these rows; ValueError where the file was cut."""
        file = self._file("features")
        check_length(file, self._rows * self.row_bytes)
        if self._map is None:
            self._map = np.memmap(file, np.float16, "r", shape=(self._rows, *self.shape))
        return self._map[places]

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """No other process of this machine appends meanwhile; rows that others appended are known."""
        with self._file("lock").open("wb") as lock:
            with contextlib.suppress(ImportError, OSError):  # Windows, or a file system without locks
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            self._read_index()
            yield

    def append(
        self, digests: Sequence[bytes], features: Float16[np.ndarray, "images rows columns dim"]
    ) -> None:
        """Keep the features of new images; within `filling`."""
        self._write("features", np.ascontiguousarray(features).tobytes())
        self._write("index", b"".join(digests))
        for row, digest in enumerate(digests, start=self._rows):
            self._places.setdefault(digest, row)
        self._rows += len(digests)
        self._map = None

    def check_room(self, images: int) -> None:
        """ValueError where `images` more would exceed the limit or the disk."""
        wanted = images * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        room = min(free, self.max_bytes - self._rows * self.row_bytes)
        if wanted > room:
            raise ValueError(
                f"features of {images} images take {wanted / 1e9:.1f} GB, and {self.folder} has room for "
                f"{max(room, 0) / 1e9:.1f} GB; set OBJECTHOOD_CACHE to a larger disk, or leave cached out"
            )

    def _read_index(self) -> None:
        """Read which rows are whole, and cut off what a process that was killed left behind."""
        index, features = self._file("index"), self._file("features")
        for file in (index, features):
            file.touch()
        rows = min(index.stat().st_size // DIGEST_BYTES, features.stat().st_size // self.row_bytes)
        os.truncate(index, rows * DIGEST_BYTES)
        os.truncate(features, rows * self.row_bytes)
        content = index.read_bytes()
        self._places = {
            content[start : start + DIGEST_BYTES]: start // DIGEST_BYTES
            for start in range(0, len(content), DIGEST_BYTES)
        }
        self._rows = rows
        self._map = None

    def _write(self, name: str, content: bytes) -> None:
        with self._file(name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _file(self, name: str) -> Path:
        """ValueError where something else than a file, as a symbolic link, is in its place."""
        file = refuse_link(self.folder / f"{name}.bin")
        if file.exists() and not file.is_file():
            raise ValueError(f"{file} is not a file; remove {self.folder} to compute features anew")
        return file

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None}  # a worker process opens the file itself


class CachedFeatures(Dataset):
    """The scenes of another data set, with their features; of clips, those of every frame.

    Args:
        scenes: a data set that is not endless.
        compute: features of scenes that are not in the cache yet.
        cache: where features are kept.
        name: under which the scenes get them.
        tell: called with the number of images that are done and of all, while features are computed.
        batch_size: images, or clips, that are computed at a time.

    Raises:
        ValueError: an endless data set, or no room for the features.

    Example:
        >>> import tempfile
        >>> from objecthood.data.clevr_render.clevr_like import ClevrLike
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder, "mean of 8 x 8 pixels", (4, 4, 3))
        ...     means = lambda s: torch.nn.functional.avg_pool2d(s["image"], 8).movedim(1, -1)
        ...     scene = CachedFeatures(ClevrLike(resolution=32), means, cache)[3]
        ...     scene["image"].shape, scene["features"].shape
        (torch.Size([3, 32, 32]), torch.Size([4, 4, 3]))
    """

    def __init__(
        self,
        scenes: Dataset,
        compute: Compute,
        cache: FeatureCache,
        *,
        name: str = "features",
        tell: Callable[[int, int], None] = lambda done, of: None,
        batch_size: int = 16,
    ):
        if scenes.endless:
            raise ValueError(
                "features of an endless data set cannot be kept; name finite data, or leave cached out"
            )
        self.scenes, self.cache, self.name = scenes, cache, name
        places = []
        with cache.filling():
            checked = False
            for start in range(0, len(scenes), batch_size):
                some = scenes.batch(range(start, min(start + batch_size, len(scenes))))
                time = some["image"].shape[1:-3]  # of clips
                if time:
                    some = {"image": some["image"].flatten(0, 1)}
                digests = digests_of(some["image"])
                new = _first_of_each(digests, cache.places(digests) < 0)
                if new and not checked:
                    cache.check_room((len(scenes) - start) * math.prod(time))
                    checked = True
                if new:
                    chosen = {name: values[new] for name, values in some.items()}  # type: ignore[index]
                    computed = compute(cast(Scenes, chosen)).detach().cpu().half().numpy()
                    cache.append([digests[row] for row in new], computed)
                    tell(start + len(digests) // math.prod(time), len(scenes))
                places.append(cache.places(digests).reshape(-1, *time))
        self._places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self._places)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The scenes, and float32 features [batch, rows, columns, dim] (of clips [batch, time, ...]), rounded
        to 16 bits."""
        scenes = self.scenes.batch(indices)
        features = self.cache.read(self._places[np.asarray(indices)])
        scenes[self.name] = torch.from_numpy(features).float()  # type: ignore[literal-required]
        return scenes


def digests_of(images: Float[Tensor, "batch 3 height width"]) -> list[bytes]:
    """SHA-256 of each image's size and 8-bit pixels."""
    size = json.dumps(list(images.shape[2:])).encode()
    pixels = images.mul(255).round().byte().numpy()
    return [hashlib.sha256(size + image.tobytes()).digest() for image in pixels]


def default_folder() -> Path:
    """Where features are kept: the environment variable OBJECTHOOD_CACHE, or .cache/objecthood at home."""
    chosen = os.environ.get("OBJECTHOOD_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "objecthood") / "features"


def _first_of_each(digests: Sequence[bytes], wanted: np.ndarray) -> list[int]:
    """The rows that are wanted, of equal images the first."""
    seen: set[bytes] = set()
    rows = []
    for row, digest in enumerate(digests):
        if wanted[row] and digest not in seen:
            rows.append(row)
            seen.add(digest)
    return rows

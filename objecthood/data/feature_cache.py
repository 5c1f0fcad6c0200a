"""Features of images or frames, computed once and kept on disk: a training step costs what the slots cost.

Rows are keyed by the content of the image (SHA-256 of its pixels), and lie in a folder of their own for each
key (backbone, layer, image size): several data sets, splits and runs share them. Values are float16,
memory-mapped.

Several processes compute one batch each at a time, and tell each other the digests of their images: all know
which process computes which image, and its row, without a coordinator. Batches and rows are those of a single
process. A row's digest is written once its features are on disk; a row without one is free. So a process that
is killed loses at most one batch, and any number of processes can continue.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float16, Int
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes
from objecthood.runtime.files import check_length, read_json, refuse_link, write_json

Compute = Callable[[Scenes], Tensor]
"""Scenes to features [batch, rows, columns, dim]."""
Gather = Callable[[Any], list[Any]]
"""One value of each process to those of all, by rank; all processes call it (collective)."""
Digests = np.ndarray
"""SHA-256 of images, an array of 32 bytes (dtype "V32") each."""
DIGEST_BYTES = 32
MAX_BYTES = 100 * 2**30
"""Of one folder's features, unless said otherwise: COCO's 118,287 images take 18 GB at 14 x 14 x 384."""


def alone(value: Any) -> list[Any]:
    """`Gather` of a single process."""
    return [value]


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
        self._free: deque[int] = deque()
        self._map: np.ndarray | None = None

    def places(self, digests: Digests) -> Int[np.ndarray, "*images"]:
        """The row of each image, -1 where there is none."""
        rows = [self._places.get(digest, -1) for digest in digests.ravel().tolist()]
        return np.array(rows, np.int64).reshape(digests.shape)

    def read(self, places: Int[np.ndarray, "*images"]) -> Float16[np.ndarray, "*images rows columns dim"]:
        """The features of these rows; ValueError where the file was cut."""
        file, rows = self._file("features"), len(self._places) + len(self._free)
        check_length(file, rows * self.row_bytes)
        if self._map is None:
            self._map = np.memmap(file, np.float16, "r", shape=(rows, *self.shape))
        return self._map[places]

    @contextlib.contextmanager
    def filling(self, rank: int = 0, gather: Gather = alone) -> Iterator[None]:
        """Within it nobody else writes, and what others wrote is known (collective).

        Raises ValueError where processes do not see the same folder.
        """
        with self._file("lock").open("a") as lock:
            while not gather(rank == 0 and _locked(lock))[0]:
                time.sleep(0.2)
            token = gather(uuid.uuid4().hex)[0]
            if rank == 0:
                lock.truncate(0)
                lock.write(token)
                lock.flush()
                self._cut_unfinished()
            gather("written")
            if not all(gather(rank == 0 or self._file("lock").read_text() == token)):
                raise ValueError(
                    f"processes do not see the same {self.folder}; set OBJECTHOOD_CACHE to a folder that all "
                    "machines share"
                )
            self._read_index()
            yield
            gather("finished")

    def reserve(self, digests: Digests) -> list[int]:
        """Give a row to each image that has none; the indices of these images, of equal ones the first."""
        new = []
        for index, digest in enumerate(digests.ravel().tolist()):
            if digest not in self._places:
                self._places[digest] = self._free.popleft() if self._free else len(self._places)
                new.append(index)
        return new

    def write(self, digests: Digests, features: Float16[np.ndarray, "images rows columns dim"]) -> None:
        """Keep the features of images that have a row; within `filling`."""
        self._write("features", digests, features.reshape(len(features), -1))
        self._write("index", digests, digests)
        self._map = None

    def check_room(self, images: int) -> None:
        """ValueError where `images` more would exceed the limit or the disk."""
        wanted = images * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        room = min(free, self.max_bytes - len(self._places) * self.row_bytes)
        if wanted > room:
            raise ValueError(
                f"features of {images} images take {wanted / 1e9:.1f} GB, and {self.folder} has room for "
                f"{max(room, 0) / 1e9:.1f} GB; set OBJECTHOOD_CACHE to a larger disk, or leave cached out"
            )

    def _cut_unfinished(self) -> None:
        """Cut off what a process that was killed left behind the last whole row."""
        index, features = self._file("index"), self._file("features")
        for file in (index, features):
            file.touch()
        rows = min(index.stat().st_size // DIGEST_BYTES, features.stat().st_size // self.row_bytes)
        os.truncate(index, rows * DIGEST_BYTES)
        os.truncate(features, rows * self.row_bytes)

    def _read_index(self) -> None:
        """Read which image is in which row, and which rows are free."""
        self._places, self._free, self._map = {}, deque(), None
        content = self._file("index").read_bytes()
        for row, start in enumerate(range(0, len(content), DIGEST_BYTES)):
            digest = content[start : start + DIGEST_BYTES]
            if any(digest) and digest not in self._places:
                self._places[digest] = row
            else:
                self._free.append(row)

    def _write(self, name: str, digests: Digests, values: np.ndarray) -> None:
        rows, row_bytes = self.places(digests), values.nbytes // len(values)
        with self._file(name).open("r+b") as file:
            for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
                file.seek(int(rows[run[0]]) * row_bytes)
                file.write(values[run].tobytes())
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
        rank: of this process, in a group that shares the work.
        gather: of that group; all its processes build the data set.

    Attributes:
        digests: of each image, or of each frame of each clip.

    Raises:
        ValueError: an endless data set, no room for the features, or processes with other data or folders.

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
        rank: int = 0,
        gather: Gather = alone,
    ):
        if scenes.endless:
            raise ValueError(
                "features of an endless data set cannot be kept; name finite data, or leave cached out"
            )
        counts = gather(len(scenes))
        if len(set(counts)) > 1:
            raise ValueError(f"processes see {counts} scenes; give all machines the same data")
        self.scenes, self.cache, self.name = scenes, cache, name
        inner = scenes.digests if isinstance(scenes, CachedFeatures) else None
        step, found, checked = batch_size * len(counts), [], False
        batch: Scenes | None = None
        with cache.filling(rank, gather):
            for start in range(0, len(scenes), step):
                own = slice(start + rank * batch_size, start + (rank + 1) * batch_size)
                if inner is None:
                    batch = scenes[own]
                    shares = gather(_digests(batch["image"]))
                else:
                    shares = gather(inner[own])
                found.append(np.concatenate(shares))
                if not checked and (cache.places(found[-1]) < 0).any():
                    cache.check_room((len(scenes) - start) * math.prod(found[-1].shape[1:]))
                    checked = True
                new = [cache.reserve(share) for share in shares]
                if new[rank]:
                    computed = compute(_images(batch or scenes[own], new[rank]))
                    cache.write(shares[rank].ravel()[new[rank]], computed.detach().cpu().half().numpy())
                if any(new):
                    tell(min(start + step, len(scenes)), len(scenes))
        self.digests: Digests = np.concatenate(found)
        self._places = cache.places(self.digests)

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
    # One image at a time stays in the processor's cache: a sixth of the time of a batch.
    pixels = (image.mul(255).round_().byte().numpy() for image in images)
    return [hashlib.sha256(size + image.tobytes()).digest() for image in pixels]


def default_folder() -> Path:
    """Where features are kept: the environment variable OBJECTHOOD_CACHE, or .cache/objecthood at home."""
    chosen = os.environ.get("OBJECTHOOD_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "objecthood") / "features"


def _digests(images: Float[Tensor, "batch *time 3 height width"]) -> Digests:
    """Of images, or of each frame of clips."""
    flat = images.reshape(-1, *images.shape[-3:])
    return np.frombuffer(b"".join(digests_of(flat)), f"V{DIGEST_BYTES}").reshape(images.shape[:-3])


def _images(scenes: Scenes, rows: list[int]) -> Scenes:
    """Those of a batch, or those frames of a batch of clips."""
    if scenes["image"].ndim > 4:
        scenes = {"image": scenes["image"].flatten(0, 1)}
    return cast(Scenes, {name: values[rows] for name, values in scenes.items()})  # type: ignore[index]


def _locked(file: IO[str]) -> bool:
    """Whether the file is locked for this process now; it counts as locked where there are no locks (Windows,
    some network file systems)."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True

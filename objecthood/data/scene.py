"""The interface of data sets: every data set is a `torch.utils.data.Dataset` of scenes.

`dataset[3]` is one scene, a dict of tensors without a batch axis; `dataset[range(4)]` (or a slice, list or
array) is a batch. A data set implements `__len__` and `batch`; `Dataset` adds indexing.
"""

from __future__ import annotations

import math
import numbers
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import SupportsIndex, TypeAlias, TypedDict, cast

import numpy as np
import torch
import torch.utils.data
from jaxtyping import Float, Int, Integer
from torch import Tensor
from typing_extensions import NotRequired

from objecthood.data.io.cache import Cache, Decoded
from objecthood.data.randomness import SPLITS
from objecthood.data.transforms import as_images
from objecthood.runtime import limits

Index: TypeAlias = SupportsIndex | slice | Sequence[int] | np.ndarray | Tensor
DEFAULT_SIZE = 100_000
"""Default number of scenes of a generated data set: the size of CLEVR."""


class Scenes(TypedDict):
    """A batch; one scene has no `batch` axis. Video adds `time`; labels persist over time."""

    image: Float[Tensor, "batch *time 3 height width"]
    """In [0, 1]."""
    masks: NotRequired[Int[Tensor, "batch *time height width"]]
    """0 background, 1, 2, ... objects, -1 ignored; absent if the source has no masks."""
    classes: NotRequired[Int[Tensor, "batch height width"]]
    """As `masks`, with a label for every class; absent if the source has no classes."""
    features: NotRequired[Float[Tensor, "batch rows columns feature_dim"]]
    """Backbone features of the image (`data.feature_cache`)."""
    motion: NotRequired[Float[Tensor, "batch time rows columns 2"]]
    """Residual motion of the cells of the features (`motion.residual`)."""
    segments: NotRequired[Float[Tensor, "batch rows columns 1"]]
    """Labels, from 0, of segments of these features (`recipes.features`)."""
    partitions: NotRequired[Float[Tensor, "batch rows columns partitions"]]
    """Labels, from 0, of the partitions of a consensus of cuts (`recipes.affinity`)."""
    properties: NotRequired[Float[Tensor, "batch max_objects 19"]]
    """CLEVR: 3 coordinates scaled to [0, 1], one-hot size 2, material 2, shape 3, colour 8, real-object
    flag."""
    flow: NotRequired[Float[Tensor, "batch time 2 height width"]]
    """Video: optical flow to the next frame (across, down), in pixels."""
    velocity: NotRequired[Float[Tensor, "batch time objects 2"]]
    """Video: velocity of each object in world coordinates (across, down), in pixels per frame."""
    camera: NotRequired[Float[Tensor, "batch time 2"]]
    """Video: apparent velocity added by the camera, in pixels per frame."""
    kind: NotRequired[Int[Tensor, "batch objects"]]
    """Generated video: shape of each object (0 square, 1 ellipse, 2 heart), -1 for absent objects."""
    visibility: NotRequired[Float[Tensor, "batch time objects"]]
    """Video: visible share of each object; 0 if it is occluded, outside the frame or absent."""


class Dataset(torch.utils.data.Dataset[Scenes], ABC):
    """Scenes by index; a subclass implements `__len__` and `batch`.

    All scenes of a data set have the same keys and shapes: `properties`, `velocity` and the like have a row
    for every possible object, and rows of absent objects are 0 (-1 in `kind`). So the default `collate_fn` of
    `torch.utils.data.DataLoader` gives the same batches as `batch`.

    Attributes:
        endless: whether `batch` accepts indices beyond `len`.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> from objecthood.data.generated.sprites import Sprites
        >>> scene = Sprites()[3]
        >>> scene["image"].shape, scene["masks"].shape
        (torch.Size([3, 64, 64]), torch.Size([64, 64]))
        >>> next(iter(DataLoader(Sprites(), batch_size=4, shuffle=True)))["image"].shape
        torch.Size([4, 3, 64, 64])
    """

    endless: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The scenes of `indices`, stacked along a first axis `batch`.

        `indices` must be at least 0 and, unless the data set is endless, below `len`; only `dataset[indices]`
        checks them.
        """

    def __getitem__(self, index: Index) -> Scenes:
        """One scene without a batch axis (`index` an int), or a batch (a slice or a sequence of ints).

        Negative indices count from the end.

        Raises:
            IndexError: an index is out of range.
            TypeError: `index` is neither an int, nor a slice, nor a sequence of ints.
        """
        indices = self._resolve(index)
        if indices.ndim == 0:
            return _rows(self.batch(indices[None]))[0]
        if len(indices) == 0:
            first = self.batch(np.zeros(1, np.int64))
            return _of_each(first, lambda values: values[:0])
        return self.batch(indices)

    def __getitems__(self, indices: Sequence[int]) -> list[Scenes]:
        """A list of scenes, which `DataLoader` passes to `collate_fn`."""
        return _rows(self[indices])

    def _resolve(self, index: Index) -> Int[np.ndarray, "*scenes"]:
        size = len(self)
        indices = np.asarray(range(size)[index] if isinstance(index, slice) else index)
        if indices.ndim > 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise TypeError(f"the index (={index!r}) must be an int, a slice or a sequence of ints")
        indices = indices.astype(np.int64)
        wrong = indices[(indices < -size) | (indices >= size)]
        if wrong.size:
            raise IndexError(
                f"index {wrong.flat[0]} is out of range: {type(self).__name__} has {size} scenes; "
                f"take 0 to {size - 1}"
            )
        return np.where(indices < 0, indices + size, indices)


class EndlessDataset(Dataset):
    """Scenes generated from their index, in unlimited number; a subclass implements `make`.

    `len` is `size`, so that samplers and loops end. `batch` also accepts larger indices: the training loop
    uses every scene once, in index order.

    Args:
        size: value of `len`.

    Raises:
        ValueError: `size` below 1.
    """

    endless = True
    chunk = 64
    """Scenes that `make` gets at a time: larger temporaries exceed the CPU's cache."""

    def __init__(self, size: int = DEFAULT_SIZE):
        if size < 1:
            raise ValueError(f"`size` (={size}) must be at least 1 scene")
        self.size = size

    def __len__(self) -> int:
        return self.size

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """The scenes of `indices` as arrays."""
        raise NotImplementedError

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        indices = np.asarray(indices, dtype=np.int64)
        starts = range(0, len(indices), self.chunk)
        chunks = [self.make(indices[start : start + self.chunk]) for start in starts]
        joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        return cast(Scenes, {name: torch.from_numpy(array) for name, array in joined.items()})


class DecodedDataset(Dataset):
    """Square images read from files, with label maps if the source has them, in a memory cache.

    A subclass sets `paths` or implements `__len__`, and implements `decode`.

    Args:
        resolution: side of the images in pixels.
        split: one of `randomness.SPLITS`; None: no split.

    Raises:
        ValueError: unknown split, or a resolution below 1.
    """

    paths: list[Path]
    """The images, in the order of the indices."""

    def __init__(self, resolution: int, split: str | None):
        check_selection(resolution, split)
        self.resolution = resolution
        self._cache = Cache(self.decode)

    def __len__(self) -> int:
        return len(self.paths)

    @abstractmethod
    def decode(self, number: int) -> Decoded:
        """One scene, resized."""

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """`image` float32 [batch, 3, height, width] in [0, 1]; `masks` int64 [batch, height, width].

        Raises ValueError (`ImageError`, or the data set's own) if a file is missing or damaged.
        """
        decoded = [self._cache[int(index)] for index in indices]
        scenes: Scenes = {"image": as_images(np.stack([one.picture for one in decoded]))}
        labels = [one.labels for one in decoded if one.labels is not None]
        if labels:
            scenes["masks"] = torch.from_numpy(np.stack(labels).astype(np.int64))
        return scenes


def check_selection(resolution: int | None, split: str | None) -> None:
    """Raise ValueError for an unknown split or a resolution out of range; None is allowed for both."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"`split` (={split!r}) must be one of {', '.join(SPLITS)}")
    if resolution is None:
        return
    largest = math.isqrt(limits.IMAGE_PIXELS)
    if not isinstance(resolution, numbers.Integral) or not 1 <= resolution <= largest:
        raise ValueError(f"`resolution` (={resolution!r:.60}) must be at least 1 pixel and at most {largest}")


def _of_each(scenes: Scenes, change: Callable[[Tensor], Tensor]) -> Scenes:
    changed = {key: change(value) for key, value in scenes.items()}  # type: ignore[arg-type]
    return cast(Scenes, changed)


def _rows(scenes: Scenes) -> list[Scenes]:
    """A batch as a list of scenes; their tensors are views of the batch."""
    return [_of_each(scenes, operator.itemgetter(row)) for row in range(len(scenes["image"]))]


def to_device(scenes: Scenes, device: torch.device) -> Scenes:
    """The same batch on another device."""
    return _of_each(scenes, lambda values: values.to(device, non_blocking=True))


def paint_labels(
    labels: Integer[np.ndarray, "batch height width"], colors: Float[np.ndarray, "batch labels channels"]
) -> Float[np.ndarray, "batch channels height width"]:
    """Images with the colour (or other values) of the label at every pixel."""
    batch, height, width = labels.shape
    flat = labels.reshape(batch, 1, height * width).astype(np.intp)
    table = colors.transpose(0, 2, 1).astype(np.float32)
    return np.take_along_axis(table, flat, axis=2).reshape(batch, -1, height, width)

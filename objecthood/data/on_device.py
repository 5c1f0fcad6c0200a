"""A data set decoded once and kept on the model's device, so that no batch is copied to the GPU.

At 128 pixels a scene takes 66 KB with masks: the 70,000 scenes of CLEVR take 4.6 GB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes


class OnDevice(Dataset):
    """The scenes of `dataset`, stored on `device`.

    Images are stored with 8 bits: exact for images from files, rounded by at most 1/510 otherwise.

    Args:
        dataset: the data set, read completely.
        device: the device that stores it.
        count: number of scenes to store; required for an endless data set.

    Raises:
        ValueError: an endless data set without `count`, a count below 1, or a scene of over 127 objects.

    Example:
        >>> from objecthood.data.clevr_render.clevr_like import ClevrLike
        >>> scenes = OnDevice(ClevrLike(resolution=32), "cpu", count=10)
        >>> len(scenes), scenes[[3, 1]]["image"].shape
        (10, torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, dataset: Dataset, device: torch.device | str, count: int | None = None):
        if count is None and dataset.endless:
            raise ValueError("an endless data set needs `count`, the number of scenes, such as 10_000")
        if count is not None and count < 1:
            raise ValueError(f"`count` (={count}) must be at least 1")
        available = sys.maxsize if dataset.endless else len(dataset)
        self._size = available if count is None else min(count, available)
        self._kept: dict[str, Tensor] = {}
        for start, scenes in _read(dataset, self._size):
            for key, values in scenes.items():
                packed = _pack(key, values)
                if key not in self._kept:
                    shape = (self._size, *packed.shape[1:])
                    self._kept[key] = torch.empty(shape, dtype=packed.dtype, device=device)
                self._kept[key][start : start + len(packed)] = packed

    def __len__(self) -> int:
        return self._size

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """A batch of the data set, on the device."""
        rows = torch.as_tensor(np.asarray(indices, dtype=np.int64)).to(self._kept["image"].device)
        chosen = {key: kept[rows] for key, kept in self._kept.items()}
        scenes: Scenes = {"image": chosen["image"].float().div_(255)}
        if "masks" in chosen:
            scenes["masks"] = chosen["masks"].long()
        if "properties" in chosen:
            scenes["properties"] = chosen["properties"]
        return scenes

    @property
    def num_bytes(self) -> int:
        """Memory used on the device."""
        return sum(kept.nbytes for kept in self._kept.values())


def _read(dataset: Dataset, count: int, batch_size: int = 64) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for start in range(0, count, batch_size):
        yield start, dict(dataset.batch(range(start, min(start + batch_size, count))))  # type: ignore[arg-type]


def _pack(key: str, values: Tensor) -> Tensor:
    """Images as uint8, labels (-1 to 127) as int8, other values unchanged."""
    if key == "image":
        return values.mul(255).round_().to(torch.uint8)
    if key == "masks":
        if int(values.max()) > 127:
            raise ValueError(
                f"a scene has label {int(values.max())}; at most 127 objects are kept on a device"
            )
        return values.to(torch.int8)
    return values

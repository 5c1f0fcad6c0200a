"""Motion fields of video frames: optical flow without camera motion, averaged along pixel trajectories.

Each frame has two fields in the direction of time: flow to the next frame, and negated flow to the previous
one, whose occlusion errors lie on opposite sides of an object. Camera motion is an affine field fitted
robustly (Geman and McClure 1987), which covers rotation and zoom but not parallax. Residual and speed are
averaged along trajectories, which cancels noise and oscillation.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from objecthood.data.io.images import resize_image
from objecthood.data.published.davis import Davis2016, folds
from objecthood.data.scene import Dataset, Scenes
from objecthood.motion.optical_flow import DenseInverseSearch
from objecthood.motion.paths import along_paths
from objecthood.runtime.threads import parallel

SIDE = 240
"""Shorter side of the frames for optical flow in pixels, half of 480p."""
KEPT = 2
"""Factor by which fields are then downsampled; DIS is no finer."""
DIRECTIONS = 2
_ROUNDS = 8  # iterations of reweighting, after which residuals change by less than 0.01 pixels


class SequenceFields(NamedTuple):
    """Motion of one sequence in pixels of its grid (DAVIS: 214 x 120) per frame, float16."""

    flow: Float[Tensor, "frames directions 2 rows columns"]
    """To the next frame and from the previous one; at either end of the sequence both are the same."""
    residual: Float[Tensor, "frames directions 2 rows columns"]
    """`flow` without camera motion."""
    steady: Float[Tensor, "frames directions 2 rows columns"]
    """`residual`, averaged along pixel trajectories."""
    speed: Float[Tensor, "frames directions rows columns"]
    """Length of `residual`, averaged along pixel trajectories; includes oscillating motion."""


class MotionFields(Dataset):
    """Motion fields of DAVIS-2016 frames as images: a finite data set.

    Args:
        path: folder of DAVIS-2016.
        split: "train": training sequences of fold `fold`; "validation" and "test": its held-out sequences.
        fold, num_folds: see `data.published.davis.folds`.
        resolution: side of the square images.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str,
        *,
        fold: int = 0,
        num_folds: int = 3,
        resolution: int = 64,
    ):
        davis = Davis2016(path)
        if not 0 <= fold < num_folds <= len(davis.sequences):
            raise ValueError(
                f"`fold` (={fold}) must be 0 to {num_folds - 1}, with at most {len(davis.sequences)} folds"
            )
        train, held_out = folds(davis.sequences, num_folds)[fold]
        self.sequences = train if split == "train" else held_out
        self.resolution, images, masks = resolution, [], []
        for name in self.sequences:
            fields = sequence_fields(str(path), name)
            steady, speed = fields.steady.float(), fields.speed.float()
            fitted = shown(steady.flatten(0, 1), speed.flatten(0, 1), resolution)
            images.append(fitted.unflatten(0, speed.shape[:2]))
            truth = torch.from_numpy(davis.truth(name)).float()[:, None]
            small = functional.interpolate(truth, (resolution, resolution), mode="area")[:, 0]
            masks.append((small > 0.5).long())
        self._images, self._masks = torch.cat(images), torch.cat(masks)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """image [batch, directions, 3, side, side], motion as images; masks [batch, directions, side,
        side]."""
        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        masks = self._masks[chosen][:, None].expand(-1, DIRECTIONS, -1, -1)
        return {"image": self._images[chosen], "masks": masks}


@lru_cache(maxsize=64)
def sequence_fields(path: str, name: str) -> SequenceFields:
    """The motion of one sequence; cached, as three folds use it."""
    frames = [resize_image(frame, flow_size(frame.shape[:2])) for frame in Davis2016(path).frames(name)]
    if len(frames) < 2:
        raise ValueError(f"sequence {name!r} has {len(frames)} frame; motion needs at least two")
    return fields_of(frames)


def flow_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) of frames for optical flow: shorter side `SIDE`, both multiples of `KEPT`.

    Example:
        >>> flow_size((480, 854)), flow_size((1920, 1080))
        ((240, 428), (428, 240))
    """
    height, width = (KEPT * math.ceil(SIDE / KEPT * side / min(size)) for side in size)
    return height, width


def fields_of(
    frames: Sequence[UInt8[np.ndarray, "height width 3"]],
    search: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    camera: Callable[[np.ndarray], np.ndarray] | None = None,
) -> SequenceFields:
    """The motion of at least two frames of size `flow_size`; `search` is `DenseInverseSearch`, in several
    threads (`runtime.threads`), and `camera`, which subtracts the camera's motion, `without_camera` unless
    given."""
    find, camera = search or DenseInverseSearch(), camera or without_camera

    def both(now: int) -> np.ndarray:
        others = neighbours(now, len(frames))
        return np.stack([find(frames[now], frames[other]) * (other - now) for other in others])

    flows = list(parallel(both, range(len(frames)), threads=1 if search else None))
    flow = torch.from_numpy(np.stack(flows)).permute(0, 1, 4, 2, 3)
    flow = functional.avg_pool2d(flow.flatten(0, 1), KEPT).unflatten(0, flow.shape[:2]) / KEPT
    residual = torch.from_numpy(np.stack([camera(one) for one in flow.flatten(0, 1).numpy()]))
    residual = residual.unflatten(0, flow.shape[:2])
    speed = along_paths(residual.norm(dim=2), flow)
    steady = along_paths(residual.flatten(1, 2), flow).unflatten(1, residual.shape[1:3])
    return SequenceFields(flow.half(), residual.half(), steady.half(), speed.half())


def neighbours(now: int, count: int) -> tuple[int, int]:
    """The frames after and before one of `count`; at either end, twice the only one there is.

    Example:
        >>> neighbours(0, 3), neighbours(1, 3), neighbours(2, 3)
        ((1, 1), (2, 0), (1, 1))
    """
    after, before = now + 1, now - 1
    return after if after < count else before, before if before >= 0 else after


def without_camera(field: Float[np.ndarray, "2 rows columns"]) -> Float[np.ndarray, "2 rows columns"]:
    """A motion field minus a robustly fitted affine field.

    Example:
        >>> y, x = np.mgrid[0:20, 0:30].astype(float)
        >>> field = np.stack([1 + 0.1 * x, 0.05 * y - 0.1 * x])
        >>> field[:, 8:12, 8:12] += 5
        >>> left = without_camera(field)
        >>> bool(np.abs(left[:, 0]).max() < 0.01), bool(np.abs(left[:, 10, 10] - 5).max() < 0.01)
        (True, True)
    """
    rows, columns = field.shape[1:]
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    design = np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3)
    values = field.reshape(2, -1).T.astype(float)
    some = slice(None, None, 3)  # every third pixel is enough for three parameters
    weights = np.ones(len(design[some]))
    for _ in range(_ROUNDS):
        weighted = design[some] * weights[:, None]
        fit = np.linalg.solve(design[some].T @ weighted + 1e-9 * np.eye(3), weighted.T @ values[some])
        squares = np.square(values[some] - design[some] @ fit).sum(axis=1)
        scale = 2 * max(np.median(squares), 1e-4)
        weights = np.square(scale / (scale + squares))
    return (values - design @ fit).T.reshape(field.shape).astype(np.float32)


def shown(
    field: Float[Tensor, "fields 2 rows columns"],
    speed: Float[Tensor, "fields rows columns"],
    resolution: int,
) -> Float[Tensor, "fields 3 side side"]:
    """Motion fields as images in [0, 1]: horizontal and vertical motion around 1/2, and speed.

    Each is scaled by the 98th percentile of its speed, at least 0.1 pixels.
    """
    field = functional.interpolate(field, (resolution, resolution), mode="area")
    small = functional.interpolate(speed[:, None], (resolution, resolution), mode="area")
    return scaled(field, small, largest_speed(speed, resolution))


def scaled(
    field: Float[Tensor, "fields 2 rows columns"],
    speed: Float[Tensor, "fields 1 rows columns"],
    scale: Float[Tensor, "fields 1 1 1"],
) -> Float[Tensor, "fields 3 rows columns"]:
    """Motion in units of `scale` as images in [0, 1]."""
    return torch.cat([0.5 + 0.5 * (field / scale).clamp(-1, 1), (speed / scale).clamp_max(1)], dim=1)


def largest_speed(
    speed: Float[Tensor, "fields rows columns"], resolution: int
) -> Float[Tensor, "fields 1 1 1"]:
    """The 98th percentile of the speed of each field at `resolution`, at least 0.1 pixels."""
    small = functional.interpolate(speed[:, None], (resolution, resolution), mode="area")
    return small.flatten(1).quantile(0.98, dim=1).clamp_min(0.1)[:, None, None, None]

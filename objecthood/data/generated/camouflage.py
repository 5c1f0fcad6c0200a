"""Random-dot motion: clips of objects and background with independent noise, visible by motion only.

Every surface has its own noise texture and moves by whole pixels, so that a single frame holds no information
about objects; common motion is the only cue. Objects bounce at the border.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from objecthood.data.generated.silhouettes import AREAS, REACH, between, silhouettes
from objecthood.data.generated.trajectories import bounce
from objecthood.data.randomness import split_key, uniform
from objecthood.data.scene import DEFAULT_SIZE, EndlessDataset, paint_labels

RESOLUTION = 64
MIN_OBJECTS, MAX_OBJECTS = 2, 3
HALF_SIZE = (0.13, 0.2)  # of the image's side
FASTEST = 2  # pixels per frame and axis
VELOCITIES = np.array(
    [(x, y) for x in range(-FASTEST, FASTEST + 1) for y in range(-FASTEST, FASTEST + 1) if x or y]
)
_DRAWS = 5  # per object: kind, size, angle, column, row


class Camouflage(EndlessDataset):
    """Endless clips; clip i is a function of split, seed and i.

    Args:
        frames: number of frames per clip.
        camera: whether the background moves as well, with its own velocity.
        size: value of `len`; the training loop uses further clips.

    Example:
        >>> clips = Camouflage("test", frames=3)[range(2)]
        >>> clips["image"].shape, int(clips["masks"].max())
        (torch.Size([2, 3, 3, 64, 64]), 3)
    """

    chunk = 16

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        *,
        frames: int = 6,
        camera: bool = False,
        size: int = DEFAULT_SIZE,
    ):
        super().__init__(size)
        if frames < 1:
            raise ValueError(f"`frames` (={frames}) must be at least 1")
        self.key, self.frames, self.camera = split_key(seed, split), frames, camera

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """image [batch, time, 3, 64, 64], and the other video fields of `data.scene`."""
        batch, time, side = len(indices), self.frames, RESOLUTION
        draws = uniform(self.key, indices, MAX_OBJECTS * _DRAWS, stream=3)
        draws = draws.reshape(batch, MAX_OBJECTS, _DRAWS)
        kind, size, angle = (
            (draws[..., 0] * 3).astype(int),
            between(HALF_SIZE, draws[..., 1]),
            2 * np.pi * draws[..., 2],
        )
        count = MIN_OBJECTS + uniform(self.key, indices, 1, stream=4) * (MAX_OBJECTS - MIN_OBJECTS + 1)
        is_there = np.arange(MAX_OBJECTS) < count.astype(int)
        # All velocities of a clip differ, including the background's.
        order = uniform(self.key, indices, len(VELOCITIES), stream=5).argsort(axis=1)
        velocity = VELOCITIES[order[:, : MAX_OBJECTS + 1]]
        camera = velocity[:, MAX_OBJECTS] * int(self.camera)
        margin = np.ceil(size * REACH * side).astype(int)[..., None, None]
        start = margin + (draws[..., None, 3:5] * (side - 2 * margin + 1)).astype(int)
        times = np.arange(time + 1)
        middle = bounce(start, velocity[:, :MAX_OBJECTS, None], times[:, None], margin, side - margin)
        labels = np.zeros((batch, time, side, side), np.uint8)
        way = np.concatenate([camera[:, None, None] * times[:, None], middle], axis=1)
        noise = self._noise(indices)
        image = shifted(noise[:, 0], way[:, 0, :-1])
        for number in range(MAX_OBJECTS):
            column, row = (middle[:, number, :-1].reshape(-1, 2) / side).T
            its_kind, its_size, its_angle = (np.repeat(part[:, number], time) for part in (kind, size, angle))
            covered = silhouettes(its_kind, its_size, its_angle, row, column, side)
            covered = covered.reshape(batch, time, side, side)
            covered &= is_there[:, number, None, None, None]
            labels[covered] = number + 1
            image = np.where(
                covered[:, :, None], shifted(noise[:, number + 1], way[:, number + 1, :-1]), image
            )
        steps = np.diff(way, axis=2).transpose(0, 2, 1, 3) * np.insert(is_there, 0, True, 1)[:, None, :, None]
        flow = paint_labels(
            labels.reshape(-1, side, side), steps.reshape(-1, MAX_OBJECTS + 1, 2).astype(np.float32)
        )
        seen = np.stack([(labels == n).sum(axis=(2, 3)) for n in range(1, MAX_OBJECTS + 1)], axis=-1)
        area = (np.take(AREAS, kind) * (size * side) ** 2)[:, None]
        return {
            "image": image,
            "masks": labels.astype(np.int64),
            "flow": flow.reshape(batch, time, 2, side, side),
            "velocity": ((steps[:, :, 1:] - steps[:, :, :1]) * is_there[:, None, :, None]).astype(np.float32),
            "camera": steps[:, :, 0].astype(np.float32),
            "kind": np.where(is_there, kind, -1),
            "visibility": np.minimum(seen / area, 1).astype(np.float32),
        }

    def _noise(self, indices: np.ndarray) -> np.ndarray:
        """Noise textures of the background and each object [batch, 1 + objects, 3, H, W]."""
        shape = (MAX_OBJECTS + 1, 3, RESOLUTION, RESOLUTION)
        draws = uniform(self.key, indices, int(np.prod(shape)), stream=6)
        return draws.reshape(-1, *shape).astype(np.float32)


def shifted(sheet: np.ndarray, way: np.ndarray) -> np.ndarray:
    """`sheet` [batch, 3, H, W] shifted by `way` [batch, time, 2] (across, down, whole pixels), with
    wrap-around.

    Example:
        >>> shifted(np.arange(4).reshape(1, 1, 1, 4), np.array([[[0, 0], [1, 0]]]))[0, :, 0, 0].tolist()
        [[0, 1, 2, 3], [3, 0, 1, 2]]
    """
    height, width = sheet.shape[-2:]
    columns, rows = ((np.arange(n) - way[..., axis, None]) % n for axis, n in ((0, width), (1, height)))
    clip = np.arange(len(sheet))[:, None, None, None]
    return np.moveaxis(sheet[clip, :, rows[..., :, None], columns[..., None, :]], -1, 2)

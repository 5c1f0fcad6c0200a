"""Clips of two to five moving or static sprites, with several speeds, occlusion, exits and entries.

Squares, ellipses and hearts as in `sprites` move on straight lines; later ones occlude earlier ones. They
bounce outside the image, so that they leave and re-enter with the same label. The background is a grey
level, a colour, or a smooth random texture; the camera may move. Generated data: scores are not comparable
with published sets.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Integer

from objecthood.data.generated.silhouettes import AREAS, between, rgb_from_hsv, silhouettes
from objecthood.data.generated.trajectories import bounce, circle
from objecthood.data.randomness import split_key, uniform
from objecthood.data.scene import DEFAULT_SIZE, EndlessDataset, check_selection, paint_labels

RESOLUTION = 64
MIN_SPRITES, MAX_SPRITES = 2, 5
HALF_SIZE = (0.09, 0.18)  # of the image's side
CENTRE = (0.1, 0.9)
SPEED = (0.5 / 64, 3.0 / 64)  # of the image's side, per frame: 0.5 to 3 pixels at 64
STATIC = 0.35  # share of static sprites
ENTERING = 0.25  # share of moving sprites that start outside
TURN = 0.25  # of the side: distance beyond the border at which sprites bounce, invisible (0.18 * 1.32 = 0.24)
SATURATION, VALUE = (0.5, 1.0), (0.6, 1.0)
CAMERA_RADIUS = 0.125  # of the side: the camera moves on a circle
WAVES, WAVE_NUMBER = 6, 5.0  # of the texture: cosines per channel, and their largest wave number
Backdrop = Literal["grey", "coloured", "textured"]
_DRAWS = 12  # per sprite


class MovingSprites(EndlessDataset):
    """Endless clips; clip i is a function of split, seed, background and i, and longer clips start like
    shorter ones.

    Args:
        frames: number of frames per clip.
        background: "grey", "coloured" or "textured".
        camera: largest speed of the camera (drawn from 0 on), in pixels per frame at 64 x 64; 0 to 4.
        resolution: side of the image in pixels.
        size: value of `len`; the training loop uses further clips.

    Example:
        >>> clips = MovingSprites("test", frames=4)[range(2)]
        >>> clips["image"].shape, clips["masks"].shape, clips["flow"].shape
        (torch.Size([2, 4, 3, 64, 64]), torch.Size([2, 4, 64, 64]), torch.Size([2, 4, 2, 64, 64]))
    """

    chunk = 16

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        *,
        frames: int = 6,
        background: Backdrop = "grey",
        camera: float = 0.0,
        resolution: int = RESOLUTION,
        size: int = DEFAULT_SIZE,
    ):
        super().__init__(size)
        if background not in get_args(Backdrop):
            raise ValueError(f"`background` (={background!r}) must be one of {', '.join(get_args(Backdrop))}")
        if frames < 1:
            raise ValueError(f"`frames` (={frames}) must be at least 1")
        if not 0 <= camera <= 4:
            raise ValueError(f"`camera` (={camera}) must be between 0 and 4 pixels per frame")
        check_selection(resolution, split)
        self.key, self.frames, self.background = split_key(seed, split), frames, background
        self.camera, self.resolution = camera, resolution

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """image [batch, time, 3, H, W], and the other video fields of `data.scene`."""
        batch, time, side = len(indices), self.frames, self.resolution
        draws = uniform(self.key, indices, MAX_SPRITES * _DRAWS).reshape(batch, MAX_SPRITES, _DRAWS)
        scene = uniform(self.key, indices, 6, stream=1)
        is_there = np.arange(MAX_SPRITES) < MIN_SPRITES + (
            scene[:, :1] * (MAX_SPRITES - MIN_SPRITES + 1)
        ).astype(int)
        # One additional frame for the flow of the last frame.
        times = np.arange(time + 1)
        speed, phase = self.camera / RESOLUTION * scene[:, 4:5], 2 * np.pi * scene[:, 5:6]
        camera = circle(speed, phase, times, CAMERA_RADIUS)
        world = places(draws, times)
        labels = self._labels(draws, (world + camera[:, None])[:, :, :-1], is_there)
        image = self._draw(draws, scene, camera[:, :-1], labels, indices)
        velocity = np.diff(world, axis=2) * is_there[:, :, None, None] * side
        shift = np.diff(camera, axis=1) * side
        steps = np.concatenate([shift[:, None], velocity + shift[:, None]], axis=1)
        flow = paint_labels(
            labels.reshape(batch * time, side, side),
            steps.transpose(0, 2, 1, 3).reshape(batch * time, MAX_SPRITES + 1, 2),
        )
        return {
            "image": image,
            "masks": labels.astype(np.int64),
            "flow": flow.reshape(batch, time, 2, side, side),
            "velocity": velocity.transpose(0, 2, 1, 3).astype(np.float32),
            "camera": shift.astype(np.float32),
            "kind": np.where(is_there, forms(draws)[0], -1),
            "visibility": self._visibility(draws, labels),
        }

    def _labels(self, draws: np.ndarray, middle: np.ndarray, is_there: np.ndarray) -> np.ndarray:
        """Label maps [batch, time, H, W] of sprites centred at `middle` [batch, sprites, time, 2]."""
        time, side = middle.shape[2], self.resolution
        labels = np.zeros((len(draws), time, side, side), np.uint8)
        for number in range(MAX_SPRITES):
            clips = np.flatnonzero(is_there[:, number])
            kind, size, angle = (np.repeat(part[clips, number], time) for part in forms(draws))
            column, row = middle[clips, number].reshape(-1, 2).T
            covered = silhouettes(kind, size, angle, row, column, side).reshape(-1, time, side, side)
            labels[clips] = np.where(covered, np.uint8(number + 1), labels[clips])
        return labels

    def _draw(
        self,
        draws: np.ndarray,
        scene: np.ndarray,
        camera: Float[np.ndarray, "batch time 2"],
        labels: Integer[np.ndarray, "batch time height width"],
        indices: np.ndarray,
    ) -> Float[np.ndarray, "batch time 3 height width"]:
        batch, time, side, _ = labels.shape
        colors = np.empty((batch, MAX_SPRITES + 1, 3))
        colors[:, 0] = scene[:, 1:2] if self.background == "grey" else scene[:, 1:4]
        colors[:, 1:] = rgb_from_hsv(
            draws[..., 7], between(SATURATION, draws[..., 8]), between(VALUE, draws[..., 9])
        )
        flat = labels.reshape(batch * time, side, side)
        image = paint_labels(flat, np.repeat(colors, time, axis=0)).reshape(batch, time, 3, side, side)
        if self.background == "textured":
            backdrop = texture(self.key, indices, camera, side)
            image = np.where(labels[:, :, None] == 0, backdrop, image)
        return image

    def _visibility(self, draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Visible share of each sprite's area [batch, time, sprites]."""
        kind, size, _ = forms(draws)
        area = np.take(AREAS, kind) * (size * self.resolution) ** 2
        seen = np.stack([(labels == n).sum(axis=(2, 3)) for n in range(1, MAX_SPRITES + 1)], axis=-1)
        return np.minimum(seen / area[:, None], 1).astype(np.float32)


def forms(draws: Float[np.ndarray, "batch sprites 12"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kind, half size and angle of each sprite [batch, sprites]."""
    return (draws[..., 0] * 3).astype(int), between(HALF_SIZE, draws[..., 1]), 2 * np.pi * draws[..., 2]


def places(
    draws: Float[np.ndarray, "batch sprites 12"], times: Integer[np.ndarray, " time"]
) -> Float[np.ndarray, "batch sprites time 2"]:
    """Centre (across, down) of each sprite at each time, in units of the image's side, without camera
    motion."""
    start = between(CENTRE, draws[..., 3:5])
    speed = between(SPEED, draws[..., 5]) * (draws[..., 10] >= STATIC)
    angle = 2 * np.pi * draws[..., 6]
    velocity = speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    # Entering sprites start just outside, on the side opposite to their direction.
    enters = (draws[..., 11] < ENTERING) & (speed > 0)
    main = np.abs(velocity).argmax(axis=-1)[..., None] == np.arange(2)
    outside = np.where(velocity > 0, -TURN, 1 + TURN)
    start = np.where(enters[..., None] & main, outside, start)
    return bounce(start[..., None, :], velocity[..., None, :], times[:, None], -TURN, 1 + TURN)


def texture(
    key: int, indices: np.ndarray, camera: Float[np.ndarray, "batch time 2"], side: int
) -> Float[np.ndarray, "batch time 3 side side"]:
    """Sums of cosines around mid grey, in [0, 1], that follow the camera with sub-pixel motion."""
    draws = uniform(key, indices, 3 * WAVES * 3, stream=2).reshape(len(indices), 1, 3, WAVES, 3)
    pixels = (np.arange(side) + 0.5) / side
    across, down = (2 * np.pi * WAVE_NUMBER * (2 * draws[..., axis] - 1) for axis in (0, 1))
    phase = 2 * np.pi * draws[..., 2]
    # cos(a + b) from angles of rows and columns, which avoids a cosine per pixel.
    x, y = (pixels - camera[:, :, axis, None] for axis in (0, 1))
    rows = (down[..., None] * y[:, :, None, None]).astype(np.float32)
    columns = (across[..., None] * x[:, :, None, None] + phase[..., None]).astype(np.float32)
    waves = np.einsum("btcwi,btcwj->btcij", np.cos(rows), np.cos(columns), optimize=True)
    waves -= np.einsum("btcwi,btcwj->btcij", np.sin(rows), np.sin(columns), optimize=True)
    return np.clip(0.5 + waves * np.float32(0.5 / WAVES), 0, 1)

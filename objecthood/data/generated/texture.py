"""Generated scenes of graded difficulty: interleaved objects from solid colours to textures of one colour.

The objects are those of `interleaved`, so that positions do not separate them, and the levels take colour
away step by step. From "patterned" on, all surfaces of a scene, the background included, have the same two
tones in equal shares: colours and local mean colours hold no information, and no baseline of
`analysis.baselines` reaches a foreground ARI of 0.10 (results/texture-floors.json). For objects that only
motion shows, see `camouflage`.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from objecthood.data.generated.interleaved import DRAWS, MAX_OBJECTS, interleaved_objects
from objecthood.data.generated.silhouettes import between, rgb_from_hsv
from objecthood.data.randomness import split_key, uniform
from objecthood.data.scene import DEFAULT_SIZE, EndlessDataset, check_selection

RESOLUTION = 64
Level = Literal["solid", "tinted", "patterned", "oriented", "shifted", "hidden"]
"""What the surfaces of a scene, objects and background, differ in: "solid" one colour each; "tinted" mean
colour and pattern; "patterned" kind, size and angle of the pattern, in two tones that all share; "oriented"
the angle of stripes; "shifted" the phase of stripes; "hidden" nothing (one sheet of noise): a control."""
SURFACES = MAX_OBJECTS + 1
PERIOD = (1 / 14, 1 / 10)  # of the image's side
STRIPES_PERIOD = 1 / 13
SHARPNESS = 2.5  # of the edges between two tones
DOT_RADIUS = 0.3989  # of the period: a circle of half a cell
GRAINS = 64  # cells of noise along the image's side
CONTRAST, TINT_CONTRAST = (0.22, 0.34), 0.16  # half the difference of two tones


class Texture(EndlessDataset):
    """Endless scenes; scene i is a function of split, seed, level and i, its masks of split, seed and i.

    Args:
        level: one of `Level`.
        resolution: side of the image in pixels. Patterns scale with it; below 48 pixels they alias.
        size: value of `len`; the training loop uses further scenes.

    Raises:
        ValueError: unknown level or split, or a resolution or size below 1.

    Example:
        >>> scenes = Texture("test", level="oriented")[range(4)]
        >>> scenes["image"].shape, scenes["masks"].shape
        (torch.Size([4, 3, 64, 64]), torch.Size([4, 64, 64]))
    """

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        level: Level = "patterned",
        resolution: int = RESOLUTION,
        *,
        size: int = DEFAULT_SIZE,
    ):
        super().__init__(size)
        if level not in get_args(Level):
            raise ValueError(f"`level` (={level!r}) must be one of {', '.join(get_args(Level))}")
        check_selection(resolution, split)
        self.key, self.level, self.resolution = split_key(seed, split), level, resolution

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """image float32 [batch, 3, H, W] in [0, 1], masks int64 [batch, H, W] with objects 1 to 3."""
        labels = interleaved_objects(uniform(self.key, indices, DRAWS), self.resolution)
        tones = self._tones(indices)  # [batch, surfaces, 2, 3]
        shown = np.take_along_axis(self._patterns(indices), labels[:, None].astype(np.intp), axis=1)[:, 0]
        scene = np.arange(len(indices))[:, None, None]
        low, high = (np.moveaxis(tones[scene, labels, tone], -1, 1) for tone in (0, 1))
        image = low + (high - low) * shown[:, None]
        return {"image": image.astype(np.float32), "masks": labels.astype(np.int64)}

    def _tones(self, indices: np.ndarray) -> Float[np.ndarray, "scenes surfaces 2 3"]:
        """The two colours of each surface's pattern."""
        if self.level in ("solid", "tinted"):
            draws = uniform(self.key, indices, 2 * SURFACES + 1, stream=1)
            order = uniform(self.key, indices, SURFACES, stream=2).argsort(axis=1)
            hue = (order / SURFACES + draws[:, :1]) % 1
            saturation = between((0.45, 0.8), draws[:, 1 : SURFACES + 1])
            colour = rgb_from_hsv(hue, saturation, between((0.55, 0.8), draws[:, SURFACES + 1 :]))
            half = np.full_like(colour, TINT_CONTRAST if self.level == "tinted" else 0.0)
        else:
            draws = uniform(self.key, indices, 4, stream=1)[:, None].repeat(SURFACES, axis=1)
            colour = between((0.4, 0.6), draws[..., :3])
            half = np.repeat(between(CONTRAST, draws[..., 3:]), 3, axis=-1)
        return np.stack([colour - half, colour + half], axis=2).clip(0, 1)

    def _patterns(self, indices: np.ndarray) -> Float[np.ndarray, "scenes surfaces height width"]:
        """The share of the second tone at each pixel, for each surface, in [0, 1]."""
        side, batch = self.resolution, len(indices)
        draws = uniform(self.key, indices, SURFACES * 4, stream=3).reshape(batch, SURFACES, 4)
        order = uniform(self.key, indices, max(SURFACES, len(KINDS)), stream=4)
        noise = uniform(self.key, indices, GRAINS**2, stream=5).reshape(batch, 1, GRAINS, GRAINS)
        cell = ((np.arange(side) + 0.5) * GRAINS / side).astype(int)
        grains = np.repeat((noise < 0.5)[:, :, cell][..., cell], SURFACES, axis=1).astype(float)
        if self.level == "hidden":
            return grains
        pixels = (np.arange(side) + 0.5) / side
        places = order[:, :SURFACES].argsort(axis=1)
        period, angle, phase = between(PERIOD, draws[..., 0]), np.pi * draws[..., 1], draws[..., 2:]
        kind = order.argsort(axis=1)[:, :SURFACES] if self.level in ("tinted", "patterned") else 0 * places
        if self.level == "oriented":
            angle = np.pi * (places / SURFACES + draws[:, :1, 1])
        if self.level == "shifted":
            angle = np.repeat(angle[:, :1], SURFACES, axis=1)
            phase = (places / SURFACES)[..., None].repeat(2, axis=-1) + phase[:, :1]
        if self.level in ("oriented", "shifted"):
            period = np.full_like(period, STRIPES_PERIOD)
        cosine, sine = (turn(angle)[..., None, None] for turn in (np.cos, np.sin))
        along = (pixels * cosine + pixels[:, None] * sine) / period[..., None, None]
        across = (pixels[:, None] * cosine - pixels * sine) / period[..., None, None]
        along, across = along + phase[..., 0, None, None], across + phase[..., 1, None, None]
        for number, pattern in enumerate(KINDS):
            chosen = kind == number
            if pattern is not None:
                grains[chosen] = 0.5 + 0.5 * np.clip(pattern(along[chosen], across[chosen]), -1, 1)
        return grains


def stripes(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Stripes of period 1; as all patterns, beyond [-1, 1] inside of a tone, with equal shares of both."""
    return SHARPNESS * np.sin(2 * np.pi * along)


def checks(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """A checkerboard."""
    return 2 * SHARPNESS * np.sin(2 * np.pi * along) * np.sin(2 * np.pi * across)


def dots(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Discs on a square lattice."""
    return 2 * np.pi * SHARPNESS * (DOT_RADIUS - np.hypot(along % 1 - 0.5, across % 1 - 0.5))


def zigzags(along: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Stripes that turn at right angles."""
    return SHARPNESS * np.sin(2 * np.pi * (along + np.abs(across % 2 - 1)))


KINDS = (stripes, checks, dots, zigzags, None)
"""Patterns; None: grains of noise."""

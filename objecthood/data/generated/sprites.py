"""Generated scenes of two to five overlapping sprites on a plain background, modelled on Multi-dSprites.

Squares, ellipses and hearts have random colour, size, orientation and position; later sprites occlude
earlier ones. The background is a random grey level ("grey", as in the published coloured-on-greyscale
variant) or colour ("coloured"). Shapes and ranges differ: scores are not comparable with the published set.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from objecthood.data.generated.silhouettes import between, rgb_from_hsv, silhouettes
from objecthood.data.randomness import split_key, uniform
from objecthood.data.scene import DEFAULT_SIZE, EndlessDataset, paint_labels

RESOLUTION = 64
MIN_SPRITES, MAX_SPRITES = 2, 5
HALF_SIZE = (0.09, 0.18)  # of the image's side
CENTRE = (0.12, 0.88)
SATURATION, VALUE = (0.5, 1.0), (0.6, 1.0)
Background = Literal["grey", "coloured"]
_DRAWS = 8  # per sprite: shape, half size, angle, row, column, hue, saturation, value


class Sprites(EndlessDataset):
    """Endless scenes; scene i is a function of split, seed, background and i.

    Args:
        background: "grey" or "coloured".
        resolution: side of the image in pixels.
        size: value of `len`; the training loop uses further scenes.

    Example:
        >>> scenes = Sprites("test", background="coloured")[range(4)]
        >>> scenes["image"].shape, scenes["masks"].shape
        (torch.Size([4, 3, 64, 64]), torch.Size([4, 64, 64]))
    """

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        background: Background = "grey",
        resolution: int = RESOLUTION,
        *,
        size: int = DEFAULT_SIZE,
    ):
        super().__init__(size)
        if background not in get_args(Background):
            raise ValueError(
                f"`background` (={background!r}) must be one of {', '.join(get_args(Background))}"
            )
        self.key, self.background, self.resolution = split_key(seed, split), background, resolution

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """image float32 [batch, 3, H, W] in [0, 1], masks int64 [batch, H, W] with objects from 1 (occluded
        ones absent)."""
        draws = uniform(self.key, indices, MAX_SPRITES * _DRAWS).reshape(len(indices), MAX_SPRITES, _DRAWS)
        scene_draws = uniform(self.key, indices, 4, stream=1)
        num_sprites = MIN_SPRITES + (scene_draws[:, 0] * (MAX_SPRITES - MIN_SPRITES + 1)).astype(int)
        labels = np.zeros((len(indices), self.resolution, self.resolution), np.uint8)
        for number in range(MAX_SPRITES):
            scenes = np.flatnonzero(num_sprites > number)
            covered = silhouettes_of(draws[scenes, number], self.resolution)
            labels[scenes] = np.where(covered, np.uint8(number + 1), labels[scenes])
        colors = np.empty((len(indices), MAX_SPRITES + 1, 3))
        colors[:, 0] = scene_draws[:, 1:] if self.background == "coloured" else scene_draws[:, 1:2]
        colors[:, 1:] = rgb_from_hsv(
            draws[..., 5], between(SATURATION, draws[..., 6]), between(VALUE, draws[..., 7])
        )
        return {"image": paint_labels(labels, colors), "masks": labels.astype(np.int64)}


def silhouettes_of(
    draws: Float[np.ndarray, "sprites 8"], resolution: int
) -> Bool[np.ndarray, "sprites height width"]:
    """The mask of each sprite, from its eight draws in [0, 1)."""
    kind = (draws[:, 0] * 3).astype(int)
    size, angle = between(HALF_SIZE, draws[:, 1]), 2 * np.pi * draws[:, 2]
    return silhouettes(
        kind, size, angle, between(CENTRE, draws[:, 3]), between(CENTRE, draws[:, 4]), resolution
    )

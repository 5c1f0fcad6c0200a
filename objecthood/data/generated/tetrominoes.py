"""Generated scenes of tetrominoes on black, 35 x 35 pixels, modelled on the published Tetrominoes.

The published set (Kabra et al. 2019, multi_object_datasets) has 17 shapes and orientations; here are all 19
fixed tetrominoes of 5 x 5 pixel blocks, without overlap, at any pixel, in independent colours of the
published set (equal colours may touch). Scores are not comparable.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Bool, Int, UInt64

from objecthood.data.randomness import split_key, uniform
from objecthood.data.scene import DEFAULT_SIZE, EndlessDataset, paint_labels

RESOLUTION = 35
BLOCK = 5
MAX_PIECES = 5
COLORS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)], np.float32)
_SHAPES = {
    "I": [(0, 0), (0, 1), (0, 2), (0, 3)],
    "O": [(0, 0), (0, 1), (1, 0), (1, 1)],
    "T": [(0, 0), (0, 1), (0, 2), (1, 1)],
    "S": [(0, 1), (0, 2), (1, 0), (1, 1)],
    "Z": [(0, 0), (0, 1), (1, 1), (1, 2)],
    "J": [(0, 0), (1, 0), (1, 1), (1, 2)],
    "L": [(0, 2), (1, 0), (1, 1), (1, 2)],
}


class Tetrominoes(EndlessDataset):
    """Endless scenes; scene i is a function of split, seed and i.

    Args:
        pieces: tetrominoes in each scene, 1 to 5 (published set: 3).
        size: value of `len`; the training loop uses further scenes.

    Example:
        >>> scenes = Tetrominoes("test")[range(4)]
        >>> scenes["image"].shape, int(scenes["masks"].max())
        (torch.Size([4, 3, 35, 35]), 3)
    """

    resolution = RESOLUTION

    def __init__(self, split: str = "train", seed: int = 0, *, pieces: int = 3, size: int = DEFAULT_SIZE):
        if not 1 <= pieces <= MAX_PIECES:
            raise ValueError(f"`pieces` (={pieces}) must be 1 to {MAX_PIECES}")
        super().__init__(size)
        self.key, self.pieces = split_key(seed, split), pieces

    def make(self, indices: Int[np.ndarray, " scenes"]) -> dict[str, np.ndarray]:
        """image float32 [batch, 3, 35, 35] in [0, 1], masks int64 [batch, 35, 35] with objects 1 to
        `pieces`."""
        pieces, _ = placements()
        chosen = self._choose(indices)
        labels = sum(pieces[chosen[:, number]] * np.uint8(number + 1) for number in range(self.pieces))
        colors = np.zeros((len(indices), self.pieces + 1, 3), np.float32)
        colors[:, 1:] = COLORS[(uniform(self.key, indices, self.pieces) * len(COLORS)).astype(int)]
        return {"image": paint_labels(labels, colors), "masks": labels.astype(np.int64)}

    def _choose(self, indices: np.ndarray) -> Int[np.ndarray, "scenes pieces"]:
        """Rejection sampling of placements without overlap: uniform over all valid ones."""
        _, packed = placements()
        chosen = np.zeros((len(indices), self.pieces), np.int64)
        open_scenes, attempt = np.arange(len(indices)), 1
        while len(open_scenes):
            draws = uniform(self.key, indices[open_scenes], self.pieces, stream=attempt)
            trial = (draws * len(packed)).astype(np.int64)
            taken = packed[trial[:, 0]]
            overlap = np.zeros(len(trial), bool)
            for number in range(1, self.pieces):
                piece = packed[trial[:, number]]
                overlap |= (taken & piece).any(axis=1)
                taken = taken | piece
            chosen[open_scenes[~overlap]] = trial[~overlap]
            open_scenes, attempt = open_scenes[overlap], attempt + 1
        return chosen


@cache
def placements() -> tuple[Bool[np.ndarray, "placements 35 35"], UInt64[np.ndarray, "placements words"]]:
    """Every tetromino at every position in the image, as masks and packed into 64-bit words."""
    masks = []
    for shape in fixed_shapes():
        height, width = (shape.max(axis=0) + 1) * BLOCK
        stamp = np.zeros((height, width), bool)
        for row, column in shape * BLOCK:
            stamp[row : row + BLOCK, column : column + BLOCK] = True
        for top in range(RESOLUTION - height + 1):
            for left in range(RESOLUTION - width + 1):
                mask = np.zeros((RESOLUTION, RESOLUTION), bool)
                mask[top : top + height, left : left + width] = stamp
                masks.append(mask)
    pieces = np.stack(masks)
    num_bytes = 8 * -(-(RESOLUTION * RESOLUTION) // 64)
    packed = np.zeros((len(pieces), num_bytes), np.uint8)
    bits = np.packbits(pieces.reshape(len(pieces), -1), axis=1)
    packed[:, : bits.shape[1]] = bits
    return pieces, packed.view(np.uint64)


@cache
def fixed_shapes() -> list[Int[np.ndarray, "blocks 2"]]:
    """The 19 fixed tetrominoes: (row, column) of four blocks, from the corner (0, 0)."""
    shapes = {}
    for blocks in _SHAPES.values():
        turned = np.array(blocks)
        for _ in range(4):
            turned = np.stack([turned[:, 1], -turned[:, 0]], axis=1)
            turned = turned - turned.min(axis=0)
            shapes[tuple(sorted(map(tuple, turned.tolist())))] = turned
    return list(shapes.values())

"""Surface colours of a CLEVR-like scene: CLEVR's colours, or procedural textures.

The eight colours are those of Johnson et al. 2017 (`properties.json`), grey levels / 255 taken as linear
light, as their Blender scenes do. Patterns are functions of a point in space: checks, stripes, spots, waves,
marble.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from objecthood.data.clevr_render.meshes import Mesh
from objecthood.data.clevr_render.scene import ClevrScene
from objecthood.data.randomness import uniform

RGB = np.array(
    [
        *((87, 87, 87), (173, 35, 35), (42, 75, 215), (29, 105, 20)),
        *((129, 74, 25), (129, 38, 192), (41, 208, 208), (255, 238, 51)),
    ]
) / np.float64(255)
GROUND = 0.8  # reflectance
_STREAM, _DRAWS = 1_000_003, 16  # of random numbers, beyond the streams that arrangements use
# Cycles per unit of length, coarsest and finest; finer than 2 would not survive 20 pixels per unit.
FREQUENCIES = (0.35, 1.6)


def object_colors(
    scene: ClevrScene, mesh: Mesh, key: int, index: int, textured: bool
) -> Float[np.ndarray, "vertices 3"]:
    """Linear colour of every vertex; textured, each object's own colour mixed with another by a pattern."""
    plain = RGB[scene.colors[mesh.owners]]
    if not textured:
        return plain
    draws = uniform(key, np.array([index]), (1 + len(scene)) * _DRAWS, stream=_STREAM).reshape(-1, _DRAWS)
    colors = np.empty_like(plain)
    for number in range(len(scene)):
        mine = mesh.owners == number
        draw = draws[1 + number]
        points = (mesh.vertices[mine] - scene.positions[number]) / scene.radii[number]
        amount = pattern(points, draw) * (0.5 + 0.5 * draw[0])
        colors[mine] = (1 - amount[:, None]) * plain[mine] + amount[:, None] * draw[1:4]
    return colors


def ground_colors(
    points: Float[np.ndarray, "points 3"], key: int, index: int, textured: bool
) -> Float[np.ndarray, "points 3"]:
    """Linear colour of points of the ground: grey, or two random colours mixed by a pattern."""
    if not textured:
        return np.full(points.shape, GROUND)
    draw = uniform(key, np.array([index]), _DRAWS, stream=_STREAM)[0]
    amount = pattern(points, draw)[:, None]
    return 0.15 + 0.75 * ((1 - amount) * draw[1:4] + amount * draw[13:16])


def pattern(points: Float[np.ndarray, "points 3"], draw: Float[np.ndarray, " draws"]) -> np.ndarray:
    """[points] in [0, 1]: one of five patterns, turned, scaled and shifted by entries 4 to 12 of `draw`."""
    turn, _ = np.linalg.qr(2 * draw[4:13].reshape(3, 3) - 1)
    frequency = FREQUENCIES[0] * (FREQUENCIES[1] / FREQUENCIES[0]) ** draw[10]
    phase = 2 * np.pi * (frequency * points @ turn + draw[7:10])
    kind = int(draw[12] * len(_PATTERNS))
    return _PATTERNS[kind](phase)


def _checks(phase: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 6 * np.sin(phase).prod(axis=1), 0, 1)


def _stripes(phase: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 3 * np.sin(phase[:, 0]), 0, 1)


def _spots(phase: np.ndarray) -> np.ndarray:
    return np.clip(2 * np.cos(phase).sum(axis=1) - 1, 0, 1)


def _waves(phase: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(phase[:, 0] + 1.5 * np.sin(phase[:, 1]))


def _marble(phase: np.ndarray) -> np.ndarray:
    """Sines of rising frequency, each bent by the one before."""
    bent = phase
    for octave in (1.0, 2.1, 4.3):
        bent = bent + np.sin(octave * np.roll(bent, 1, axis=1)) / octave
    return 0.5 + 0.5 * np.sin(bent.sum(axis=1))


_PATTERNS = (_checks, _stripes, _spots, _waves, _marble)

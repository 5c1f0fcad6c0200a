"""Sample the layout of a CLEVR-like scene: objects, camera and lamps, without rendering.

Johnson et al. 2017, "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning",
by the rules of its released generator (clevr-dataset-gen, `image_generation/render_images.py`). As there, an
arrangement in which an object shows too few pixels is thrown away and drawn anew under the same camera.
Differences: random numbers are a function of seed and index (`data.randomness`), and visibility is judged
at half the generator's resolution (see `clevr_render/view.py`).
"""

from __future__ import annotations

import numpy as np

from objecthood.data.clevr_properties import COLORS, EXTENT, MATERIALS, MAX_OBJECTS, SHAPES, SIZES
from objecthood.data.clevr_render.scene import RADII, ClevrScene, camera_axes
from objecthood.data.clevr_render.view import shows_everything
from objecthood.data.randomness import uniform

MIN_OBJECTS = 3

# All numbers below: clevr-dataset-gen, `properties.json`, `render_images.py` and `base_scene.blend`.
MIN_DISTANCE = 0.25  # between the circles around two objects
MARGIN = 0.4  # between two centres, along the camera's right and along its forward direction
CAMERA = (7.481, -6.508, 5.344)
LAMPS = ((6.447, -2.902, 4.258), (-4.671, -4.014, 3.011), (-1.110, 2.646, 5.834))  # key, fill, back
CAMERA_JITTER, LAMP_JITTER = 0.5, 1.0
TRIES = 50  # places tried for one object before the arrangement is thrown away
# Ten objects take 23 arrangements on average; of 200 such scenes none took more than 108.
MAX_ARRANGEMENTS = 4000
_DRAWS_PER_OBJECT = 5 + 2 * TRIES  # size, shape, colour, material, angle; then x and y of each try


def draw_scene(key: int, index: int, objects: tuple[int, int] = (MIN_OBJECTS, MAX_OBJECTS)) -> ClevrScene:
    """Scene `index` of the stream `key` (`randomness.split_key`), of `objects[0]` to `objects[1]` objects.

    The scene depends on the arguments only. It takes 2 milliseconds for 3 to 6 objects, 16 for 10.

    Raises:
        ValueError: `objects` does not lie within 3 to 10, or is upside down.
        RuntimeError: no arrangement keeps all the rules (never seen).

    Example:
        >>> scene = draw_scene(key=0, index=5, objects=(3, 6))
        >>> [COLORS[color] + " " + SHAPES[shape] for color, shape in zip(scene.colors, scene.shapes)]
        ['yellow sphere', 'gray sphere', 'brown cube', 'cyan sphere', 'cyan sphere']
    """
    check_objects(objects)
    camera, lamps, count = _draw_stage(key, index, objects)
    for arrangement in range(MAX_ARRANGEMENTS):
        draws = uniform(key, np.array([index]), count * _DRAWS_PER_OBJECT, stream=arrangement + 1)
        scene = _arrange(camera, lamps, draws.reshape(count, _DRAWS_PER_OBJECT))
        if scene is not None and shows_everything(scene):
            return scene
    raise RuntimeError(f"scene {index} of stream {key}: no arrangement of {count} objects keeps the rules")


def check_objects(objects: tuple[int, int]) -> None:
    """Raise ValueError unless `objects` is a valid range of counts."""
    least, most = objects
    if not MIN_OBJECTS <= least <= most <= MAX_OBJECTS:
        raise ValueError(
            f"`objects` (={least}-{most}) must lie within {MIN_OBJECTS} to {MAX_OBJECTS}, the smaller first"
        )


def _draw_stage(key: int, index: int, objects: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Camera, lamps and number of objects."""
    draws = uniform(key, np.array([index]), 13)[0]
    jitter = 2 * draws[:12].reshape(4, 3) - 1
    count = objects[0] + int(draws[12] * (objects[1] - objects[0] + 1))
    return CAMERA + CAMERA_JITTER * jitter[0], LAMPS + LAMP_JITTER * jitter[1:], count


def _arrange(camera: np.ndarray, lamps: np.ndarray, draws: np.ndarray) -> ClevrScene | None:
    """One arrangement, or None if an object cannot be placed."""
    sizes, shapes, colors, materials = (
        (draws[:, column] * len(names)).astype(np.int64)
        for column, names in enumerate((SIZES, SHAPES, COLORS, MATERIALS))
    )
    radii = np.array(RADII)[sizes]
    places = _place(radii, EXTENT * (2 * draws[:, 5:].reshape(len(draws), TRIES, 2) - 1), camera)
    if places is None:
        return None
    positions = np.concatenate([places, radii[:, None]], axis=1)
    angles = 2 * np.pi * draws[:, 4]
    return ClevrScene(camera, lamps, positions, angles, sizes, materials, shapes, colors)


def _place(radii: np.ndarray, tries: np.ndarray, camera: np.ndarray) -> np.ndarray | None:
    """[objects, 2]: of each object's tries [objects, tries, 2] the first that keeps distance and margin."""
    right, _, forward = camera_axes(camera)
    along = forward[:2] / np.linalg.norm(forward[:2])
    directions = np.stack([right[:2], along], axis=1)
    places = np.empty((0, 2))
    for number, radius in enumerate(radii):
        apart = tries[number][:, None] - places
        gaps = np.linalg.norm(apart, axis=2) - radius - radii[:number]
        margins = np.abs(apart @ directions).min(axis=2)
        good = np.flatnonzero(((gaps >= MIN_DISTANCE) & (margins >= MARGIN)).all(axis=1))
        if not len(good):
            return None
        places = np.concatenate([places, tries[number][good[:1]]])
    return places

"""Instance masks of a CLEVR-like scene, by casting rays at simple solids.

Exact for spheres; cubes and cylinders are taken without their bevels, which moves an edge by less than half a
pixel at 128 x 128. NumPy alone, so masks are the same whichever renderer makes the image.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from objecthood.data.clevr_properties import SHAPES
from objecthood.data.clevr_render.scene import ClevrScene, camera_axes

# The generator's image is 320 x 240 through a 35 mm lens on a 32 mm sensor; Locatello et al. 2020 (appendix
# E, after Greff et al. 2019) cut rows 29 to 221 and columns 64 to 256 from it.
FRAME_HEIGHT, FRAME_WIDTH, CROP_SIDE = 240, 320, 192
TANGENT_PER_PIXEL = 16 / 35 / 160
CROP_CENTRE = (29 + CROP_SIDE / 2, 64 + CROP_SIDE / 2)  # row, column
# At least 200 visible pixels at 320 x 240: counted on every second pixel of every second row.
MIN_PIXELS, FRAME_STEP = 200, 2


def crop_masks(scene: ClevrScene, resolution: int) -> Int[np.ndarray, "resolution resolution"]:
    """Instance masks of the paper's crop, int64: 0 background, k + 1 object k, at pixel centres."""
    offsets = ((np.arange(resolution) + 0.5) / resolution - 0.5) * CROP_SIDE
    return cast_rays(scene, offsets + CROP_CENTRE[0], offsets + CROP_CENTRE[1])


def shows_everything(scene: ClevrScene) -> bool:
    """Whether every object shows at least 200 pixels of the uncut 320 x 240 image."""
    rows, columns = (np.arange(FRAME_STEP / 2, side, FRAME_STEP) for side in (FRAME_HEIGHT, FRAME_WIDTH))
    counts = np.bincount(cast_rays(scene, rows, columns).ravel(), minlength=len(scene) + 1)
    return bool((counts[1:] * FRAME_STEP**2 >= MIN_PIXELS).all())


def project(
    scene: ClevrScene, points: Float[np.ndarray, "points 3"], resolution: int
) -> Float[np.ndarray, "points 2"]:
    """Row and column, in pixels of the crop at `resolution`, at which points of space appear."""
    x, y, depth = camera_axes(scene.camera) @ (points - scene.camera).T
    row = FRAME_HEIGHT / 2 - y / depth / TANGENT_PER_PIXEL
    column = FRAME_WIDTH / 2 + x / depth / TANGENT_PER_PIXEL
    in_frame = np.stack([row, column], axis=1) - CROP_CENTRE
    return (in_frame / CROP_SIDE + 0.5) * resolution


def cast_rays(
    scene: ClevrScene, rows: Float[np.ndarray, " height"], columns: Float[np.ndarray, " width"]
) -> Int[np.ndarray, "height width"]:
    """0, or 1 + the number of the object seen, at rows and columns given in pixels of the 320 x 240 frame."""
    right, up, forward = camera_axes(scene.camera)
    across = (columns - FRAME_WIDTH / 2) * TANGENT_PER_PIXEL
    upwards = (FRAME_HEIGHT / 2 - rows) * TANGENT_PER_PIXEL
    labels = np.zeros((len(rows), len(columns)), np.int64)
    nearest = np.full(labels.shape, np.inf)
    for number in range(len(scene)):
        window = _window(scene, number, rows, columns)
        directions = forward + across[window[1], None] * right + upwards[window[0], None, None] * up
        distance = _distance(scene, number, directions)
        closer = distance < nearest[window]
        labels[window][closer] = number + 1
        nearest[window] = np.minimum(nearest[window], distance)
    return labels


def _window(scene: ClevrScene, number: int, rows: np.ndarray, columns: np.ndarray) -> tuple[slice, slice]:
    """The part of the image that an object's surrounding sphere can touch."""
    centre, reach = scene.positions[number], scene.radii[number] * np.sqrt(3)
    x, y, depth = camera_axes(scene.camera) @ (centre - scene.camera)
    side = 1.2 * reach / (depth - reach) / TANGENT_PER_PIXEL  # 1.2: perspective stretches off the axis
    row = FRAME_HEIGHT / 2 - y / depth / TANGENT_PER_PIXEL
    column = FRAME_WIDTH / 2 + x / depth / TANGENT_PER_PIXEL
    return (
        slice(*np.searchsorted(rows, [row - side, row + side])),
        slice(*np.searchsorted(columns, [column - side, column + side])),
    )


def _distance(scene: ClevrScene, number: int, directions: np.ndarray) -> np.ndarray:
    """Distance along rays from the camera to an object, infinite where they miss it.

    In the object's own frame, turned by its angle and in units of its radius.
    """
    cosine, sine = np.cos(scene.angles[number]), np.sin(scene.angles[number])
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) / scene.radii[number]
    origin = (scene.camera - scene.positions[number]) @ turn
    solid = {"cube": _cube, "sphere": _sphere, "cylinder": _cylinder}[SHAPES[scene.shapes[number]]]
    enter, leave = solid(origin, directions @ turn)
    return np.where(enter <= leave, enter, np.inf)


def _sphere(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _round(origin, directions)


def _cube(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    enter, leave = _slabs(origin, directions)
    return enter.max(axis=-1), leave.min(axis=-1)


def _cylinder(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    enter, leave = _round(origin[:2], directions[..., :2])
    bottom, top = _slabs(origin[2:], directions[..., 2:])
    return np.maximum(enter, bottom[..., 0]), np.minimum(leave, top[..., 0])


def _slabs(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave -1 <= coordinate <= 1."""
    with np.errstate(divide="ignore"):
        first, second = (-1 - origin) / directions, (1 - origin) / directions
    return np.minimum(first, second), np.maximum(first, second)


def _round(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter and leave the unit ball (or disc, in two dimensions); (inf, -inf) where they miss."""
    a = np.square(directions).sum(axis=-1)
    b = directions @ origin
    under_root = b * b - a * (origin @ origin - 1)
    root = np.sqrt(np.maximum(under_root, 0))
    missed = under_root < 0
    return np.where(missed, np.inf, (-b - root) / a), np.where(missed, -np.inf, (root - b) / a)

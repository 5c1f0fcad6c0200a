"""Triangles of a CLEVR-like scene: bevelled cubes, spheres and bevelled cylinders joined into one mesh.

One mesh, whatever lies in the scene, because the renderer then compiles its program once and not for every
number of objects. Smooth normals come with the vertices, so few triangles do.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt32

from objecthood.data.clevr_properties import SHAPES
from objecthood.data.clevr_render.scene import ClevrScene

BEVEL = {"cube": 0.07, "cylinder": 0.07}  # radius of the rounded edges, in half edges; by eye
NUM_SEGMENTS = 48  # around; at most 0.05 pixels off the circle at 128 x 128
NUM_ARC = 4  # nodes of a quarter of a bevel
NUM_FINE = 24  # further nodes along a flat side that carries a pattern


class Mesh(NamedTuple):
    """Triangles; `owners` is the number of the object that each vertex belongs to."""

    vertices: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]
    faces: UInt32[np.ndarray, "faces 3"]
    owners: Int[np.ndarray, " vertices"]


def scene_mesh(scene: ClevrScene, fine: bool = False) -> Mesh:
    """The mesh of all objects of a scene; `fine` adds vertices on flat sides for textures."""
    parts, first = [], 0
    for number in range(len(scene)):
        vertices, normals, faces = unit_mesh(SHAPES[scene.shapes[number]], fine)
        cosine, sine = np.cos(scene.angles[number]), np.sin(scene.angles[number])
        turn = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])  # of row vectors
        placed = scene.radii[number] * vertices @ turn + scene.positions[number]
        parts.append((placed, normals @ turn, faces + np.uint32(first), np.full(len(vertices), number)))
        first += len(vertices)
    return Mesh(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@cache
def unit_mesh(shape: str, fine: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, normals and faces of a shape that fills [-1, 1]^3."""
    num_inner = NUM_FINE if fine else 0
    if shape == "cube":
        return _cube(BEVEL[shape], num_inner)
    if shape == "sphere":
        angles = np.linspace(-np.pi / 2, np.pi / 2, NUM_SEGMENTS // 2 + 1)
        profile = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return _revolve(profile, profile)
    return _revolve(*_cylinder_profile(BEVEL[shape], num_inner))


def _cube(bevel: float, num_inner: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six grids pushed onto the rounded cube: each node lies `bevel` off the inner cube, along its normal."""
    arc = (1 - bevel) + bevel * np.tan(np.linspace(0, np.pi / 4, NUM_ARC))
    inside = np.linspace(bevel - 1, 1 - bevel, num_inner + 2)[1:-1]
    nodes = np.concatenate([-arc[::-1], inside, arc])
    u, v = (grid.ravel() for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    vertices: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        for side in (-1, 1):
            points = np.empty((len(u), 3))
            points[:, axis], points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = side, u * side, v
            inner = np.clip(points, bevel - 1, 1 - bevel)
            normal = (points - inner) / np.linalg.norm(points - inner, axis=1, keepdims=True)
            faces.append(grid_faces(len(nodes), len(nodes)) + len(u) * len(vertices))
            vertices.append(inner + bevel * normal)
            normals.append(normal)
    return np.concatenate(vertices), np.concatenate(normals), np.concatenate(faces)


def _cylinder_profile(bevel: float, num_inner: int) -> tuple[np.ndarray, np.ndarray]:
    """Radius and height, and their normals, from the middle of the bottom to the middle of the top."""
    angles = np.linspace(-np.pi / 2, 0, NUM_ARC)
    low = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    normals = np.concatenate([low, low[::-1] * [1, -1]])
    inner = np.where(np.arange(len(normals))[:, None] < NUM_ARC, [1 - bevel, bevel - 1], 1 - bevel)
    edge = inner + bevel * normals
    cap = np.linspace([0.0, -1.0], [1 - bevel, -1.0], num_inner + 2)[:-1]
    side = np.linspace([1.0, bevel - 1], [1.0, 1 - bevel], num_inner + 2)[1:-1]
    profile = np.concatenate([cap, edge[:NUM_ARC], side, edge[NUM_ARC:], cap[::-1] * [1, -1]])
    down, out = np.broadcast_to([0.0, -1.0], cap.shape), np.broadcast_to([1.0, 0.0], side.shape)
    return profile, np.concatenate([down, normals[:NUM_ARC], out, normals[NUM_ARC:], -down])


def _revolve(profile: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn a line of (radius, height) around the vertical."""
    angles = np.linspace(0, 2 * np.pi, NUM_SEGMENTS + 1)

    def around(line: np.ndarray) -> np.ndarray:
        x, y = np.outer(np.cos(angles), line[:, 0]), np.outer(np.sin(angles), line[:, 0])
        return np.stack([x, y, np.broadcast_to(line[:, 1], x.shape)], axis=2).reshape(-1, 3)

    return around(profile), around(normals), grid_faces(len(angles), len(profile))


def grid_faces(rows: int, columns: int) -> UInt32[np.ndarray, "faces 3"]:
    """Two triangles for each cell of a grid of nodes, counter-clockwise where rows x columns points out."""
    node = np.arange(rows * columns, dtype=np.uint32).reshape(rows, columns)
    corner = [part.ravel() for part in (node[:-1, :-1], node[1:, :-1], node[1:, 1:], node[:-1, 1:])]
    return np.concatenate([np.stack(corner[:3], axis=1), np.stack([corner[0], corner[2], corner[3]], axis=1)])

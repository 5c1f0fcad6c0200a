"""The description of a CLEVR-like scene: objects, camera and lamps, in the units of CLEVR's generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

RADII = (0.7, 0.35)  # radius of spheres and cylinders, half the height of cylinders, half the edge of cubes


@dataclass(frozen=True)
class ClevrScene:
    """One scene. Lengths are in the generator's units; z points up, the floor is z = 0.

    `sizes`, `materials`, `shapes` and `colors` number the names in `clevr_properties`; `angles` are in
    radians, around the vertical.
    """

    camera: Float[np.ndarray, " 3"]
    lamps: Float[np.ndarray, "3 3"]
    positions: Float[np.ndarray, "objects 3"]
    angles: Float[np.ndarray, " objects"]
    sizes: Integer[np.ndarray, " objects"]
    materials: Integer[np.ndarray, " objects"]
    shapes: Integer[np.ndarray, " objects"]
    colors: Integer[np.ndarray, " objects"]

    @property
    def radii(self) -> Float[np.ndarray, " objects"]:
        """Radius, or half the edge."""
        return np.array(RADII)[self.sizes]

    def __len__(self) -> int:
        return len(self.positions)


def camera_axes(camera: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Unit vectors right, up and forward of a camera that looks at the origin."""
    forward = -camera / np.linalg.norm(camera)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])

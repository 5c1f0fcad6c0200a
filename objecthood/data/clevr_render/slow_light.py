"""The slow renderer of CLEVR-like scenes: mitsuba's path tracer, used without LLVM.

Same lamps, sun and materials as `clevr_light.py`, to which it is the fallback. Lamps and sun are points that
take another place on the lamp in each pass. Matt surfaces are taken from passes in which metal is
matt too, as they would otherwise show the specks of light that metal throws, and are smoothed afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from objecthood.data.clevr_render import light as clevr_light
from objecthood.data.clevr_render.scene import ClevrScene
from objecthood.data.clevr_render.view import (
    CROP_CENTRE,
    CROP_SIDE,
    FRAME_HEIGHT,
    TANGENT_PER_PIXEL,
    crop_masks,
)
from objecthood.data.randomness import uniform

MIRROR_PASSES, SAMPLES = 4, 16  # samples per pass
AIR = 0.02  # a sky; half the fast renderer's, as light bounces off it here too


def trace(meshes: list[Any], scene: ClevrScene, resolution: int, seed: int) -> clevr_light.Light:
    """Trace the paper's crop of a scene given as two meshes: with metal that mirrors, and with matt metal.

    The same arguments give the same bits on one machine.
    """
    draws = 2 * uniform(seed, np.arange(MIRROR_PASSES), 8, stream=7) - 1
    picture = {"type": "path", "max_depth": 3, "hide_emitters": True}
    features = {"type": "aov", "aovs": "normal:sh_normal,color:albedo", "picture": picture}
    shining = _render(meshes[0], scene, resolution, seed, draws, [picture] * MIRROR_PASSES)
    matt = _render(meshes[1], scene, resolution, seed, draws[:2], [picture, features])
    is_metal = np.append(0, scene.materials)[crop_masks(scene, resolution)][..., None].astype(np.float32)
    return clevr_light.Light(
        sharp=is_metal * np.mean(shining, axis=0),
        bounced=(1 - is_metal) * np.mean([one[..., :3] for one in matt], axis=0),
        normals=matt[-1][..., 3:6],
        albedo=(1 - is_metal) * matt[-1][..., 6:9],
    )


def _render(
    mesh: Any,
    scene: ClevrScene,
    resolution: int,
    seed: int,
    draws: Float[np.ndarray, "passes 8"],
    integrators: list[dict[str, Any]],
) -> list[Float[np.ndarray, "height width channels"]]:
    """Linear RGB of each pass and, where its integrator gives them, normal and matt colour."""
    _, mi = clevr_light.libraries()
    camera, pictures = _camera(scene, resolution), []
    for number, (draw, integrator) in enumerate(zip(draws, integrators, strict=True)):
        parts = {"type": "scene", "mesh": mesh, "integrator": integrator, "camera": camera}
        loaded = mi.load_dict(parts | _lights(scene, draw), optimize=False)
        pictures.append(
            np.array(mi.render(loaded, seed=(MIRROR_PASSES * seed + number) % 2**32, spp=SAMPLES))
        )
    return pictures


def _lights(scene: ClevrScene, draw: Float[np.ndarray, " 8"]) -> dict[str, Any]:
    """Three lamps as points somewhere on their squares, the sun as a direction, and the sky."""
    half, spread = clevr_light.LAMP_SIDE / 2, clevr_light.SUN_SPREAD / 2
    parts: dict[str, Any] = {"sky": {"type": "constant", "radiance": AIR}}
    for number, (place, power) in enumerate(zip(scene.lamps, clevr_light.LAMP_POWERS, strict=True)):
        edge = np.cross(place, [0.0, 0.0, 1.0])
        other = np.cross(edge, place)
        across, upwards = half * draw[2 * number : 2 * number + 2]
        point = place + across * edge / np.linalg.norm(edge) + upwards * other / np.linalg.norm(other)
        parts[f"lamp{number}"] = {"type": "point", "position": point.tolist(), "intensity": power / np.pi}
    x, y, z = clevr_light.SUN_DIRECTION
    away = [-x - spread * float(draw[6]), -y - spread * float(draw[7]), -z]
    parts["sun"] = {"type": "directional", "direction": away, "irradiance": clevr_light.SUN}
    return parts


def _camera(scene: ClevrScene, resolution: int) -> dict[str, Any]:
    """The camera of `view.py` in mitsuba's terms."""
    _, mi = clevr_light.libraries()
    film = {
        "type": "hdrfilm",
        "width": resolution,
        "height": resolution,
        "rfilter": {"type": "tent", "radius": clevr_light.PIXEL_RADIUS},
        "pixel_format": "rgb",
        "component_format": "float32",
    }
    place = scene.camera.tolist()
    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(CROP_SIDE / 2 * TANGENT_PER_PIXEL))),
        "principal_point_offset_y": (CROP_CENTRE[0] - FRAME_HEIGHT / 2) / CROP_SIDE,
        "to_world": mi.ScalarTransform4f().look_at(origin=place, target=[0, 0, 0], up=[0, 0, 1]),
        "film": film,
        "sampler": {"type": "multijitter", "sample_count": SAMPLES},
    }

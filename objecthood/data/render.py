"""Pictures of CLEVR-like scenes by mitsuba 3 (Jakob et al. 2022, "Dr.Jit"), at the paper's crop.

With LLVM 19 or newer `data/clevr_light.py` traces whole pictures in one compiled program; without, mitsuba's
own path tracer makes nearly the same pictures, many times slower. The look was matched to published pictures:
grey ground, soft shadows, gloss, metal that mirrors lamps and neighbours, bevelled edges. The tone curve is
sRGB, as in the Blender scenes of Johnson et al. 2017. What differs from theirs: `docs/clevr-like.md`.
"""

from __future__ import annotations

import glob
import os
import re
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from objecthood.data import clevr_light
from objecthood.data.clevr_meshes import Mesh, grid_faces, scene_mesh
from objecthood.data.clevr_scenes import ClevrScene
from objecthood.data.clevr_textures import ground_colors, object_colors
from objecthood.data.clevr_view import (
    CROP_CENTRE,
    CROP_SIDE,
    FRAME_HEIGHT,
    TANGENT_PER_PIXEL,
    crop_masks,
)

Background = Literal["plain", "textured"]
# Principled material (Burley 2012). By eye: some of the metal's light is matt, or its tops come out black.
METALLIC, ROUGHNESS = (0.0, 0.8), (0.6, 0.25)  # of rubber and metal
GROUND_ROUGHNESS = 0.9
GROUND_SIDE, TEXTURED_NODES = 60.0, 320  # half side; nodes along the part of it that can be seen
VISIBLE_SIDE = 16.0  # half side of that part
LEAST_LLVM = 19  # 14 and 16 crash while they generate code for mitsuba 3.9
LLVM_PLACES = (
    "/usr/lib/*/libLLVM*.so*",
    "/usr/lib*/llvm*/lib*/libLLVM*.so*",
    "/usr/lib*/libLLVM*.so*",
    "/usr/local/lib/libLLVM*.so*",
    "/opt/homebrew/opt/llvm*/lib/libLLVM*.dylib",
    "/usr/local/opt/llvm*/lib/libLLVM*.dylib",
)
SCALAR_SAMPLES = 64
EVEN = 0.9  # length of a pixel's mean normal above which it shows one surface
NEIGHBOURS = (-4, -2, 0, 2, 4)  # pixels; over which bounced light is averaged


class RenderError(RuntimeError):
    """Mitsuba is missing, or cannot be used. One line that says what to do."""


def render_picture(
    scene: ClevrScene, key: int, index: int, resolution: int = 128, background: str = "plain"
) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """One picture of the paper's crop, sRGB. The same arguments give the same bits on one machine.

    Args:
        scene: what `clevr_scenes.draw_scene(key, index)` drew.
        key, index: seed the grain (of which hardly any is left) and the textures.
        resolution: side in pixels.
        background: "plain" is CLEVR's grey ground; "textured" covers ground and objects with patterns.

    Raises:
        RenderError: mitsuba is not installed.
        ValueError: unknown background.
    """
    if background not in get_args(Background):
        raise ValueError(f"`background` (={background!r}) must be one of {', '.join(get_args(Background))}")
    variant, _ = choose_variant()
    mesh_scene = mitsuba_scene(scene, key, index, background, resolution)
    seed = 1_000_003 * key + index
    if variant == "scalar_rgb":
        return encode(_path_traced(mesh_scene, seed))
    light = clevr_light.trace(mesh_scene, scene, resolution, seed)
    return encode(light.sharp + smooth(light, crop_masks(scene, resolution)))


@cache
def choose_variant() -> tuple[str, str]:
    """Set mitsuba's variant: its name, and a line for the user on which it is and how to get the faster one.

    `OBJECTHOOD_RENDERER` = "llvm" or "scalar" forces one.

    Raises:
        RenderError: mitsuba is not installed, or the variant asked for cannot be had.
    """
    try:
        import mitsuba as mi
    except ImportError as error:
        raise RenderError(
            "rendering needs mitsuba, which is not installed; run: pip install 'objecthood[render]'"
        ) from error
    wanted = os.environ.get("OBJECTHOOD_RENDERER", "")
    library = None if wanted == "scalar" else find_llvm()
    if library is None and wanted == "llvm":
        raise RenderError(f"no libLLVM {LEAST_LLVM} or newer was found; set DRJIT_LIBLLVM_PATH to its file")
    if library is None:
        mi.set_variant("scalar_rgb")
        return "scalar_rgb", (
            f"renderer: mitsuba scalar_rgb, slow; for a picture in a tenth of the time install LLVM "
            f"{LEAST_LLVM} or newer (Debian: apt install libllvm19), or set DRJIT_LIBLLVM_PATH to its file"
        )
    os.environ["DRJIT_LIBLLVM_PATH"] = library
    mi.set_variant("llvm_ad_rgb")
    return "llvm_ad_rgb", f"renderer: mitsuba llvm_ad_rgb with {os.path.basename(library)}"


def find_llvm() -> str | None:
    """The newest libLLVM that mitsuba can use: DRJIT_LIBLLVM_PATH, else one in the usual places."""
    named = os.environ.get("DRJIT_LIBLLVM_PATH")
    if named and os.path.exists(named):
        return named
    found = [path for place in LLVM_PLACES for path in glob.glob(place)]
    usable = [path for path in found if _llvm_version(path) >= LEAST_LLVM]
    return max(usable, key=_llvm_version, default=None)


def mitsuba_scene(scene: ClevrScene, key: int, index: int, background: str, resolution: int) -> Any:
    """The scene as one mesh, ground included; in the scalar variant also lamps, sun, sky and camera."""
    _, mi = clevr_light.libraries()
    variant, _ = choose_variant()
    parts: dict[str, Any] = {"type": "scene", "mesh": _mesh(scene, key, index, background)}
    if variant == "scalar_rgb":
        parts |= _scalar_parts(scene, resolution)
    return mi.load_dict(parts, optimize=False)


def smooth(
    light: clevr_light.Light, masks: Int[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width 3"]:
    """The bounced light, its grain averaged away.

    Before colour, averaged over neighbours (`NEIGHBOURS`) on the same object that face the same way. Pixels
    on an edge, where normals of several surfaces cancel, stay as they are: no grain shows there, jags would.
    """
    facing = np.linalg.norm(light.normals, axis=2)
    matt = (light.albedo.max(axis=2) > 0.01) & (facing > EVEN)
    arriving = light.bounced / np.maximum(light.albedo, 0.01)
    total, weights = np.zeros_like(arriving), np.zeros((*masks.shape, 1), np.float32)
    for row in NEIGHBOURS:
        for column in NEIGHBOURS:
            here, there = _overlap(masks.shape, row, column)
            cosine = np.maximum(np.einsum("hwc,hwc->hw", light.normals[here], light.normals[there]), 0)
            alike = np.square(np.square(np.square(cosine)))
            weight = (alike * ((masks[here] == masks[there]) & matt[there]))[..., None]
            total[here] += weight * arriving[there]
            weights[here] += weight
    return np.where(matt[..., None], light.albedo * total / np.maximum(weights, 1e-6), light.bounced)


def encode(linear: Float[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
    """Linear light -> sRGB (IEC 61966-2-1), 8 bits."""
    linear = np.clip(linear, 0, 1)
    curve = np.where(linear < 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (curve * 255 + 0.5).astype(np.uint8)


def _llvm_version(path: str) -> int:
    """Main version in a name like libLLVM.so.19.1, libLLVM-19.so, llvm-19/lib/libLLVM.so; 0 where none is."""
    versions = re.findall(r"(?:libLLVM\.so\.|libLLVM-|llvm-|llvm@)(\d+)", path)
    # Rust ships its own build under such a name; it lacks parts.
    return 0 if "rust" in path else max(map(int, versions), default=0)


def _overlap(shape: tuple[int, int], row: int, column: int) -> tuple[Any, Any]:
    """Slices of two pictures of which the second is moved by row and column, where both exist."""

    def along(side: int, step: int) -> tuple[slice, slice]:
        return slice(max(0, -step), side - max(0, step)), slice(max(0, step), side - max(0, -step))

    (rows, moved_rows), (columns, moved_columns) = along(shape[0], row), along(shape[1], column)
    return (rows, columns), (moved_rows, moved_columns)


def _mesh(scene: ClevrScene, key: int, index: int, background: str) -> Any:
    _, mi = clevr_light.libraries()
    textured = background == "textured"
    objects, ground = scene_mesh(scene, fine=textured), _ground(TEXTURED_NODES if textured else 2)
    first = len(objects.vertices)
    colors = (
        object_colors(scene, objects, key, index, textured),
        ground_colors(ground.vertices, key, index, textured),
    )
    kinds = scene.materials[objects.owners]
    attributes = {
        "vertex_color": np.concatenate(colors),
        "vertex_metallic": np.append(np.take(METALLIC, kinds), np.zeros(len(ground.vertices))),
        "vertex_roughness": np.append(
            np.take(ROUGHNESS, kinds), np.full(len(ground.vertices), GROUND_ROUGHNESS)
        ),
    }
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(_MATERIAL)
    vertices = np.concatenate([objects.vertices, ground.vertices])
    faces = np.concatenate([objects.faces, ground.faces + np.uint32(first)])
    mesh = mi.Mesh("scene", len(vertices), len(faces), has_vertex_normals=True, props=properties)
    arrays = mi.traverse(mesh)
    arrays["vertex_positions"] = _flat(vertices)
    arrays["vertex_normals"] = _flat(np.concatenate([objects.normals, ground.normals]))
    arrays["faces"] = faces.ravel()
    arrays.update()
    for name, values in attributes.items():
        mesh.add_attribute(name, values.size // len(vertices), _flat(values))
    return mesh


_MATERIAL = {
    "type": "principled",
    "base_color": {"type": "mesh_attribute", "name": "vertex_color"},
    "metallic": {"type": "mesh_attribute", "name": "vertex_metallic"},
    "roughness": {"type": "mesh_attribute", "name": "vertex_roughness"},
    "specular": 0.5,
}


def _ground(nodes: int) -> Mesh:
    """The ground as a grid, fine in the part that is seen."""
    line = np.linspace(-VISIBLE_SIDE, VISIBLE_SIDE, nodes)
    line = np.concatenate([[-GROUND_SIDE], line, [GROUND_SIDE]])
    x, y = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    vertices = np.stack([x, y, np.zeros_like(x)], axis=1)
    normals = np.broadcast_to([0.0, 0.0, 1.0], vertices.shape)
    return Mesh(vertices, normals, grid_faces(len(line), len(line)), np.zeros(len(x), np.int64))


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32).ravel()


def _scalar_parts(scene: ClevrScene, resolution: int) -> dict[str, Any]:
    """Lamps, sun, sky, camera and path tracer of the slow variant, with the numbers of the fast one."""
    _, mi = clevr_light.libraries()
    transform = mi.ScalarTransform4f()
    half = clevr_light.LAMP_SIDE / 2
    parts: dict[str, Any] = {
        f"lamp{number}": {
            "type": "rectangle",
            "to_world": transform.look_at(origin=place.tolist(), target=[0, 0, 0], up=[0, 0, 1])
            @ transform.scale([half, half, 1]),
            "emitter": {"type": "area", "radiance": power / (np.pi * clevr_light.LAMP_SIDE**2)},
        }
        for number, (place, power) in enumerate(zip(scene.lamps, clevr_light.LAMP_POWERS, strict=True))
    }
    towards = clevr_light.SUN_DIRECTION
    parts["sun"] = {
        "type": "directional",
        "direction": [-x for x in towards],
        "irradiance": clevr_light.SUN,
    }
    parts["sky"] = {"type": "constant", "radiance": clevr_light.AIR}
    parts["integrator"] = {"type": "path", "max_depth": 3, "hide_emitters": True}
    parts["camera"] = {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(CROP_SIDE / 2 * TANGENT_PER_PIXEL))),
        "principal_point_offset_y": (FRAME_HEIGHT / 2 - CROP_CENTRE[0]) / CROP_SIDE,
        "to_world": transform.look_at(origin=scene.camera.tolist(), target=[0, 0, 0], up=[0, 0, 1]),
        "film": {
            "type": "hdrfilm",
            "width": resolution,
            "height": resolution,
            "rfilter": {"type": "tent", "radius": clevr_light.PIXEL_RADIUS},
            "pixel_format": "rgb",
            "component_format": "float32",
        },
        "sampler": {"type": "multijitter", "sample_count": SCALAR_SAMPLES},
    }
    return parts


def _path_traced(mesh_scene: Any, seed: int) -> Float[np.ndarray, "height width 3"]:
    """Mitsuba's path tracer; pixels far brighter than their neighbours' median are caustics, and cut."""
    _, mi = clevr_light.libraries()
    picture = np.array(mi.render(mesh_scene, seed=seed % 2**32, spp=SCALAR_SAMPLES))
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    shifted = [padded[row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return np.minimum(picture, 1.5 * np.median(shifted, axis=0) + 0.02)

"""Images of CLEVR-like scenes by mitsuba 3 (Jakob et al. 2022, "Dr.Jit"), at the paper's crop.

With LLVM 19 or newer `clevr_light.py` traces whole images in one compiled program; without,
`clevr_slow_light.py` makes nearly the same images, many times slower. The look was matched to published
images of Johnson et al. 2017: grey floor, soft shadows, gloss, metal that mirrors lamps and neighbours,
bevelled edges, sRGB.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8

from objecthood.data.clevr_render import light as clevr_light
from objecthood.data.clevr_render import slow_light
from objecthood.data.clevr_render.meshes import Mesh, grid_faces, scene_mesh
from objecthood.data.clevr_render.scene import ClevrScene
from objecthood.data.clevr_render.textures import ground_colors, object_colors
from objecthood.data.clevr_render.view import crop_masks

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
    os.path.join(sys.prefix, "lib", "libLLVM*.so*"),  # of the wheel karellen-llvm-core
)
EVEN = 0.9  # length of a pixel's mean normal above which it shows one surface
SPARSE, DENSE = (-4, -2, 0, 2, 4), (-2, -1, 0, 1, 2)  # pixels over which light is averaged, of 128


class RenderError(ValueError):
    """Mitsuba is missing, or cannot be used. One line that says what to do."""


def render_image(
    scene: ClevrScene, key: int, index: int, resolution: int = 128, background: str = "plain"
) -> UInt8[np.ndarray, "resolution resolution 3"]:
    """One image of the paper's crop, sRGB. The same arguments give the same bits on one machine.

    Args:
        scene: what `arrangement.draw_scene(key, index)` drew.
        key, index: seed the grain (of which hardly any is left) and the textures.
        resolution: side in pixels.
        background: "plain" is CLEVR's grey floor; "textured" puts textures on floor and objects.

    Raises:
        RenderError: mitsuba is not installed.
        ValueError: unknown background.
    """
    if background not in get_args(Background):
        raise ValueError(f"`background` (={background!r}) must be one of {', '.join(get_args(Background))}")
    variant, _ = choose_variant()
    seed = 1_000_003 * key + index
    if variant == "scalar_rgb":
        meshes = [_mesh(scene, key, index, background, mirrors) for mirrors in (True, False)]
        light = slow_light.trace(meshes, scene, resolution, seed)
        return encode(light.sharp + smooth(light, crop_masks(scene, resolution), DENSE))
    light = clevr_light.trace(_mesh(scene, key, index, background), scene, resolution, seed)
    return encode(light.sharp + smooth(light, crop_masks(scene, resolution), SPARSE))


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
            f"renderer: mitsuba scalar_rgb, slow; for an image in a twentieth of the time install LLVM "
            f"{LEAST_LLVM} or newer (Debian: apt install libllvm19; Linux on x86: pip install "
            f"karellen-llvm-core), or set DRJIT_LIBLLVM_PATH to its file"
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


def smooth(
    light: clevr_light.Light, masks: Int[np.ndarray, "height width"], neighbours: tuple[int, ...]
) -> Float[np.ndarray, "height width 3"]:
    """The indirect light, denoised.

    Before colour, averaged over pixels, so many rows and columns away, of the same object that face the same
    way. Pixels on an edge, where normals of several surfaces cancel, stay as they are: no grain shows there,
    jags would.
    """
    facing = np.linalg.norm(light.normals, axis=2)
    matt = (light.albedo.max(axis=2) > 0.01) & (facing > EVEN)
    arriving = light.bounced / np.maximum(light.albedo, 0.01)
    total, weights = np.zeros_like(arriving), np.zeros((*masks.shape, 1), np.float32)
    for row in neighbours:
        for column in neighbours:
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
    """Slices of two images of which the second is moved by row and column, where both exist."""

    def along(side: int, step: int) -> tuple[slice, slice]:
        return slice(max(0, -step), side - max(0, step)), slice(max(0, step), side - max(0, -step))

    (rows, moved_rows), (columns, moved_columns) = along(shape[0], row), along(shape[1], column)
    return (rows, columns), (moved_rows, moved_columns)


def _mesh(scene: ClevrScene, key: int, index: int, background: str, mirrors: bool = True) -> Any:
    """The scene as one mesh of mitsuba's, ground included; without `mirrors`, metal is as matt as rubber."""
    _, mi = clevr_light.libraries()
    textured = background == "textured"
    objects, ground = scene_mesh(scene, fine=textured), _ground(TEXTURED_NODES if textured else 2)
    first = len(objects.vertices)
    colors = (
        object_colors(scene, objects, key, index, textured),
        ground_colors(ground.vertices, key, index, textured),
    )
    kinds = scene.materials[objects.owners] if mirrors else np.zeros(first, np.int64)
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
    """The floor as a grid, fine in its visible part."""
    line = np.linspace(-VISIBLE_SIDE, VISIBLE_SIDE, nodes)
    line = np.concatenate([[-GROUND_SIDE], line, [GROUND_SIDE]])
    x, y = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
    vertices = np.stack([x, y, np.zeros_like(x)], axis=1)
    normals = np.broadcast_to([0.0, 0.0, 1.0], vertices.shape)
    return Mesh(vertices, normals, grid_faces(len(line), len(line)), np.zeros(len(x), np.int64))


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32).ravel()

"""The fast renderer of CLEVR-like scenes: ray tracing with three lamps, a soft sun and one bounce.

What Johnson et al. 2017 let Blender do with 512 samples a pixel is done here with 24: every lamp is asked at
every point, so that no chance decides which; mirrored neighbours are shaded without gloss and matt surfaces
see no caustics, which is where grain comes from (Blender's own "filter glossy" is set for the same reason);
and the light that falls on matt surfaces by the bounce is averaged over neighbouring pixels. Everything is
one compiled program, the same for all scenes. Needs a vectorised variant of mitsuba (LLVM).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from objecthood.data.clevr_render.scene import ClevrScene, camera_axes
from objecthood.data.clevr_render.view import (
    CROP_CENTRE,
    CROP_SIDE,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    TANGENT_PER_PIXEL,
)
from objecthood.data.randomness import uniform

# Strengths fitted by eye and to the mean levels of the corners of published images (106, 103, 122, 149).
LAMP_POWERS = (63.0, 22.0, 9.0)  # key, fill, back; radiance = power / (pi area)
LAMP_SIDE = 1.0  # lamps are squares that face the origin
SUN, SUN_DIRECTION, SUN_SPREAD = 0.40, (0.30, -0.20, 1.0), 0.25  # irradiance; towards it; its soft edge
BACKDROP = 0.15  # what metal mirrors above the ground: bright at the horizon, black overhead
AIR = 0.04  # light from above on matt surfaces, and on whatever is seen in a mirror
SAMPLES = 24
PIXEL_RADIUS = 0.8  # of the tent over which a pixel gathers samples
_PAIRS = 10  # pairs of random numbers per sample: pixel, 3 lamps, sun, mirror, matt, 3 lamps
_OFFSET = 1e-3  # keeps shadow rays off the surface they start from


class Light(NamedTuple):
    """Linear radiance of each pixel, and the features for denoising."""

    sharp: Float[np.ndarray, "height width 3"]
    """Lamps and sun, and all of the bounce on metal."""
    bounced: Float[np.ndarray, "height width 3"]
    """What matt surfaces give back of the bounce; noisy."""
    albedo: Float[np.ndarray, "height width 3"]
    """Colour of matt surfaces, 0 on metal."""
    normals: Float[np.ndarray, "height width 3"]


def trace(mesh: Any, scene: ClevrScene, resolution: int, seed: int) -> Light:
    """Trace the paper's crop of a scene given as one mesh of mitsuba's.

    The same arguments give the same bits on one machine.
    """
    dr, mi = libraries()
    random = _Random(resolution, seed)
    mesh_scene = mi.load_dict({"type": "scene", "mesh": mesh}, optimize=False)
    view = [mi.Vector3f(*axis) for axis in camera_axes(scene.camera).tolist()]
    camera = mi.Point3f(*scene.camera.tolist())
    lamps = [_Lamp(place, power) for place, power in zip(scene.lamps, LAMP_POWERS, strict=True)]
    # Numbers of a scene must not be compiled into the program: each scene would compile its own.
    dr.make_opaque(view, camera, [lamp.numbers for lamp in lamps])
    first = mesh_scene.ray_intersect(mi.Ray3f(camera, _pixel_directions(resolution, view, random)))
    seen = first.is_valid()
    surface = _Surface(first, seen)
    sharp = _direct(mesh_scene, surface, lamps, random)
    mirrored, weight, density = surface.mirror(random.pair())
    matt_direction = mi.warp.square_to_cosine_hemisphere(random.pair())
    onward = first.to_world(dr.select(surface.mirrors, mirrored, matt_direction))
    bounce = mi.Ray3f(first.p + first.n * _OFFSET, onward)
    arriving, free = _second(mesh_scene, bounce, surface, lamps, random)
    in_mirror = arriving + _lamps_in_mirror(bounce, free, density, lamps)
    sharp += dr.select(surface.mirrors, weight * in_mirror, 0)
    matt = seen & ~surface.mirrors
    albedo = dr.select(matt, surface.color, 0)
    bounced = albedo * arriving
    return Light(*_average([sharp, bounced, albedo, dr.select(seen, first.sh_frame.n, 0)], resolution))


def libraries() -> tuple[Any, Any]:
    """The modules drjit and mitsuba, once `render.choose_variant` has set mitsuba's variant."""
    import drjit
    import mitsuba

    return drjit, mitsuba


class _Surface:
    """A surface: diffuse colour with GGX specular reflection (Walter et al. 2007, Schlick 1994)."""

    def __init__(self, first: Any, seen: Any):
        _, mi = libraries()
        self.first, self.seen = first, seen
        self.color = first.shape.eval_attribute_3("vertex_color", first, seen)
        self.metallic = first.shape.eval_attribute_1("vertex_metallic", first, seen)
        roughness = first.shape.eval_attribute_1("vertex_roughness", first, seen)
        self.mirrors = seen & (self.metallic > 0.5)
        self.gloss = mi.MicrofacetDistribution(mi.MicrofacetType.GGX, roughness * roughness)

    def reflect(self, local: Any) -> tuple[Any, Any]:
        """Share of light from a local direction that goes to the camera, cosine included, and the density
        with which `mirror` draws that direction."""
        dr, _ = libraries()
        towards = self.first.wi
        half = dr.normalize(local + towards)
        facets, masking = self.gloss.eval(half), self.gloss.G(towards, local, half)
        shine = self._fresnel(dr.dot(local, half)) * facets * masking / (4 * dr.maximum(towards.z, 1e-3))
        density = self.gloss.pdf(towards, half) / (4 * dr.maximum(dr.dot(towards, half), 1e-4))
        return self.color * ((1 - self.metallic) * local.z / dr.pi) + shine, density

    def mirror(self, pair: Any) -> tuple[Any, Any, Any]:
        """A local direction drawn from the gloss, the share of light from there, and its density."""
        dr, mi = libraries()
        towards = self.first.wi
        half, facet_density = self.gloss.sample(towards, pair)
        local = mi.reflect(towards, half)
        cosine = dr.maximum(dr.dot(towards, half), 1e-4)
        weight = self._fresnel(cosine) * self.gloss.smith_g1(local, half)
        return local, dr.select(local.z > 0, weight, 0), facet_density / (4 * cosine)

    def _fresnel(self, cosine: Any) -> Any:
        """Metal shines in its colour, the rest in white: 4 %, as glass or plastic does."""
        dr, _ = libraries()
        straight = self.metallic * self.color + (1 - self.metallic) * 0.04
        return straight + (dr.maximum(self.metallic, 0.04) - straight) * (1 - dr.clip(cosine, 0, 1)) ** 5


class _Lamp:
    """A square lamp: its middle, normal and half edges, in mitsuba's numbers."""

    def __init__(self, place: np.ndarray, power: float):
        _, mi = libraries()
        normal = -place / np.linalg.norm(place)
        edge = np.cross(normal, [0.0, 0.0, 1.0])
        edge /= np.linalg.norm(edge)
        other = np.cross(normal, edge)
        self.radiance, self.area = power / (np.pi * LAMP_SIDE**2), LAMP_SIDE**2
        halves = [(LAMP_SIDE / 2 * vector).tolist() for vector in (edge, other)]
        self.numbers = [mi.Point3f(*place.tolist())]
        self.numbers += [mi.Vector3f(*vector) for vector in (normal.tolist(), *halves)]

    def light(self, point: Any, pair: Any) -> tuple[Any, Any, Any, Any]:
        """Direction and distance to a random place on the lamp, its density, and radiance by density."""
        dr, _ = libraries()
        middle, normal, edge, other = self.numbers
        path = middle + edge * (2 * pair.x - 1) + other * (2 * pair.y - 1) - point
        distance = dr.norm(path)
        direction = path / distance
        cosine = dr.maximum(-dr.dot(direction, normal), 0)
        density = dr.square(distance) / (self.area * dr.maximum(cosine, 1e-4))
        return direction, distance, density, dr.select(cosine > 0, self.radiance / density, 0)


class _Random:
    """Pairs of numbers in [0, 1) for every sample: the R2 sequence (Roberts 2018), shuffled and turned."""

    def __init__(self, resolution: int, seed: int):
        dr, mi = libraries()
        self.table, self.used = _table(resolution), 0
        draws = uniform(seed, np.zeros(1, np.int64), 2 * _PAIRS, stream=7)[0]
        self.turns = [mi.Float(turn) for turn in draws.tolist()]
        dr.make_opaque(self.turns)

    def pair(self) -> Any:
        dr, mi = libraries()
        numbers = [self.table[k] + self.turns[k] for k in (2 * self.used, 2 * self.used + 1)]
        self.used += 1
        return mi.Point2f(*(number - dr.floor(number) for number in numbers))


@lru_cache(maxsize=1)
def _table(resolution: int) -> list[Any]:
    """`2 * _PAIRS` arrays of one number for each sample of each pixel."""
    dr, mi = libraries()
    generator = np.random.default_rng(0)
    order = np.arange(SAMPLES)
    sequence = np.outer(order, [0.7548776662466927, 0.5698402909980532])
    table = []
    for _ in range(_PAIRS):
        shuffled = sequence[generator.permuted(np.tile(order, (resolution**2, 1)), axis=1)]
        points = (shuffled + generator.random((resolution**2, 1, 2))) % 1
        table += [mi.Float(points[..., axis].ravel().astype(np.float32)) for axis in (0, 1)]
    dr.eval(table)
    return table


def _pixel_directions(resolution: int, view: list[Any], random: _Random) -> Any:
    """Directions through the pixels of the crop, spread over each pixel by a tent."""
    dr, mi = libraries()
    pixel = dr.arange(mi.UInt32, resolution**2 * SAMPLES) // SAMPLES
    spread = mi.warp.square_to_tent(random.pair()) * PIXEL_RADIUS
    row = (mi.Float(pixel // resolution) + 0.5 + spread.y) / resolution - 0.5
    column = (mi.Float(pixel % resolution) + 0.5 + spread.x) / resolution - 0.5
    across = (column * CROP_SIDE + (CROP_CENTRE[1] - FRAME_WIDTH / 2)) * TANGENT_PER_PIXEL
    upwards = (row * -CROP_SIDE + (FRAME_HEIGHT / 2 - CROP_CENTRE[0])) * TANGENT_PER_PIXEL
    right, up, forward = view
    return dr.normalize(forward + right * across + up * upwards)


def _direct(mesh_scene: Any, surface: _Surface, lamps: list[_Lamp], random: _Random) -> Any:
    """Lamps and sun on what the camera sees, gloss included."""
    dr, mi = libraries()
    first = surface.first
    start, total = first.p + first.n * _OFFSET, mi.Color3f(0)
    for lamp in lamps:
        direction, distance, density, light = lamp.light(first.p, random.pair())
        local = first.to_local(direction)
        share, own_density = surface.reflect(local)
        lit = surface.seen & (light > 0) & (local.z > 0)
        dark = mesh_scene.ray_test(mi.Ray3f(start, direction, distance * 0.999, 0.0, []), lit)
        # Balanced with the lamps that `_lamps_in_mirror` meets (Veach 1997, power heuristic).
        rival = dr.select(surface.mirrors, dr.square(own_density), 0)
        balance = dr.square(density) / (dr.square(density) + rival)
        total += dr.select(lit & ~dark, share * light * balance, 0)
    direction = _sun(random)
    local = first.to_local(direction)
    lit = surface.seen & (local.z > 0)
    dark = mesh_scene.ray_test(mi.Ray3f(start, direction), lit)
    return total + dr.select(lit & ~dark, surface.reflect(local)[0] * SUN, 0)


def _second(
    mesh_scene: Any, bounce: Any, surface: _Surface, lamps: list[_Lamp], random: _Random
) -> tuple[Any, Any]:
    """Radiance along the bounce, as of a matt surface, and how far the bounce is free.

    Only the key lamp and the sun throw shadows here.
    """
    dr, mi = libraries()
    second = mesh_scene.ray_intersect(bounce, mi.RayFlags.All, False, surface.seen)
    hit = surface.seen & second.is_valid()
    normal = dr.select(dr.dot(second.sh_frame.n, bounce.d) < 0, second.sh_frame.n, -second.sh_frame.n)
    start = second.p + normal * _OFFSET
    irradiance = mi.Float(0)
    for number, lamp in enumerate(lamps):
        direction, distance, _, light = lamp.light(second.p, random.pair())
        lit = hit & (light > 0) & (dr.dot(direction, normal) > 0)
        dark = dr.zeros(mi.Bool)
        if number == 0:
            dark = mesh_scene.ray_test(mi.Ray3f(start, direction, distance * 0.999, 0.0, []), lit)
        irradiance += dr.select(lit & ~dark, dr.dot(direction, normal) * light, 0)
    overhead = mi.Vector3f(0, 0, 1)
    dark = mesh_scene.ray_test(mi.Ray3f(start, overhead), hit & (normal.z > 0))
    irradiance += dr.select(dark, 0, dr.maximum(normal.z, 0) * SUN)
    color = second.shape.eval_attribute_3("vertex_color", second, hit)
    backdrop = dr.select(surface.mirrors, BACKDROP * dr.clip((0.8 - bounce.d.z) / 0.4, 0, 1), AIR)
    return dr.select(hit, color * (irradiance / dr.pi + AIR), backdrop), second.t


def _lamps_in_mirror(bounce: Any, free: Any, density: Any, lamps: list[_Lamp]) -> Any:
    """Radiance of lamps that the bounce meets, by its share of the estimate in `_direct`."""
    dr, mi = libraries()
    total = mi.Float(0)
    for lamp in lamps:
        middle, normal, edge, other = lamp.numbers
        towards = -dr.dot(bounce.d, normal)
        distance = dr.dot(bounce.o - middle, normal) / towards
        place = bounce(distance) - middle
        inside = (dr.abs(dr.dot(place, edge)) < dr.squared_norm(edge)) & (
            dr.abs(dr.dot(place, other)) < dr.squared_norm(other)
        )
        lamp_density = dr.square(distance) / (lamp.area * towards)
        share = dr.square(density) / (dr.square(density) + dr.square(lamp_density))
        met = inside & (towards > 0) & (distance > 0) & (distance < free)
        total += dr.select(met, lamp.radiance * share, 0)
    return total


def _sun(random: _Random) -> Any:
    """A direction towards somewhere on the sun."""
    dr, mi = libraries()
    pair, (x, y, z) = random.pair(), SUN_DIRECTION
    return dr.normalize(mi.Vector3f(x + SUN_SPREAD * (pair.x - 0.5), y + SUN_SPREAD * (pair.y - 0.5), z))


def _average(fields: list[Any], resolution: int) -> list[Float[np.ndarray, "height width 3"]]:
    """Mean over the samples of each pixel, float32, of all fields by one run of the program."""
    dr, _ = libraries()
    dr.eval(fields)  # a sum asks for its terms at once: without this, each would trace the scene anew
    sums = [[dr.block_sum(channel, SAMPLES) for channel in field] for field in fields]
    shape = (resolution, resolution, 3)
    return [np.stack([np.array(one) for one in field], axis=-1).reshape(shape) / SAMPLES for field in sums]

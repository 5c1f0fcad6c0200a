"""CLEVR-like scenes on disk: rendered once into shards, read as a data set.

A folder holds one folder per split, with `manifest.json` and shards of 500 scenes (`00000.npz`, ...). A shard
is written under another name and then renamed, so a kill loses the shard at hand and nothing else; the same
call again goes on. Images are JPEG without colour subsampling at the highest quality that fits the budget
of bytes, masks are lossless, properties are numbers: at most about 6 KB for a scene of 128 x 128.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from objecthood.data import clevr_properties
from objecthood.data.clevr_render.arrangement import MIN_OBJECTS, check_objects, draw_scene
from objecthood.data.clevr_render.scene import ClevrScene
from objecthood.data.clevr_render.view import crop_masks
from objecthood.data.io.archives import read_arrays
from objecthood.data.io.cache import Decoded
from objecthood.data.io.images import read_image
from objecthood.data.randomness import SPLITS, split_key
from objecthood.data.scene import DecodedDataset, Scenes, check_selection
from objecthood.data.transforms import resize_majority
from objecthood.runtime.files import parse_json, replacing, try_writing

MAX_OBJECTS = clevr_properties.MAX_OBJECTS
SAMPLES = Path(__file__).parents[1] / "samples" / "clevr_like"
"""Bundled data: 256 scenes of 3 to 10 objects, split "test"."""
SHARD_SCENES = 500
QUALITIES = (95, 92, 89, 86, 82, 78)  # of JPEG; the first that fits is taken, else the last
PICTURE_BYTES = 5500 / 128**2  # budget per pixel; masks and properties take about 500 bytes more
# An object that shows less of itself than this share of the image (16 pixels of 128 x 128) is not in it.
LEAST_SHARE = 0.001
FORMAT = 1


class ClevrLikeError(ValueError):
    """A folder without matching scenes, or with damaged ones. One line."""


class Packed(NamedTuple):
    """One scene as stored in a shard."""

    picture: bytes
    masks: bytes
    coordinates: Float[np.ndarray, "10 3"]
    """In CLEVR's units; rows beyond the scene's objects are zero."""
    classes: UInt8[np.ndarray, "10 4"]
    """Size, material, shape and colour, numbered as in `clevr_properties`; 255 beyond the scene's objects."""


def render_dataset(
    out: str | os.PathLike[str],
    count: int,
    objects: tuple[int, int] = (3, 6),
    seed: int = 0,
    resolution: int = 128,
    background: str = "plain",
    split: str = "train",
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Render scenes 0 to `count` - 1 of a split into `out`/`split`; what is already there is kept.

    Scene i is a function of seed, split, objects, background and i. A larger `count` later adds scenes.

    Args:
        objects: least and most objects in a scene, within 3 to 10.
        background: "plain", or "textured" for textures on background and objects.
        progress: called with the number of scenes done and `count`, after every scene.
        say: called once with a line on which renderer is used, and how to get a faster one.

    Returns:
        The folder of the split.

    Raises:
        ClevrLikeError: the folder holds scenes made with other settings.
        RenderError: mitsuba is missing.
        ValueError: an argument out of range.
    """
    from objecthood.data.clevr_render.render import choose_variant

    check_objects(objects)
    check_selection(resolution, split)
    if count < 1:
        raise ValueError(f"`count` (={count}) must be at least 1")
    key, folder = split_key(seed, split), Path(out) / split
    variant, line = choose_variant()
    if say is not None:
        say(line)
    settings = {
        "format": FORMAT,
        "seed": seed,
        "split": split,
        "objects": list(objects),
        "resolution": resolution,
        "background": background,
    }
    shards = _resume(folder, settings)
    for first in range(0, count, SHARD_SCENES):
        size = min(SHARD_SCENES, count - first)
        name = f"{first // SHARD_SCENES:05d}.npz"
        if shards.get(name, {}).get("count", 0) < size or not (folder / name).is_file():
            scenes = []
            for index in range(first, first + size):
                scenes.append(_render(key, index, objects, resolution, background))
                if progress is not None:
                    progress(index + 1, count)
            _write(folder / name, _join(scenes))
            shards[name] = {"first": first, "count": size, "renderer": variant}
            _write(folder / "manifest.json", json.dumps({**settings, "shards": shards}, indent=1).encode())
        elif progress is not None:
            progress(first + size, count)
    return folder


class ClevrLike(DecodedDataset):
    """Rendered scenes: what `render_dataset` wrote, or the 256 that come with the package.

    Object k of a scene is row k of `properties` and label k + 1 of `masks`. An object hidden by the crop
    (fewer than 0.1 % of the pixels) keeps its row's place, but the row is zero.

    Args:
        path: the folder given to `render_dataset`.
        split: "train", "validation" or "test", if rendered.
        resolution: side of what comes out; images are averaged over area, masks take the label that
            covers most. By default as rendered.
        objects: keep scenes with so many objects, both ends included; objects outside the crop count, as in
            the paper.
        count: keep only the first so many of these.

    Attributes:
        settings: seed, objects, background and so on, as rendered.

    Raises:
        ClevrLikeError: no such split there, a damaged shard, or no scene is left.
        ValueError: an argument out of range.

    Example:
        >>> scenes = ClevrLike(objects=(3, 6), resolution=64)[[0, 1]]
        >>> [tuple(scenes[key].shape) for key in ("image", "masks", "properties")]
        [(2, 3, 64, 64), (2, 64, 64), (2, 10, 19)]
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = SAMPLES,
        split: str = "test",
        resolution: int | None = None,
        objects: tuple[int, int] = (MIN_OBJECTS, MAX_OBJECTS),
        count: int | None = None,
    ):
        check_objects(objects)
        check_selection(resolution, split)
        manifest, scenes = _read_split(Path(path), split)
        numbers = np.array([(scene.classes[:, 0] != 255).sum() for scene in scenes])
        kept = np.flatnonzero((numbers >= objects[0]) & (numbers <= objects[1]))[:count]
        if not len(kept):
            raise ClevrLikeError(
                f"{str(path)!r}: none of {len(scenes)} scenes has {objects[0]}-{objects[1]} objects"
            )
        self.settings = {name: value for name, value in manifest.items() if name != "shards"}
        super().__init__(resolution or manifest["resolution"], split)
        self._scenes = [scenes[index] for index in kept]

    def __len__(self) -> int:
        return len(self._scenes)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """image float32 [batch, 3, H, W] in [0, 1], masks int64 [batch, H, W], properties [batch, 10, 19]."""
        scenes = super().batch(indices)
        pairs = zip(indices, scenes["masks"].numpy(), strict=True)
        rows = [_properties(self._scenes[int(index)], masks) for index, masks in pairs]
        return scenes | {"properties": torch.from_numpy(np.stack(rows))}

    def decode(self, index: int) -> Decoded:
        scene, side = self._scenes[index], (self.resolution, self.resolution)
        picture = Image.fromarray(read_image(scene.picture))
        masks = _unpack_masks(scene.masks)
        return Decoded(
            np.array(picture.resize(side, Image.Resampling.BOX)),
            resize_majority(masks, self.resolution),
        )


def _render(key: int, index: int, objects: tuple[int, int], resolution: int, background: str) -> Packed:
    from objecthood.data.clevr_render.render import render_image

    scene = draw_scene(key, index, objects)
    picture = render_image(scene, key, index, resolution, background)
    return pack(scene, picture, crop_masks(scene, resolution).astype(np.uint8))


def pack(
    scene: ClevrScene,
    picture: UInt8[np.ndarray, "height width 3"],
    masks: UInt8[np.ndarray, "height width"],
) -> Packed:
    """Encode a scene as described at the top of this file."""
    for quality in QUALITIES:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
        if stream.tell() <= PICTURE_BYTES * masks.size:
            break
    coordinates = np.zeros((MAX_OBJECTS, 3), np.float32)
    coordinates[: len(scene)] = scene.positions
    classes = np.full((MAX_OBJECTS, 4), 255, np.uint8)
    classes[: len(scene)] = np.stack([scene.sizes, scene.materials, scene.shapes, scene.colors], axis=1)
    side = np.array(masks.shape, "<u2").tobytes()
    return Packed(stream.getvalue(), side + zlib.compress(masks.tobytes(), 9), coordinates, classes)


def _unpack_masks(packed: bytes) -> UInt8[np.ndarray, "height width"]:
    height, width = np.frombuffer(packed[:4], "<u2").tolist()
    try:  # no more is unpacked than there are pixels
        labels = zlib.decompressobj().decompress(packed[4:], height * width)
        return np.frombuffer(labels, np.uint8).reshape(height, width)
    except (zlib.error, ValueError) as error:
        raise ClevrLikeError(f"masks of {height} x {width} are damaged ({error}); render again") from error


def _properties(scene: Packed, masks: Integer[np.ndarray, "height width"]) -> Float[np.ndarray, "10 19"]:
    real = scene.classes[:, 0] != 255
    classes = dict(zip(clevr_properties.NAMES, scene.classes[real].T.astype(np.int64), strict=True))
    rows = clevr_properties.encode(scene.coordinates[real], classes)
    shown = np.bincount(masks.ravel(), minlength=MAX_OBJECTS + 1)[1:] / masks.size
    rows[shown < LEAST_SHARE] = 0
    return rows


def _join(scenes: list[Packed]) -> bytes:
    """Scenes as one .npz without timestamps, so that the same scenes give the same bytes."""
    stream = io.BytesIO()
    np.savez(
        stream,
        pictures=np.frombuffer(b"".join(scene.picture for scene in scenes), np.uint8),
        picture_sizes=np.array([len(scene.picture) for scene in scenes], np.int32),
        masks=np.frombuffer(b"".join(scene.masks for scene in scenes), np.uint8),
        mask_sizes=np.array([len(scene.masks) for scene in scenes], np.int32),
        coordinates=np.stack([scene.coordinates for scene in scenes]),
        classes=np.stack([scene.classes for scene in scenes]),
    )
    return stream.getvalue()


def _split(path: Path) -> list[Packed]:
    """The scenes of a shard."""
    try:
        shard = read_arrays(path)
        pictures, masks = (
            np.split(shard[name], np.cumsum(shard[sizes])[:-1])
            for name, sizes in (("pictures", "picture_sizes"), ("masks", "mask_sizes"))
        )
        rest = (shard["coordinates"], shard["classes"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ClevrLikeError(f"{str(path)!r}: damaged shard ({error}); delete it and render again") from error
    zipped = zip(pictures, masks, *rest, strict=True)
    return [Packed(picture.tobytes(), mask.tobytes(), *numbers) for picture, mask, *numbers in zipped]


def _read_split(path: Path, split: str) -> tuple[dict[str, Any], list[Packed]]:
    file = path / split / "manifest.json"
    if not file.is_file():
        there = ", ".join(name for name in SPLITS if (path / name / "manifest.json").is_file()) or "none"
        raise ClevrLikeError(
            f"{str(path)!r}: no rendered split {split!r} (there: {there}); run: objecthood data render clevr"
        )
    manifest = _read_manifest(file)
    names = sorted(manifest["shards"])
    if any(Path(name).name != name for name in names):
        raise ClevrLikeError(f"{str(file)!r}: names shards in other folders; render again")
    return manifest, [scene for name in names for scene in _split(path / split / name)]


def _read_manifest(file: Path) -> dict[str, Any]:
    """A split's manifest; ClevrLikeError where it is damaged or of another version."""
    try:
        manifest = parse_json(file.read_bytes())
        version, shards = manifest["format"], manifest["shards"]
        if not isinstance(shards, dict) or not all(isinstance(shard, dict) for shard in shards.values()):
            raise ValueError("its shards are no objects")
    except (KeyError, TypeError, ValueError) as error:
        raise ClevrLikeError(f"{str(file)!r}: is damaged ({error}); render again") from error
    if version != FORMAT:
        raise ClevrLikeError(f"{str(file)!r}: format {version!r:.60}, this version reads {FORMAT}")
    return manifest


def _resume(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Names of existing shards; creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try_writing(folder)
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    manifest = _read_manifest(file)
    for name, value in settings.items():
        if manifest.get(name) != value:
            raise ClevrLikeError(
                f"{str(folder)!r}: holds scenes with {name} {manifest.get(name)!r:.60}, not {value!r}; "
                "name another folder"
            )
    return manifest["shards"]


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content)

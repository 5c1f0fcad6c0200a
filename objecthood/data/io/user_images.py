"""A user's pictures, in whatever form they come, one after the other: files, folders, patterns, videos, a
camera, encoded bytes, arrays, tensors, Pillow pictures."""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from objecthood.data.io import frames
from objecthood.data.io.images import ImageError, find_images, read_image

_CAMERA = re.compile(r"camera(?::(\d+))?")
_NUMERIC = ("float", "bfloat", "int", "uint", "bool", "complex")


class Picture(NamedTuple):
    """One picture that can be read, now and later."""

    path: Path
    """As it was found; of a frame VIDEO#NUMBER, of a picture in memory a name alone."""
    relative: Path
    """Below the folder that was named, or the file's name; of a frame VIDEO/NUMBER."""
    read: Callable[[], UInt8[np.ndarray, "_ _ 3"]]
    source: Path
    """The file; of a frame, that of its video."""


def find_pictures(sources: Any) -> list[Picture]:
    """What `sources` (one, or an iterable) stand for; a video is one entry, to be opened by `open_frames`.

    Text is a file, folder or pattern as in `images.find_images`, a video, or "camera" ("camera:1" for the
    second); bytes are an encoded picture; arrays are uint8 [height, width, 3], tensors float [3, height,
    width] in [0, 1]. A file that comes up twice is taken once.

    Raises:
        ImageError: one that gives no picture, or none at all.
        ValueError: an array or tensor of another form.

    Example:
        >>> find_pictures(np.zeros((4, 6, 3), np.uint8))[0].read().shape
        (4, 6, 3)
    """
    found: dict[str, Picture] = {}
    for number, source in enumerate(_listed(sources), start=1):
        if isinstance(source, str | os.PathLike):
            for picture in _from_name(os.fspath(source)):
                found.setdefault(os.path.realpath(picture.path), picture)
        else:
            name = Path(f"picture-{number}")
            array = _as_array(source)
            found[f"picture {number}"] = Picture(name, name, functools.partial(np.copy, array), name)
    if not found:
        raise ImageError("no picture to look at; name pictures, folders or patterns")
    return list(found.values())


def is_video(path: Path) -> bool:
    """Whether the name is that of a video."""
    return path.suffix.lower() in frames.SUFFIXES


def open_frames(video: Picture) -> Iterator[Picture]:
    """The frames of a video, one after the other, as pictures that are held in memory."""
    stem = video.relative.with_suffix("")
    for number, frame in enumerate(frames.read_frames(video.path)):
        path = video.path.with_name(f"{video.path.name}#{number:06d}")
        yield Picture(path, stem / f"{number:06d}", functools.partial(np.copy, frame), video.path)


def _listed(sources: Any) -> Iterable[Any]:
    one = isinstance(sources, str | os.PathLike | bytes | Image.Image) or not isinstance(sources, Iterable)
    # Of numbers, only 4 axes are several images; anything else is one, or is refused with its whole shape.
    is_numeric = str(getattr(sources, "dtype", "")).removeprefix("torch.").startswith(_NUMERIC)
    return [sources] if one or (is_numeric and getattr(sources, "ndim", 4) != 4) else sources


def _from_name(name: str) -> Iterator[Picture]:
    """Files that a text stands for, each with its path below the folder that was named, or its name."""
    camera = _CAMERA.fullmatch(name)
    if camera and not os.path.exists(name):
        array = frames.read_camera(int(camera[1] or 0))
        yield Picture(Path(name), Path(name.replace(":", "-")), functools.partial(np.copy, array), Path(name))
        return
    if is_video(Path(name)) and not os.path.isdir(name):
        videos = [name] if os.path.isfile(name) else sorted(glob.glob(name, recursive=True))
        if not videos:
            raise ImageError(f"{name!r}: no such file, folder or pattern; check the spelling")
        files = [Path(video) for video in videos]
    else:
        files = find_images([name])
    for file in files:
        relative = file.relative_to(name) if os.path.isdir(name) else Path(file.name)
        yield Picture(file, relative, functools.partial(read_image, file), file)


def _as_array(source: Any) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit RGB of a picture in memory."""
    if isinstance(source, bytes):
        return read_image(source)
    if isinstance(source, Image.Image) and source.width and source.height:
        return np.array(source.convert("RGB"))
    shape, kind = tuple(getattr(source, "shape", ())), str(getattr(source, "dtype", type(source).__name__))
    if kind == "uint8" and len(shape) == 3 and shape[2] == 3 and min(shape) > 0:
        return np.array(source)
    if "float" in kind and len(shape) == 3 and shape[0] == 3 and min(shape) > 0:
        values = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source, dtype=np.float64)
        if values.min() >= 0 and values.max() <= 1:
            return np.rint(255 * values).astype(np.uint8).transpose(1, 2, 0)
        kind += f" in [{values.min():g}, {values.max():g}]"
    raise ValueError(
        f"a picture of shape {list(shape)}, {kind}, is not one; allowed are uint8 [height, width, 3] and "
        f"float [3, height, width] in [0, 1]{_remedy(shape, kind)}"
    )


def _remedy(shape: tuple[int, ...], kind: str) -> str:
    """What to do about an array whose axes or values are a known mistake, else ""."""
    move = ".permute" if kind.startswith("torch.") else ".transpose"
    if len(shape) == 2:
        return ". Repeat a single channel: numpy.stack([image] * 3, axis=-1)"
    if "uint8" in kind and kind != "uint8" and len(shape) == 3:
        return ". Convert uint8 tensors with .float() / 255, channels first"
    if "uint8" in kind and len(shape) == 3 and shape[0] == 3:
        return f". Move the channels last with {move}(1, 2, 0)"
    if "float" in kind and len(shape) == 3 and shape[2] == 3:
        return f". Move the channels first with {move}(2, 0, 1)"
    if "float" in kind and "[" in kind:
        return ". Divide values of 0 to 255 by 255"
    return ""

"""Input images of any form: files, folders, patterns, videos, a camera, encoded bytes, arrays, tensors,
Pillow images."""

from __future__ import annotations

import functools
import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from objecthood.data.io import frames
from objecthood.data.io.images import (
    ImageError,
    ImageWarning,
    NoImageError,
    find_images,
    read_image,
    read_pillow,
    what_to_do,
    without_results,
)

_CAMERA = re.compile(r"camera(?::(\d+))?")
_NUMERIC = ("float", "bfloat", "int", "uint", "bool", "complex")


class InputImage(NamedTuple):
    """An input image that can be read repeatedly."""

    path: Path
    """As it was found; of a frame VIDEO#NUMBER, of an image in memory a name alone."""
    relative: Path
    """Below the folder that was named, or the file's name; of a frame VIDEO/NUMBER."""
    read: Callable[[], UInt8[np.ndarray, "_ _ 3"]]
    source: Path
    """The file; of a frame, that of its video."""
    in_memory: bool = False
    """Whether there is no file to come back to: an array, bytes, an image of a camera."""


def find_inputs(sources: Any, *, skip_bad: bool = False) -> list[InputImage]:
    """What `sources` (one, or an iterable) stand for; a video is one entry, to be opened by `open_frames`.

    Text is a file, folder or pattern as in `images.find_images`, a video, or "camera" ("camera:1" for the
    second); bytes are an encoded image; arrays are uint8 [height, width, 3], tensors float [3, height,
    width] in [0, 1]; Pillow images are read as their files would be (`images.read_pillow`). A file that comes
    up twice is taken once. An `ImageWarning` tells of a folder or pattern without images where others have
    some. With `skip_bad` what gives no image raises not here but where it is read.

    Raises:
        ImageError: one that does not exist or cannot be read, or no image at all.
        ValueError: an array or tensor of another form.

    Example:
        >>> find_inputs(np.zeros((4, 6, 3), np.uint8))[0].read().shape
        (4, 6, 3)
    """
    found: dict[str, InputImage] = {}
    empty: list[NoImageError] = []
    for number, source in enumerate(_listed(sources), start=1):
        place = Path(source if isinstance(source, str | os.PathLike) else f"image-{number}")
        try:
            if isinstance(source, str | os.PathLike):
                for picture in _from_name(os.fspath(source)):
                    found.setdefault(os.path.realpath(picture.path), picture)
            else:
                read = functools.partial(np.copy, _as_array(source))
                found[f"image {number}"] = InputImage(place, place, read, place, in_memory=True)
        except NoImageError as problem:
            empty.append(problem)
        except ImageError as problem:
            if not skip_bad:
                raise
            refused = InputImage(place, Path(place.name or "unnamed"), _Refusal(problem), place)
            found.setdefault(f"refused {number}", refused)
    if not found:
        raise empty[0] if empty else ImageError("no image to look at; name images, folders or patterns")
    for left_out in empty:
        name, _, what = str(left_out).partition(": ")
        warnings.warn(ImageWarning(name, what), stacklevel=2)
    return list(found.values())


def open_frames(video: InputImage) -> Iterator[InputImage]:
    """The frames of a video, one after the other, as images that are held in memory."""
    stem = video.relative.with_suffix("")
    for number, frame in enumerate(frames.read_frames(video.path)):
        path = video.path.with_name(f"{video.path.name}#{number:06d}")
        yield InputImage(path, stem / f"{number:06d}", functools.partial(np.copy, frame), video.path)


class _Refusal:
    """In place of a reader: why there is nothing to read."""

    def __init__(self, problem: ImageError):
        self.problem = problem

    def __call__(self) -> UInt8[np.ndarray, "_ _ 3"]:
        raise self.problem


class _Reader:
    """Reads a file, now and later; of what may be wrong with it warns the first time."""

    def __init__(self, file: Path):
        self.file, self.is_new = file, True

    def __call__(self) -> UInt8[np.ndarray, "_ _ 3"]:
        is_new, self.is_new = self.is_new, False
        return read_image(self.file, warn=is_new)


def _listed(sources: Any) -> Iterable[Any]:
    one = isinstance(sources, str | os.PathLike | bytes | Image.Image) or not isinstance(sources, Iterable)
    # Of numbers, only 4 axes are several images; anything else is one, or is refused with its whole shape.
    is_numeric = str(getattr(sources, "dtype", "")).removeprefix("torch.").startswith(_NUMERIC)
    return [sources] if one or (is_numeric and getattr(sources, "ndim", 4) != 4) else sources


def _from_name(name: str) -> Iterator[InputImage]:
    """Files that a text stands for, each with its path below the folder that was named, or its name."""
    camera = _CAMERA.fullmatch(name)
    if camera and not os.path.exists(name):
        array = frames.read_camera(int(camera[1] or 0))
        place, relative = Path(name), Path(name.replace(":", "-"))
        yield InputImage(place, relative, functools.partial(np.copy, array), place, True)
        return
    if frames.is_video(name) and not os.path.isdir(name):
        videos = [name] if os.path.isfile(name) else without_results(glob.glob(name, recursive=True), name)
        if not videos:
            raise ImageError(f"{name!r}: no such file, folder or pattern; {what_to_do(name)}")
        files = [Path(video) for video in videos]
    elif os.path.isfile(name) and Path(name).suffix.lower() in frames.OTHER_SUFFIXES:
        allowed = " ".join(sorted(frames.SUFFIXES))
        raise ImageError(f"{name!r}: a video of a kind that is not read; allowed are {allowed}; convert it")
    else:
        files = find_images([name])
    for file in files:
        relative = file.relative_to(name) if os.path.isdir(name) else Path(file.name)
        yield InputImage(file, relative, _Reader(file), file)


def _as_array(source: Any) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit RGB of an image in memory."""
    if isinstance(source, bytes):
        return read_image(source, warn=True)
    if isinstance(source, Image.Image):
        return read_pillow(source)
    shape, kind = tuple(getattr(source, "shape", ())), str(getattr(source, "dtype", type(source).__name__))
    if kind == "uint8" and len(shape) == 3 and shape[2] == 3 and min(shape) > 0:
        return np.array(source)
    if "float" in kind and len(shape) == 3 and shape[0] == 3 and min(shape) > 0:
        values = np.asarray(
            source.detach().cpu().double() if hasattr(source, "detach") else source, dtype=np.float64
        )
        if values.min() >= 0 and values.max() <= 1:
            return np.rint(255 * values).astype(np.uint8).transpose(1, 2, 0)
        kind += f" in [{values.min():g}, {values.max():g}]"
    raise ValueError(
        f"an image of shape {list(shape)}, {kind}, is not one; allowed are uint8 [height, width, 3] and "
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

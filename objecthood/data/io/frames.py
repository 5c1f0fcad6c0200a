"""Read frames of a video file, or an image of a camera, with the limits of `images` (PyAV, extra `video`).

The size is checked before decoding, and damage gives a one-line error. Only self-contained formats are
opened, so that a file cannot refer to other files or the network.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from objecthood.data.io.images import MAX_PIXELS, ImageError, ImageWarning, what_to_do

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ogv".split())
"""Suffixes of supported videos."""
OTHER_SUFFIXES = frozenset(".ts .mts .m2ts .3gp .3g2 .wmv .asf .flv .vob .rm .mxf .h264 .hevc".split())
"""Suffixes of unsupported videos."""
_FORMATS = "mov,matroska,avi,mpeg,ogg"  # FFmpeg's names; playlists and the like are left out on purpose
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
WARM_UP = 10
"""Frames dropped before a camera image is taken, while exposure adapts."""


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a video.

    >>> is_video("clip.MP4"), is_video("clip.png")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def read_frames(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """All frames of a video's first track in order, as 8-bit RGB, turned and mirrored as a player shows them.

    An `ImageWarning` tells of a video that ends before the time that the file promises.

    Raises:
        ImageError: no such file, not a video, too large, damaged, or PyAV is missing.
    """
    with open_video(path) as container:
        yield from (frame.picture for frame in decode(container, repr(os.fsdecode(path)), max_pixels))


def count_frames(path: str | os.PathLike[str]) -> int:
    """The number of frames stated in the file, 0 if unknown. Raises as `read_frames`."""
    with open_video(path) as container:
        return container.streams.video[0].frames if container.streams.video else 0


def read_camera(index: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """One image of the machine's camera number `index`; ImageError where there is none."""
    av = import_av()
    if sys.platform not in _CAMERAS:
        raise ImageError(f"cameras of {sys.platform} are not known here; save an image and name it")
    place, kind = _CAMERAS[sys.platform]
    name = f"camera {index}"
    try:
        with av.open(place.format(index), format=kind) as container:
            for number, frame in enumerate(decode(container, name, MAX_PIXELS)):
                if number >= WARM_UP:
                    return frame.picture
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(
            f"{name}: cannot be opened ({_one_line(error)}); is it plugged in and free?"
        ) from error
    raise ImageError(f"{name}: gave no image; is it used by another program?")


def open_video(path: str | os.PathLike[str]) -> Any:
    """An open container; only files, and only formats that hold their own frames."""
    av, name = import_av(), repr(os.fsdecode(path))
    if not Path(path).is_file():
        raise ImageError(f"{name}: no such file; {what_to_do(os.fsdecode(path))}")
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        return av.open(os.fspath(path), options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        allowed = " ".join(sorted(SUFFIXES))
        problem = f"not a readable video ({_one_line(error)})"
        raise ImageError(f"{name}: {problem}; allowed are {allowed}; convert it") from error


class Frame(NamedTuple):
    """A decoded frame."""

    picture: UInt8[np.ndarray, "height width 3"]
    seconds: float | None
    """Time in seconds; None if the file does not state it."""


def decode(container: Any, name: str, max_pixels: int) -> Iterator[Frame]:
    """The frames of an open container's first track; errors call it `name`."""
    if not container.streams.video:
        raise ImageError(f"{name}: holds no images; name a video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ImageError(f"{name}: not a readable video (unknown kind); convert it")
    _check_size(stream.codec_context, name, max_pixels)
    av, count, end = import_av(), 0, 0.0
    # One converter for all, as each has a thread per core. `frame.side_data` would keep the frame until the
    # garbage collector runs: the frame holds what it gives.
    convert, side_data = av.video.reformatter.VideoReformatter(), av.sidedata.sidedata.SideDataContainer
    try:
        for frame in container.decode(stream):
            _check_size(frame, name, max_pixels)
            count += 1
            if frame.time is not None:
                end = frame.time + float((getattr(frame, "duration", 0) or 0) * (frame.time_base or 0))
            picture = convert.reformat(frame, format="rgb24").to_ndarray()
            yield Frame(_upright(picture, side_data(frame)), frame.time)
    except av.error.FFmpegError as error:
        raise ImageError(f"{name}: damaged video ({_one_line(error)}); copy or download it again") from error
    if not count:
        raise ImageError(f"{name}: damaged video (no frame in it); copy or download it again")
    promised, frame_length = _promised(container, stream), 1 / float(stream.average_rate or 25)
    if end and max(end, count * frame_length) < promised - max(2 * frame_length, 0.02 * promised):
        problem = f"cut short after {count} frames, {end:.2f} of {promised:.2f} s; copy or download it again"
        warnings.warn(ImageWarning(name, problem), stacklevel=2)


def _promised(container: Any, stream: Any) -> float:
    """How long the track lasts as the file says, in seconds; 0 where it does not."""
    lengths = [float(stream.duration * stream.time_base)] if stream.duration and stream.time_base else []
    hours, *rest = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:00:03.000000000
    with contextlib.suppress(ValueError, IndexError):
        lengths += [3600 * float(hours) + 60 * float(rest[0]) + float(rest[1])]
    if container.duration and (lengths or len(container.streams) == 1):  # other tracks may be longer
        lengths += [container.duration / 1e6]
    return min(lengths, default=0.0)


def _upright(picture: UInt8[np.ndarray, "rows columns 3"], side_data: Any) -> UInt8[np.ndarray, "_ _ 3"]:
    """A frame as its display matrix shows it: turned by quarters, mirrored, or both.

    The matrix [a b u; c d v; x y w] (ISO/IEC 14496-12, 6.2.2) takes a pixel (across, down) to
    (a across + c down, b across + d down), up to a shift. Angles between quarters become the nearest.
    """
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, _, c, d = (int(part) for part in np.frombuffer(bytes(matrix), np.int32)[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(picture)


def _check_size(sized: Any, name: str, max_pixels: int) -> None:
    if sized.width * sized.height > max_pixels:
        size = f"{sized.width} x {sized.height} pixels a frame"
        raise ImageError(f"{name}: {size}; at most {max_pixels} are allowed; shrink it")


def import_av() -> Any:
    """PyAV, or one line on how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImageError("videos and cameras need PyAV; pip install 'objecthood[video]'") from error
    return av


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")

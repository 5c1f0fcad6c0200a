"""Frames of a video file, or one of a camera: the gate of `images` for what moves (PyAV, extra `video`).

The same limits hold: size is checked before a frame is decoded, damage ends in one line, nothing is written.
Only formats that hold their own frames are opened, so that a file cannot make us read others or the network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from objecthood.data.io.images import MAX_PIXELS, ImageError

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ogv".split())
"""What is taken for a video by its name."""
_FORMATS = "mov,matroska,avi,mpeg,ogg"  # FFmpeg's names; playlists and the like are left out on purpose
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation")}
WARM_UP = 10
"""Frames that are dropped before a camera's picture is taken: exposure settles."""


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a video.

    >>> is_video("clip.MP4"), is_video("clip.png")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def read_frames(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """All frames of a video's first track in order, as 8-bit RGB, turned upright as a player shows them.

    Raises:
        ImageError: no such file, not a video, too large, damaged, or PyAV is missing.
    """
    with open_video(path) as container:
        yield from decode(container, repr(os.fsdecode(path)), max_pixels)


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many frames the file says it has; 0 where it does not say. Raises as `read_frames`."""
    with open_video(path) as container:
        return container.streams.video[0].frames if container.streams.video else 0


def read_camera(index: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of the machine's camera number `index`; ImageError where there is none."""
    av = import_av()
    if sys.platform not in _CAMERAS:
        raise ImageError(f"cameras of {sys.platform} are not known here; save a picture and name it")
    place, kind = _CAMERAS[sys.platform]
    name = f"camera {index}"
    try:
        with av.open(place.format(index), format=kind) as container:
            for number, frame in enumerate(decode(container, name, MAX_PIXELS)):
                if number >= WARM_UP:
                    return frame
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(
            f"{name}: cannot be opened ({_one_line(error)}); is it plugged in and free?"
        ) from error
    raise ImageError(f"{name}: gave no picture; is it used by another program?")


def open_video(path: str | os.PathLike[str]) -> Any:
    """An open container; only files, and only formats that hold their own frames."""
    av, name = import_av(), repr(os.fsdecode(path))
    if not Path(path).is_file():
        raise ImageError(f"{name}: no such file; check the spelling")
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        return av.open(os.fspath(path), options=options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        allowed = " ".join(sorted(SUFFIXES))
        problem = f"not a readable video ({_one_line(error)})"
        raise ImageError(f"{name}: {problem}; allowed are {allowed}; convert it") from error


def decode(container: Any, name: str, max_pixels: int) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames of an open container's first track; errors call it `name`."""
    if not container.streams.video:
        raise ImageError(f"{name}: holds no pictures; name a video")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise ImageError(f"{name}: not a readable video (unknown kind); convert it")
    _check_size(stream.codec_context, name, max_pixels)
    av, found = import_av(), False
    try:
        for frame in container.decode(stream):
            _check_size(frame, name, max_pixels)
            found = True
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4))
    except av.error.FFmpegError as error:
        raise ImageError(f"{name}: damaged video ({_one_line(error)}); copy or download it again") from error
    if not found:
        raise ImageError(f"{name}: damaged video (no frame in it); copy or download it again")


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

"""Video files in and out, one frame in memory at a time, through PyAV (FFmpeg's libraries; extra `video`).

What is kept: number, size and mean rate of the frames. What is not: sound, and the uneven times of frames in
files of variable rate (frames come out evenly spaced). A rotation noted in the file (phones) is applied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from objecthood.data.images import MAX_PIXELS, ImageError

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ogv .wmv .flv .3gp .ts".split())
"""What is taken for a video by its name."""
QUALITY = "18"
"""x264's constant rate factor: about the least loss that is seen (x264 documentation)."""


def is_video(path: str | os.PathLike) -> bool:
    """Whether a name is that of a video.

    >>> is_video("clip.MP4"), is_video("clip.png")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


class VideoFile:
    """The frames of a video file, RGB, decoded as they are asked for.

    Attributes:
        size: (height, width) in pixels, as shown.
        rate: frames per second.
        num_frames: as the file says, 0 where it does not; what comes may differ in damaged files.

    Raises:
        ImageError: no such file, no video in it, frames too large, PyAV not installed; while reading: damage.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"{str(path)!r}: no such video file; check the spelling")
        with self._opened() as container:
            stream = container.streams.video[0]
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.num_frames = int(stream.frames)
            first = next(self._pictures(container), None)
        if first is None:
            raise ImageError(f"{str(path)!r}: a video without a frame; name another file")
        self.size: tuple[int, int] = first.shape[:2]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        with self._opened() as container:
            for picture in self._pictures(container):
                if picture.shape[:2] != self.size:
                    raise ImageError(
                        f"{str(self.path)!r}: frames of {self.size} and {picture.shape[:2]} pixels; convert "
                        "the video to one size first"
                    )
                yield picture

    def _opened(self) -> Any:
        av = import_av()
        try:
            container = av.open(os.fspath(self.path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise ImageError(f"{str(self.path)!r}: not a video that can be read ({error})") from error
        if not container.streams.video:
            container.close()
            raise ImageError(f"{str(self.path)!r}: there is no video in this file")
        try:
            decoder = container.streams.video[0].codec_context
            if decoder is None:
                raise ImageError(f"{str(self.path)!r}: not a video that can be read (unknown kind)")
            self._check_size(decoder.width, decoder.height)
        except ImageError:
            container.close()
            raise
        return container

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{str(self.path)!r}: frames of {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are "
                "allowed"
            )

    def _pictures(self, container: Any) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        av = import_av()
        try:
            for frame in container.decode(video=0):
                self._check_size(frame.width, frame.height)
                picture = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
        except av.FFmpegError as error:
            raise ImageError(f"{str(self.path)!r}: damaged video ({error}); copy it again") from error


class VideoWriter:
    """Writes frames of one size to an .mp4 file; H.264 where it is at hand, else MPEG-4. Use as a context.

    Args:
        path: the file, replaced if there is one.
        size: (height, width) of every frame. Odd sizes are kept, at full colour resolution, which some
            players do not show.
        rate: frames per second.
    """

    def __init__(self, path: str | os.PathLike, size: tuple[int, int], rate: Fraction):
        av = import_av()
        self._container = av.open(os.fspath(path), "w", format="mp4")
        height, width = size
        odd = height % 2 or width % 2
        has_x264 = "libx264" in av.codecs_available
        stream = self._container.add_stream("libx264" if has_x264 else "mpeg4", rate=rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if odd and has_x264 else "yuv420p"
        if has_x264:
            stream.options = {"crf": QUALITY, "preset": "veryfast"}
        stream.thread_count = 1
        self._stream, self.size = stream, size

    def write(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """The next frame."""
        assert picture.shape[:2] == self.size
        frame = import_av().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def import_av() -> Any:
    """PyAV, or one line on how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImageError("video files need PyAV: pip install 'objecthood[video]'") from error
    return av

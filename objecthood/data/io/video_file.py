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

import numpy as np
from jaxtyping import UInt8

from objecthood.data.io.frames import decode, import_av, open_video
from objecthood.data.io.images import MAX_PIXELS, ImageError

QUALITY = "18"
"""x264's constant rate factor: about the least loss that is seen (x264 documentation)."""


class VideoFile:
    """The frames of a video file, RGB, decoded as they are asked for.

    Attributes:
        size: (height, width) in pixels, as shown.
        rate: frames per second.
        num_frames: as the file says, 0 where it does not; what comes may differ in damaged files.

    Raises:
        ImageError: no such file, no video in it, frames too large, PyAV not installed; while reading: damage.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        with open_video(path) as container:
            first = next(decode(container, self._name, MAX_PIXELS))
            stream = container.streams.video[0]
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.num_frames = int(stream.frames)
        self.size: tuple[int, int] = first.shape[:2]

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        with open_video(self.path) as container:
            for picture in decode(container, self._name, MAX_PIXELS):
                if picture.shape[:2] != self.size:
                    raise ImageError(
                        f"{self._name}: frames of {self.size} and {picture.shape[:2]} pixels; convert the "
                        "video to one size first"
                    )
                yield picture

    @property
    def _name(self) -> str:
        return repr(str(self.path))


class VideoWriter:
    """Writes frames of one size to an .mp4 file; H.264 where it is at hand, else MPEG-4. Use as a context.

    Args:
        path: the file, replaced if there is one.
        size: (height, width) of every frame. Odd sizes are kept, at full colour resolution, which some
            players do not show.
        rate: frames per second.
    """

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int], rate: Fraction):
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

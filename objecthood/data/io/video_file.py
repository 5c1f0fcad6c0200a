"""Read and write video files frame by frame with PyAV (FFmpeg; extra `video`).

What is kept: number, size and times of the frames, even or not. What is not: sound. A rotation or reflection
noted in the file (phones) is applied.
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

MOST_TICKS = 60_000
"""Time base of written videos, in ticks per second."""
QUALITY = "18"
"""x264's constant rate factor: about the least loss that is seen (x264 documentation)."""


class VideoFile:
    """The frames of a video file, RGB, decoded as they are asked for.

    Attributes:
        size: (height, width) in pixels, as shown.
        rate: frames per second, in the mean.
        num_frames: as the file says, 0 where it does not; what comes may differ in damaged files.

    Raises:
        ImageError: no such file, no video in it, frames too large, PyAV not installed; while reading: damage.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        with open_video(path) as container:
            first = next(decode(container, self._name, MAX_PIXELS)).picture
            stream = container.streams.video[0]
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.num_frames = int(stream.frames)
        self.size: tuple[int, int] = first.shape[:2]
        self._times: list[float] = []

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        with open_video(self.path) as container:
            for number, (picture, time) in enumerate(decode(container, self._name, MAX_PIXELS)):
                if number == len(self._times):
                    self._note(time)
                if picture.shape[:2] != self.size:
                    raise ImageError(
                        f"{self._name}: frames of {self.size} and {picture.shape[:2]} pixels; convert the "
                        "video to one size first"
                    )
                yield picture

    def seconds(self, number: int) -> float:
        """When a frame that was read is shown, from the first one on: as the file says; where it does not, or
        goes back in time, a mean step after the one before."""
        return self._times[number] - self._times[0]

    def _note(self, time: float | None) -> None:
        last = self._times[-1] if self._times else None
        if time is None or (last is not None and time <= last):
            time = 0.0 if last is None else last + float(1 / self.rate)
        self._times.append(time)

    @property
    def _name(self) -> str:
        return repr(str(self.path))


class VideoWriter:
    """Writes frames of one size to an .mp4 file; H.264 where it is at hand, else MPEG-4. Use as a context.

    Args:
        path: the file, replaced if there is one.
        size: (height, width) of every frame. Odd sizes are kept, at full colour resolution, which some
            players do not show.
        rate: frames per second, of frames whose time is not given.
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
        # Ticks of which a frame's length is a whole number; MPEG-4 counts at most 65,535 in a second.
        self.rate = rate.limit_denominator(1001) if rate.numerator > MOST_TICKS else rate
        if self.rate.numerator > MOST_TICKS:
            self.rate = Fraction(round(self.rate))
        ticks = self.rate.numerator * max(1, MOST_TICKS // self.rate.numerator)
        stream.codec_context.time_base = self._tick = Fraction(1, min(ticks, MOST_TICKS))
        self._stream, self.size = stream, size
        self._count, self._last = 0, -1

    def write(self, picture: UInt8[np.ndarray, "height width 3"], seconds: float | None = None) -> None:
        """The next frame, shown from `seconds` on; unless given, 1 / rate after the one before."""
        assert picture.shape[:2] == self.size
        frame = import_av().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        time = self._count / self.rate if seconds is None else Fraction(seconds)
        self._last = max(self._last + 1, round(time / self._tick))
        self._count += 1
        frame.pts, frame.time_base = self._last, self._tick
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

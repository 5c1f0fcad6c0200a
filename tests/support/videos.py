"""Small videos, written by PyAV itself or by the package."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from objecthood.data.generated.moving_sprites import MovingSprites


def write_bars(path, count=7, size=(64, 48), rate=5):
    """Frame k is a white bar at column 8 k on black."""
    av = pytest.importorskip("av", reason="needs the extra: pip install 'objecthood[video]'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(count):
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            picture[:, 8 * number : 8 * number + 8] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def some_frames(count: int, height: int = 48, width: int = 66) -> np.ndarray:
    frames = MovingSprites("test", frames=count, resolution=96)[[3]]["image"][0]
    frames = (frames.permute(0, 2, 3, 1) * 255).byte().numpy()
    return np.ascontiguousarray(frames[:, :height, :width])


def write_video(path: Path, frames: np.ndarray, rate: Fraction = Fraction(30000, 1001)) -> Path:
    from objecthood.data.io.video_file import VideoWriter

    with VideoWriter(path, frames.shape[1:3], rate) as writer:
        for frame in frames:
            writer.write(frame)
    return path

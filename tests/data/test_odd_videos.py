"""Videos that are odd or damaged: the right frames or one line, and never a changed file."""

import hashlib
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs PyAV, the extra `video`")
from objecthood.data.io import video_file  # noqa: E402
from objecthood.data.io.images import ImageError, ImageWarning  # noqa: E402
from objecthood.data.io.video_file import VideoFile, VideoWriter  # noqa: E402

AREA = "Images and videos"


def frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """A light that moves over a dark ground."""
    pictures = np.full((count, height, width, 3), 40, np.uint8)
    for number, picture in enumerate(pictures):
        picture[4:12, (3 * number) % (width - 8) :][:, :8] = (230, 200, 90)
    return pictures


def write(path: Path, count: int, codec: str = "mpeg4", pixels: str = "yuv420p", **options) -> Path:
    """A video by PyAV itself; `times` are of frames, in tenths of a second."""
    height, width = options.pop("size", (32, 48))
    times = options.pop("times", range(count))
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.time_base = Fraction(1, 10)
        for picture, time in zip(frames(count, height, width), times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound(path: Path) -> Path:
    """A file without an image."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def outcome(path: Path) -> int | str:
    """How many frames came, all of the size that was told, or the line that came instead."""
    try:
        video = VideoFile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)  # of an end that is missing
            pictures = list(video)
    except ImageError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return str(error)
    assert all(picture.shape == (*video.size, 3) and picture.dtype == np.uint8 for picture in pictures)
    return len(pictures)


def test_odd_videos(tmp_path, scoreboard):
    twelve = [*range(6), 11, 12, 30, 31, 50, 90]
    expected = {
        write(tmp_path / "plain.mp4", 12): 12,
        write(tmp_path / "one.mp4", 1): 1,
        write(tmp_path / "uneven.mkv", 12, times=twelve): 12,
        write(tmp_path / "tall.avi", 5, size=(96, 16)): 5,
        write(tmp_path / "motion.avi", 5, "mjpeg", "yuvj420p"): 5,
        write(tmp_path / "lossless.mkv", 5, "ffv1", "yuv420p"): 5,
        write(tmp_path / "ten bits.mkv", 5, "ffv1", "yuv420p10le"): 5,
        write(tmp_path / "sixteen bits.mkv", 5, "ffv1", "gray16le"): 5,
        write(tmp_path / "transparent.mkv", 5, "ffv1", "yuva420p"): 5,
        write(tmp_path / "Katze 猫\n.mkv", 5, "ffv1"): 5,
        write(tmp_path / "really a matroska.mp4", 5, "ffv1", format="matroska"): 5,
        write(tmp_path / "still.gif", 4, "gif", "rgb8"): "not a readable video",
        sound(tmp_path / "sound.wav"): "not a readable video",
    }
    with VideoWriter(tmp_path / "odd.mp4", (33, 35), Fraction(10)) as writer:
        for picture in frames(4, 33, 35):
            writer.write(picture)
    expected[tmp_path / "odd.mp4"] = 4
    for name, content in {"empty.mp4": b"", "text.mp4": b"no video\n", "zeros.mp4": bytes(5000)}.items():
        (tmp_path / name).write_bytes(content)
        expected[tmp_path / name] = "not a readable video|damaged video"
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in expected}
    wrong = {}
    for path, wanted in expected.items():
        found = outcome(path)
        told = (
            isinstance(found, str) and isinstance(wanted, str) and any(w in found for w in wanted.split("|"))
        )
        if not told and found != wanted:
            wrong[path.name] = (found, wanted)
    assert not wrong
    assert before == {path: hashlib.sha256(path.read_bytes()).digest() for path in expected}
    scoreboard(AREA, "odd videos: all their frames, or one line; the file unchanged", len(expected))


def test_frames_too_large_are_refused_before_one_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", 2)
    monkeypatch.setattr(video_file, "MAX_PIXELS", 32 * 48 - 1)
    with pytest.raises(ImageError, match="48 x 32 pixels a frame; at most 1535 are allowed"):
        VideoFile(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_damaged_videos(name, tmp_path, scoreboard):
    """Cut, overwritten and spliced anywhere."""
    content = write(tmp_path / name, 12).read_bytes()
    random = np.random.default_rng(len(name) + ord(name[-1]))
    refused = 0
    for number in range(100):
        changed = bytearray(content)
        if number % 2:
            del changed[random.integers(0, len(content)) :]
        else:
            for place in random.integers(0, len(content), random.integers(1, 30)):
                changed[place] = random.integers(256)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(changed)
        found = outcome(path)
        assert isinstance(found, str) or found <= 14
        refused += isinstance(found, str)
        assert path.read_bytes() == bytes(changed)
    assert refused >= 5, "damage too mild to show anything"
    scoreboard(AREA, "damaged videos of 3 kinds: frames or one line, the file unchanged", 100)

"""Videos as a player shows them: turned, mirrored, each frame at its time; told where the end misses."""

import csv
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="needs PyAV, the extra `video`")
from objecthood.data.io.frames import read_frames  # noqa: E402
from objecthood.data.io.images import ImageWarning  # noqa: E402
from objecthood.data.io.video_file import VideoFile, VideoWriter  # noqa: E402
from objecthood.inference.predict_video import predict_video  # noqa: E402
from objecthood.models import video  # noqa: E402


def write(path: Path, times, base: int = 10, codec: str = "mpeg4", **options) -> Path:
    """Frames of 32 x 16 pixels, white in the upper left corner, at `times` in 1 / `base` seconds."""
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :16] = 255
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=base)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.codec_context.time_base = Fraction(1, base)
        for time in times:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The file with another matrix in its track header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version and flags, times, number, length, layer, volume
    numbers = np.array([a, b, 0, c, d, 0, 0, 0, 16384], ">f8") * 65536
    content[place : place + 36] = numbers.astype(">i4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("matrix", [
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
    (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0),
    (-2, 0, 0, 2), (0.9, 0.1, -0.1, -0.9),
])  # fmt: skip
def test_frames_are_turned_and_mirrored(tmp_path, matrix):
    """The white corner goes where the matrix takes it: a pixel (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    (frame,) = read_frames(with_matrix(write(tmp_path / "clip.mp4", [0]), *matrix))
    x, y = -8, -4  # of the corner, from the middle
    across, down = a * x + c * y, b * x + d * y
    assert frame.shape[:2] == ((16, 32) if abs(a) > abs(b) else (32, 16))
    height, width = frame.shape[:2]
    white = np.argwhere(frame.mean(axis=-1) > 128).mean(axis=0) + 0.5 - (height / 2, width / 2)
    assert np.sign(white).tolist() == np.sign([down, across]).tolist()


def test_a_file_without_a_matrix_stays_as_it_is(tmp_path):
    for suffix in ("avi", "mkv"):
        (frame,) = read_frames(write(tmp_path / f"clip.{suffix}", [0]))
        assert frame.shape == (16, 32, 3) and frame[:7, :15].min() > 128 and frame[9:, 17:].max() < 128


@pytest.mark.parametrize(("suffix", "times", "base"), [
    ("mp4", [0, 1, 2, 3, 4, 24, 44], 10),
    ("mkv", [0, 100, 117, 900, 901], 1000),
    ("mkv", [500, 533, 566, 600], 1000),
])  # fmt: skip
def test_every_frame_keeps_its_time(tmp_path, suffix, times, base):
    """In what is read, in the tracks, and in the video that is written."""
    path = write(tmp_path / f"clip.{suffix}", times, base)
    expected = [(time - times[0]) / base for time in times]
    source = VideoFile(path)
    for _ in range(2):  # however often it is read
        assert len(list(source)) == len(times)
        assert [source.seconds(k) for k in range(len(times))] == pytest.approx(expected, abs=1e-3)
    result = predict_video(video.moving_sprites(num_slots=2, resolution=32), path, tmp_path / "out")
    shown = VideoFile(result.files["video"])
    assert len(list(shown)) == len(times)
    assert [shown.seconds(k) for k in range(len(times))] == pytest.approx(expected, abs=2e-3)
    rows = list(csv.DictReader(result.files["csv"].read_text().splitlines()))
    told = {int(row["frame"]): float(row["seconds"]) for row in rows}
    assert list(told) == list(range(len(times)))
    assert list(told.values()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "rate",
    [Fraction(24), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(240), Fraction(10**7, 333667)],
)
def test_even_frames_stay_even(tmp_path, rate):
    with VideoWriter(tmp_path / "clip.mp4", (16, 16), rate) as writer:
        for number in range(5):
            writer.write(
                np.full((16, 16, 3), 40 * number, np.uint8), float(number / rate) if number % 2 else None
            )
    source = VideoFile(tmp_path / "clip.mp4")
    assert len(list(source)) == 5 and source.rate == pytest.approx(rate, rel=1e-4)
    assert [source.seconds(k) for k in range(5)] == pytest.approx([k / rate for k in range(5)], abs=1e-4)


def test_times_that_go_back_or_repeat_are_put_in_order(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", (16, 16), Fraction(10)) as writer:
        for seconds in (0, 0.5, 0.5, 0.2):
            writer.write(np.zeros((16, 16, 3), np.uint8), seconds)
    source = VideoFile(tmp_path / "clip.mp4")
    assert len(list(source)) == 4
    times = [source.seconds(k) for k in range(4)]
    assert times == sorted(set(times))


@pytest.mark.parametrize(("suffix", "options"), [
    ("mp4", {"options": {"movflags": "faststart"}}), ("mkv", {}), ("avi", {}),
])  # fmt: skip
def test_a_video_that_was_cut_is_told(tmp_path, suffix, options):
    """By a warning that says what came of what was promised; whole ones give none."""
    whole = write(tmp_path / f"whole.{suffix}", range(30), **options)
    uneven = write(tmp_path / f"uneven.{suffix}", [*range(10), 40], **options) if suffix != "avi" else whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_frames(whole))) == 30 and list(read_frames(uneven))
    content = whole.read_bytes()
    came = 0
    for share in (0.85, 0.9, 0.95):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(content[: int(share * len(content))])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                count = len(list(read_frames(cut)))
            except ValueError:
                continue
        if count < 25:
            came += 1
            assert any("cut short after" in str(one.message) for one in told), (share, count)
            assert all(isinstance(one.message, ImageWarning) for one in told)
    assert came or suffix == "avi"

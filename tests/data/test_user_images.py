"""A user's images in whatever form: the same pixels come out, and what is none is refused in one line."""

import io
import itertools
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from videos import write_bars

from objecthood.data.io import frames
from objecthood.data.io.frames import count_frames, read_camera, read_frames
from objecthood.data.io.images import ImageError, ImageWarning, read_image, read_pillow
from objecthood.data.io.user_images import find_inputs, open_frames

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


def encoded() -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        PIXELS,
        encoded(),
        Image.fromarray(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255,
        PIXELS.transpose(2, 0, 1) / 255,
    ],
    ids=["array", "bytes", "Pillow", "tensor", "floats"],
)
def test_user_images_in_memory(source):
    for sources in (source, [source, source]):
        found = find_inputs(sources)
        assert [str(one.path) for one in found] == ["image-1", "image-2"][: len(found)]
        for one in found:
            np.testing.assert_array_equal(one.read(), PIXELS)


def test_a_batch_is_its_images():
    assert len(find_inputs(torch.rand(3, 3, 8, 8))) == len(find_inputs(np.stack([PIXELS] * 3))) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (torch.rand(1, 8, 8), r"shape \[1, 8, 8\], torch.float32"),
        (torch.rand(3, 8, 8) * 255, r"float32 in \[\d"),
        (np.zeros((8, 8, 4), np.uint8), r"shape \[8, 8, 4\], uint8"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.zeros((64, 48), np.uint8), r"shape \[64, 48\], uint8.*numpy.stack\(\[image\] \* 3, axis=-1\)$"),
        (torch.rand(64, 48), r"shape \[64, 48\], torch.float32"),
        (np.zeros(64), r"shape \[64\], float64"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), r"shape \[1, 2, 8, 8, 3\], uint8"),
        (torch.rand(2, 8, 9, 3), r"shape \[8, 9, 3\].*\.permute\(2, 0, 1\)$"),
        (np.zeros((8, 9, 3)), r"shape \[8, 9, 3\].*\.transpose\(2, 0, 1\)$"),
        (PIXELS.transpose(2, 0, 1), r"shape \[3, 24, 36\].*\.transpose\(1, 2, 0\)$"),
        (torch.zeros(3, 8, 9, dtype=torch.uint8), r"Convert uint8 tensors with \.float\(\) / 255"),
        (torch.rand(3, 8, 8) * 255, r"Divide values of 0 to 255 by 255$"),
        ([7], "int, is not one"),
        (b"no image", "not a readable image"),
        ([], "no image to look at"),
    ],
)
def test_what_is_no_image(source, said):
    with pytest.raises(ValueError, match=said) as caught:
        find_inputs(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image, gray", [
    (Image.new("I;16", (4, 4), 65535 // 2), 127), (Image.new("F", (4, 4), 0.5), 128),
    (Image.new("I", (4, 4), 65535 // 4), 64), (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), 255),
    (Image.new("LA", (4, 4), (0, 127)), 128), (Image.new("1", (4, 4), 1), 255),
    (Image.new("CMYK", (4, 4), (0, 0, 0, 128)), 127),
], ids=lambda value: getattr(value, "mode", None))  # fmt: skip
def test_pillow_images_of_every_mode(image, gray):
    before = image.tobytes(), image.mode, dict(image.info)
    (found,) = find_inputs(image)
    assert np.abs(found.read().astype(int) - gray).max() <= 1 and found.read().shape == (4, 4, 3)
    assert (image.tobytes(), image.mode, image.info) == before


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pillow_images_are_read_as_their_files(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(PIXELS).save(path, exif=exif)
    expected = read_image(path)
    for is_loaded in (False, True):
        with Image.open(path) as image:
            if is_loaded:
                image.load()
            (found,) = find_inputs(image)
        np.testing.assert_array_equal(found.read(), expected)


def test_pillow_images_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(encoded()[:-900])
    with Image.open(path) as cut, pytest.raises(ImageError, match="Pillow image: damaged image"):
        find_inputs(cut)
    with pytest.raises(ImageError, match="has no pixels .0 x 5."):
        find_inputs(Image.new("RGB", (0, 5)))
    with pytest.raises(ImageError, match="12 x 12 = 144 pixels; at most 100 are allowed"):
        read_pillow(Image.new("1", (12, 12)), max_pixels=100)


def chunked(depth: int, kind: int, rows: bytes, transparent: bytes) -> bytes:
    """A PNG of 3 x 1 pixels whose tRNS chunk names a transparent colour (PNG specification, 11.3.2.1)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        length, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(name + content))
        return length + name + content + check

    header = struct.pack(">2I5B", 3, 1, depth, kind, 0, 0, 0)
    data = zlib.compress(b"\0" + rows)
    chunks = (b"IHDR", header), (b"tRNS", transparent), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


TRANSPARENT = {
    "grey 16": chunked(16, 0, struct.pack(">3H", 0, 30000, 20000), struct.pack(">H", 30000)),
    "grey 8": chunked(8, 0, bytes([0, 7, 9]), struct.pack(">H", 7)),
    "grey 4": chunked(4, 0, bytes([0x01, 0x20]), struct.pack(">H", 1)),
    "grey 2": chunked(2, 0, bytes([0b00011000]), struct.pack(">H", 1)),
    "grey 1": chunked(1, 0, bytes([0b01000000]), struct.pack(">H", 1)),
    "colour 16": chunked(16, 2, struct.pack(">9H", 0, 0, 0, 30000, 100, 65535, 1, 2, 3),
                         struct.pack(">3H", 30000, 100, 65535)),
    "colour 8": chunked(8, 2, bytes([0, 0, 0, 7, 8, 9, 1, 1, 1]), struct.pack(">3H", 7, 8, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("form", ["bytes", "Pillow"])
def test_one_transparent_colour_lies_on_white(name, form):
    """The middle pixel is of the transparent colour, at whatever depth; the others are darker than white."""
    content = TRANSPARENT[name]
    pixels = read_image(content) if form == "bytes" else read_pillow(Image.open(io.BytesIO(content)))
    assert pixels[0, 1].tolist() == [255] * 3 and pixels[0, 0].max() == 0 and pixels[0, 2].max() < 255


@pytest.mark.parametrize("mode, value", [("I;16", 4000), ("I", 3000), ("F", 0.05)])
def test_grey_that_uses_little_of_its_range_is_told_once(tmp_path, mode, value):
    """12 bits in a file of 16, as of medical images: almost black, but not without a word."""
    path, bright = tmp_path / "x.tif", tmp_path / "y.tif"
    Image.new(mode, (4, 4), value).save(path)
    Image.new(mode, (4, 4), 8 * value).save(bright)
    (found,) = find_inputs(path)
    with pytest.warns(ImageWarning, match="x.tif': almost black"):
        dark = found.read()
    assert 0 < dark.max() <= 16
    assert found.read().max() <= 16 and find_inputs(bright)[0].read().max() > 90, "no more warnings"
    for source in (Image.new(mode, (4, 4), value), path.read_bytes()):
        with pytest.warns(ImageWarning, match="almost black"):
            find_inputs(source)


@pytest.mark.parametrize("name, said", [
    ("https://example.org/a.png", "addresses are not opened; download it"),
    ("HTTP://example.org/a.mp4", "addresses are not opened; download it"),
    ("https:/example.org/a.mp4", "addresses are not opened; download it"),
    ("none.png", "check the spelling"),
])  # fmt: skip
def test_names_that_lead_nowhere(name, said):
    with pytest.raises(ImageError, match=said):
        find_inputs(name)


@pytest.mark.parametrize("suffix", [".ts", ".3gp", ".WMV", ".flv"])
def test_videos_of_other_kinds_are_called_videos(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"G" * 400)
    with pytest.raises(ImageError, match="a video of a kind that is not read; allowed are .avi .*convert it"):
        find_inputs(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_frames_of_a_video(tmp_path, suffix):
    path = write_bars(tmp_path / f"clip{suffix}")
    seen = list(read_frames(path))
    assert len(seen) == 7 and count_frames(path) in (7, 0)
    for number, frame in enumerate(seen):
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert int(frame.mean(axis=(0, 2)).argmax()) // 8 == number
    (video,) = find_inputs(path)
    (first, second, *_) = open_frames(video)
    assert first.path.name == f"clip{suffix}#000000" and second.relative.as_posix() == "clip/000001"
    np.testing.assert_array_equal(second.read(), seen[1])
    (found,) = find_inputs(str(tmp_path / f"*{suffix}"))
    assert found.path == path


def test_what_is_no_video(tmp_path):
    path = write_bars(tmp_path / "clip.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:200])
    # A playlist would make FFmpeg open what it names.
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{path}'\n")
    for name in ("text", "cut", "list", "concat"):
        with pytest.raises(ImageError, match=f"{name}.mp4'.*(not a readable|damaged) video") as caught:
            list(read_frames(tmp_path / f"{name}.mp4"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="64 x 48 pixels a frame; at most 100 "):
        list(read_frames(path, max_pixels=100))
    with pytest.raises(ImageError, match="no such file"):
        list(read_frames(tmp_path / "none.mp4"))
    with pytest.raises(ImageError, match="no such file, folder or pattern"):
        find_inputs(str(tmp_path / "none*.mp4"))


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match=r"pip install 'objecthood\[video\]'"):
        list(read_frames(tmp_path / "x.mp4"))


def test_a_camera_gives_one_image_after_it_has_settled(tmp_path, monkeypatch):
    """A file stands in for the device; what is asked of PyAV is kept."""
    av = pytest.importorskip("av", reason="needs the extra: pip install 'objecthood[video]'")
    path, asked = write_bars(tmp_path / "clip.mp4", count=8), []
    real = av.open

    def opened(place, format=None):
        asked.append((place, format))
        return real(str(path))

    monkeypatch.setattr(av, "open", opened)
    monkeypatch.setattr(frames, "WARM_UP", 5)
    monkeypatch.setattr(sys, "platform", "linux")
    assert int(read_camera(1).mean(axis=(0, 2)).argmax()) // 8 == 5
    (found,) = find_inputs("camera")
    assert found.read().shape == (48, 64, 3)
    assert asked == [("/dev/video1", "v4l2"), ("/dev/video0", "v4l2")]
    monkeypatch.setattr(frames, "WARM_UP", 100)
    with pytest.raises(ImageError, match="camera 0: gave no image"):
        read_camera()


def test_no_camera(monkeypatch):
    pytest.importorskip("av", reason="needs the extra: pip install 'objecthood[video]'")
    monkeypatch.setattr(frames, "_CAMERAS", {sys.platform: ("/dev/none{}", "v4l2")})
    with pytest.raises(ImageError, match="camera 3: cannot be opened"):
        read_camera(3)
    monkeypatch.setattr(frames, "_CAMERAS", {})
    with pytest.raises(ImageError, match="cameras of .* are not known here"):
        read_camera()


def test_frames_are_read_one_by_one(tmp_path):
    """Of a video no more is decoded than is asked for."""
    path = write_bars(tmp_path / "clip.mp4")
    whole = path.read_bytes()
    assert len(list(itertools.islice(read_frames(path), 2))) == 2 and path.read_bytes() == whole

"""The gate: every odd image comes out right, every bad one as one line, and no file is ever changed."""

from __future__ import annotations

import gc
import hashlib
import io
import logging
import multiprocessing
import os
import re
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import crafted
import numpy as np
import pytest
from corpus import PICTURE, Case, encode, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from peak import peak_growth
from PIL import Image

from objecthood.data.io import coded_sizes, images
from objecthood.data.io.images import ImageError, find_images, read_image, resize_image

SIGNATURES = {
    "PNG": b"\x89PNG\r\n\x1a\n", "JPEG": b"\xff\xd8\xff", "GIF": b"GIF89a", "WEBP": b"RIFF\0\0\0\0WEBPVP8L",
    "TIFF": b"II*\0", "BMP": b"BM", "PPM": b"P6", "ICO": b"\0\0\1\0", "JPEG2000": b"\xff\x4f\xff\x51",
    "AVIF": b"\0\0\0\x1cftypavif",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


AREA = "Images and videos"


def pick(corpus: list[Case], name: str) -> Case:
    return next(case for case in corpus if case.name == name)


def try_to_read(source, **options) -> np.ndarray | ImageError:
    """The array or the ImageError; anything else that is raised fails the test."""
    try:
        return read_image(source, **options)
    except ImageError as error:
        return error


def snapshot(folder: Path) -> dict[Path, tuple]:
    """Content and time of change of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (hashlib.sha256(path.read_bytes()).digest(), path.stat().st_mtime_ns) for path in files}


def test_corpus_is_large(corpus):
    assert sum(case.expected is not None for case in corpus) >= 80
    assert sum(case.error is not None for case in corpus) >= 45


def test_every_image_has_the_expected_pixels(corpus, scoreboard):
    wrong: dict[str, object] = {}
    tried = sum(case.expected is not None for case in corpus)
    for case in corpus:
        if case.expected is None:
            continue
        found = try_to_read(case.path)
        if isinstance(found, ImageError) or found.shape != case.expected.shape:
            wrong[case.name] = found if isinstance(found, ImageError) else found.shape
            continue
        assert found.dtype == np.uint8 and found.flags.writeable and found.flags.c_contiguous
        distance = np.abs(found.astype(int) - case.expected).max()
        if distance > case.tolerance:
            wrong[case.name] = distance
    assert not wrong
    scoreboard(AREA, "odd images (modes, depths, profiles, turns, animations): the right pixels", tried)


def test_every_bad_file_gives_one_line_that_names_it(corpus, scoreboard):
    wrong = {}
    tried = sum(case.error is not None for case in corpus)
    for case in corpus:
        if case.error is None:
            continue
        found = try_to_read(case.path)
        message = str(found)
        named = repr(str(case.path)) in message and len(message.splitlines()) == 1
        if not (isinstance(found, ImageError) and named and re.search(case.error, message)):
            wrong[case.name] = found
    assert not wrong
    scoreboard(AREA, "cut, empty, foreign files and bombs: one line that names the file", tried)


def test_bytes_and_streams_read_as_files_do(corpus):
    for case in corpus:
        if not case.path.is_file():
            continue
        content = case.path.read_bytes()
        with open(case.path, "rb") as stream:
            outcomes = [try_to_read(content), try_to_read(io.BytesIO(content)), try_to_read(stream)]
        for found in outcomes:
            if case.expected is None:
                assert isinstance(found, ImageError) and re.search(case.error, str(found)), case.name
            else:
                np.testing.assert_array_equal(found, read_image(case.path), err_msg=case.name)


def test_a_stream_is_read_from_where_it_stands():
    stream = io.BytesIO(b"ten bytes!" + encode(PICTURE, "PNG"))
    stream.seek(10)
    np.testing.assert_array_equal(read_image(stream), PICTURE)


def test_files_are_never_changed(corpus, scoreboard):
    folder = corpus[0].path.parent
    before = snapshot(folder)
    for case in corpus:
        try_to_read(case.path)
    assert len(before) > 120 and snapshot(folder) == before
    scoreboard(AREA, "files of the user: SHA-256 and time of change as before", len(before))


def test_files_are_closed(corpus):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcomes = [try_to_read(case.path) for case in corpus]
        gc.collect()
    assert [str(warning.message) for warning in caught] == [] and len(outcomes) == len(corpus)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux lists them")
def test_refused_files_are_closed_even_while_their_errors_live(corpus):
    before = len(os.listdir("/proc/self/fd"))
    errors = [try_to_read(case.path) for case in corpus if case.error]
    assert errors and len(os.listdir("/proc/self/fd")) == before


def test_warnings_of_pillow_stay_inside(corpus, capfd, monkeypatch):
    filters = list(warnings.filters)
    monkeypatch.setattr(logging.root, "handlers", [])  # as without pytest: errors logged go to stderr
    with warnings.catch_warnings(record=True) as inside:
        warnings.simplefilter("always")
        for case in corpus:
            try_to_read(case.path)
    with warnings.catch_warnings(record=True) as outside:
        warnings.simplefilter("always")
        for name in ("bomb decodes.png", "damaged exif.jpg"):
            with Image.open(pick(corpus, name).path) as image:
                image.getexif()
    assert not inside and outside, "Pillow by itself must warn, or this test shows nothing"
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")


def test_threads_leave_the_warning_filters_alone(corpus):
    filters = list(warnings.filters)
    paths = [case.path for case in corpus if case.expected is not None]
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(read_image, paths * 2))) == 2 * len(paths)
    assert warnings.filters == filters


def _mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Overwrite a few bytes (half the time within the header), and now and then cut or double a stretch."""
    changed = bytearray(content)
    reach = len(changed) if random.random() < 0.5 else min(64, len(changed))
    for position in random.integers(0, reach, random.integers(1, 9)):
        changed[position] = random.choice([0, 255, changed[position] ^ 1, random.integers(256)])
    start, stop = sorted(random.integers(0, len(changed), 2))
    if random.random() < 0.2:
        del changed[start:stop]
    elif random.random() < 0.2:
        changed[start:start] = changed[start:stop]
    return bytes(changed)


@pytest.mark.parametrize("image_format", sorted(set(SIGNATURES) - {"AVIF", "PPM"}))
def test_mutated_bytes_give_an_array_or_one_line(image_format, tmp_path, capfd, scoreboard):
    random = np.random.default_rng(sorted(SIGNATURES).index(image_format))
    noise = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if image_format in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    content = encode(noise[..., 0] if image_format == "GIF" else noise, image_format, **options)
    refused = 0
    paths = [tmp_path / f"{number}" for number in range(72)]
    for path in paths:
        path.write_bytes(_mutate(content, random))
    before = snapshot(tmp_path)
    for path in paths:
        found = try_to_read(path, max_pixels=1_000_000)
        if isinstance(found, ImageError):
            refused += 1
            assert len(str(found).splitlines()) == 1
        else:
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size
    assert refused >= 10, "mutations too mild to show anything"
    assert capfd.readouterr() == ("", ""), "libraries print what is broken"
    assert snapshot(tmp_path) == before
    scoreboard(AREA, "damaged bytes of 8 formats: pixels or one line, the file unchanged", len(paths))


@given(signature=st.sampled_from(sorted(SIGNATURES.values())), rest=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_behind_a_signature_give_an_array_or_one_line(signature, rest):
    found = try_to_read(signature + rest, max_pixels=10_000)
    assert found.ndim == 3 if isinstance(found, np.ndarray) else len(str(found).splitlines()) == 1


@given(pixels=st.binary(min_size=60, max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_pixels_survive_a_lossless_file(pixels):
    picture = np.frombuffer(pixels, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(read_image(encode(picture, "PNG")), picture)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux puts it")
def test_bombs_are_refused_early(corpus, scoreboard):
    bombs = [case.path for case in corpus if case.name.startswith("bomb")]
    honest = encode(Image.new("1", (6000, 5000)), "PNG")
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh process, whose peak is its own
        growth, seconds, control = pool.apply(peak_growth, (bombs, honest))
    assert len(bombs) >= 15 and max(path.stat().st_size for path in bombs) < 1_000_000
    assert growth <= 50 and seconds <= 0.5
    assert control > 50, "the gauge must see a decoded image, or it shows nothing"
    measured = f"memory grew by {growth:.0f} MB, slowest {seconds:.2f} s"
    scoreboard(AREA, "decompression bombs refused from their headers", len(bombs), measured=measured)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux puts it")
def test_files_that_hold_more_than_they_say_are_refused_early(tmp_path, scoreboard):
    """Tiles, icons, boxes, codestreams and frames that state few pixels and hold many, and hundreds of
    scans."""
    files = dict(crafted.contradictions()) | {
        "scans.jpg": crafted.jpeg_of_scans(1000, 200),
        "large scans.jpg": crafted.jpeg_of_scans(3000, 89),
        "runs.bmp": crafted.bitmap_of_runs(5000),
        "runs.ico": crafted.icon(crafted.bitmap_of_runs(5000)[14:]),
    }
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.write_bytes(files[path.name])
    honest = encode(Image.new("1", (6000, 5000)), "PNG")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        growth, seconds, control = pool.apply(peak_growth, (paths, honest))
    assert len(paths) >= 10 and max(map(len, files.values())) < 2_000_000
    assert growth <= 50 and seconds <= 0.5 and control > 50
    measured = f"memory grew by {growth:.0f} MB, slowest {seconds:.2f} s"
    scoreboard(AREA, "files that hold more pixels or scans than they say: refused early", len(paths),
               measured=measured)  # fmt: skip


def test_honest_files_of_such_structure_are_read():
    """Tiles, even larger than a small image; ten scans; icons of PNG; sequences and several coded images."""
    stream = io.BytesIO(crafted.tiled_tiff(16, 256))
    assert read_image(stream).shape == (16, 16, 3)
    assert read_image(crafted.jpeg_of_scans(500, 90)).shape == (500, 500, 3)
    assert read_image(crafted.bitmap_of_runs(50)).shape == (50, 50, 3)
    assert read_image(crafted.icon(crafted.png_chunks(
        (b"IHDR", crafted.header_of_png(16, 16)), (b"IDAT", crafted.black_rows(16)), (b"IEND", b"")
    ))).shape == (16, 16, 3)  # fmt: skip
    rgba = np.dstack([np.resize(PICTURE, (90, 120, 3)), np.full((90, 120), 200, np.uint8)])
    for options in ({}, {"save_all": True, "append_images": [Image.fromarray(rgba)] * 2}):
        found = read_image(encode(rgba, "AVIF", speed=10, **options), max_pixels=90 * 120)
        assert found.shape == (90, 120, 3)


def test_large_tiles_are_named():
    """Here, where coverage is measured; what they would take is measured in a process of its own."""
    content = crafted.tiled_tiff(16, 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images.limits, "TILE_PIXELS", 256 * 256 - 1)
        with pytest.raises(ImageError, match="tiles of 256 x 256 = 65536 pixels; at most 65535 are allowed"):
            read_image(content)
    for sides in ((0, 16), (16, 0)):
        tags = {256: (4, [16]), 257: (4, [16]), 322: (4, [sides[0]]), 323: (4, [sides[1]])}
        with pytest.raises(ValueError, match="a tile of"):
            coded_sizes.tile_size(Image.open(io.BytesIO(content)).__class__(io.BytesIO(
                crafted.tiff(tags | {258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 324: (4, [8])})
            )))  # fmt: skip


def bits(*fields: tuple[int, int]) -> bytes:
    """Numbers as (value, bits), from the highest bit on, filled up to bytes."""
    text = "".join(f"{value:0{count}b}" for value, count in fields)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


def sequence(*middle: tuple[int, int], width: int = 640, height: int = 480, sides: int = 10) -> bytes:
    """An open bitstream unit with a sequence header (AV1, 5.5.1); `middle` is what its size comes after."""
    size = ((sides - 1, 4), (sides - 1, 4), (width - 1, sides), (height - 1, sides))
    content = bits((0, 3), (1, 1), *middle, *size)
    return b"\x12\x00" + bytes([0x0A, len(content)]) + content


OPERATING_POINTS = {
    "one": ((0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (5, 5)),
    "of a high level": ((0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (9, 5), (1, 1)),
    "timing": ((0, 1), (1, 1), (1, 32), (25, 32), (0, 1), (0, 1), (0, 1), (0, 5), (0, 12), (5, 5)),
    "equal intervals, a decoder model, delays, two points": (
        (0, 1), (1, 1), (1, 32), (25, 32), (1, 1), (0b00101, 5), (1, 1), (9, 5), (7, 32), (3, 5), (3, 5),
        (1, 1), (1, 5), (0, 12), (5, 5), (1, 1), (99, 10), (98, 10), (0, 1), (1, 1), (7, 4),
        (3, 12), (5, 5), (0, 1), (0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fields", OPERATING_POINTS.values(), ids=OPERATING_POINTS)
def test_sizes_of_sequence_headers(fields):
    """A frame may be as large as the bits of a side allow; a reduced header has the size of its only one."""
    assert list(coded_sizes._sequence_sizes(sequence(*fields))) == [((640, 480), (1024, 1024))]
    assert list(coded_sizes._sequence_sizes(sequence((1, 1), (5, 5)))) == [((640, 480), (640, 480))]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "without a sequence header"), (b"\x12\x00", "without a sequence header"),
        (sequence((1, 1), (5, 5))[:-2], "a damaged AV1 frame"), (b"\x0a\xff", "a damaged AV1 frame"),
        (b"\x0a" + b"\xff" * 9, "a damaged AV1 frame"), (b"\x8a\x00", "a damaged AV1 frame"),
        (b"\x0a\x01\x00", "a damaged sequence header"),
        (b"\x08\x00\x00", "a damaged sequence header"),
    ],
)  # fmt: skip
def test_damaged_sequence_headers(data, problem):
    with pytest.raises(ValueError, match=problem):
        list(coded_sizes._sequence_sizes(data))


def wrapped(kind: bytes, content: bytes, long: bool = False) -> bytes:
    """A box."""
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def container(data: bytes, version: int = 1, method: int = 1, wide: bool = False, extents: int = 1) -> bytes:
    """A file of one coded item, in `idat` or (`method` 0) behind all boxes, in so many parts."""
    number = ">I" if version == 2 else ">H"
    named = struct.pack(">IH4s" if wide else ">HH4s", 7, 0, b"av01")
    entry = wrapped(b"infe", bytes([3 if wide else 2, 0, 0, 0]) + named)
    count = struct.pack(">I" if wide else ">H", 1)
    items = wrapped(b"iinf", bytes([int(wide), 0, 0, 0]) + count + entry, long=wide)

    def table(base: int) -> bytes:
        item = struct.pack(number, 7) + (struct.pack(">H", method) if version else b"") + bytes(2)
        part = len(data) // extents
        item += struct.pack(">I", base) + struct.pack(">H", extents)
        for place in range(extents):
            size = part if place < extents - 1 else len(data) - part * (extents - 1)
            item += (b"\0\0" if version else b"") + struct.pack(">II", part * place, size)
        sizes = bytes([version, 0, 0, 0, 0x44, 0x42 if version else 0x40]) + struct.pack(number, 1)
        return wrapped(b"iloc", sizes + item)

    idat = wrapped(b"idat", data) if method else b""

    def whole(base: int) -> bytes:
        meta = wrapped(b"meta", bytes(4) + items + table(base) + idat)
        return wrapped(b"ftyp", b"avif" + bytes(12)) + meta + wrapped(b"mdat", b"" if method else data)

    return whole(0) if method else whole(whole(0).index(b"mdat") + 4)


def test_sizes_of_coded_items_wherever_they_lie():
    data = sequence((1, 1), (5, 5))
    for version in (0, 1, 2):
        for method in (0, 1) if version else (0,):
            for wide in (False, True):
                for extents in (1, 3):
                    stream = io.BytesIO(container(data, version, method, wide, extents))
                    assert coded_sizes.coded_sizes(stream) == [((640, 480), (640, 480))]
    with pytest.raises(ImageError, match="640 x 480 = 307200 pixels; at most 307199 are allowed"):
        read_image(container(data), max_pixels=307_199)
    with pytest.raises(ImageError, match="1024 x 1024 = 1048576 pixels; at most 1048572"):
        read_image(container(sequence(*OPERATING_POINTS["one"], width=500)), max_pixels=262_143)
    with pytest.raises(ImageError, match="5 coded images; at most 307200 are allowed"):
        read_image(container(data * 5), max_pixels=307_200)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-30],
        lambda whole: whole.replace(b"meta", b"atem"),
        lambda whole: whole.replace(b"iloc", b"coli"),
        lambda whole: whole.replace(b"av01", b"hvc1"),
        lambda whole: whole.replace(b"iloc\x01\0\0\0\x44\x42\0\1", b"iloc\x01\0\0\0\x44\x42\xff\xff"),
        lambda whole: whole[:20] + struct.pack(">I4s", 4, b"free") + whole[20:],
        lambda whole: whole[:20] + struct.pack(">I4s", 8, b"free") * 10_001 + whole[20:],
    ],
)
def test_damaged_containers(damage):
    whole = container(sequence((1, 1), (5, 5)))
    coded_sizes.coded_sizes(io.BytesIO(whole))
    with pytest.raises((ValueError, struct.error)):
        coded_sizes.coded_sizes(io.BytesIO(damage(whole)))
    assert isinstance(try_to_read(damage(whole)), ImageError)


def test_scans_are_counted_to_the_end_of_the_image_alone():
    """What stands in segments (thumbnails, maps) or behind the image (a phone's video) is no scan."""
    marks = b"\xff\xda\x00\x04" * 5000
    image = encode(PICTURE, "JPEG", exif=b"Exif\0\0" + marks)
    assert read_image(image + marks).shape == PICTURE.shape
    assert coded_sizes.count_scans(io.BytesIO(image + marks), 99) == 1
    scans = crafted.jpeg_of_scans(40, 95)
    assert coded_sizes.count_scans(io.BytesIO(scans.replace(b"\xff\xda", b"\xff\xff\xff\xda")), 999) == 101
    with pytest.raises(ImageError, match="more than 100 scans of 40 x 40 pixels"):
        read_image(scans)
    large = encode(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8), "JPEG", quality=98,
                   progressive=True, restart_marker_rows=1)  # fmt: skip
    assert len(large) > 2 * 65536  # over several blocks
    assert coded_sizes.count_scans(io.BytesIO(large), 99) == 10
    for block in (7, 64, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(coded_sizes, "_BLOCK", block)
            assert coded_sizes.count_scans(io.BytesIO(large), 99) == 10


@pytest.mark.parametrize(
    "between", [b"\xff\xfe\0\2\0", b"\xff\xfe\0\2\xff\0\xff\xff", b"\xff\xfe\0\0", b"\xff" * 9]
)
def test_scans_are_counted_behind_what_decoders_pass_over(between):
    assert read_image(crafted.jpeg_of_scans(40, 50, between)).shape == (40, 40, 3)
    with pytest.raises(ImageError, match="more than 100 scans of 40 x 40 pixels"):
        read_image(crafted.jpeg_of_scans(40, 150, between))


@pytest.mark.parametrize("error", [lambda cut: read_image(cut), lambda cut: read_image(cut, max_pixels=5)])
def test_an_error_that_is_kept_holds_no_pixels(error):
    """Errors live on in lists, logs and reference cycles; a decoded image must not."""
    whole = encode(np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8), "PNG")
    gc.collect()
    with pytest.raises(ImageError) as caught:
        error(whole[: len(whole) // 2])
    held, seen = [caught.value], set()
    while held:
        one = held.pop()
        seen.add(type(one))
        frame = one.__traceback__
        while frame:
            assert not any(isinstance(value, Image.Image) for value in frame.tb_frame.f_locals.values())
            frame = frame.tb_next
        held += [other for other in (one.__cause__, one.__context__) if other is not None]
    assert len(seen) <= 3


def test_white_is_laid_under_transparency_exactly():
    """As the definition has it, within rounding, for all pairs of colour and alpha."""
    alpha, colour = np.mgrid[:256, :256].astype(np.uint8)
    found = read_image(encode(np.dstack([colour] * 3 + [alpha]), "PNG"))[..., 0]
    expected = colour * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak where Linux puts it")
def test_memory_of_a_transparent_image_is_bounded(monkeypatch):
    """Of the largest upload's kind: ten bytes a pixel (the file's four, the result's four, opacity twice)."""
    content = encode(Image.new("RGBA", (4000, 2500), (9, 8, 7, 6)), "PNG")
    # glibc raises this threshold as it goes and then keeps freed pixels, so that the peak varied by a third.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, _, growth = pool.apply(peak_growth, ([], content))
    assert 40 < growth < 105, f"{growth:.0f} MB for 10 million pixels"


def test_pixel_limit_is_exact_and_adjustable(corpus):
    path = pick(corpus, "1 x 5000.png").path
    assert read_image(path, max_pixels=5000).shape == (1, 5000, 3)
    with pytest.raises(ImageError, match="5000 x 1 = 5000 pixels; at most 4999 are allowed"):
        read_image(path, max_pixels=4999)
    # Above the point where Pillow by itself refuses (179 million): only our own limit counts.
    found = try_to_read(pick(corpus, "bomb 4 gigapixels.png").path, max_pixels=3_000_000_000)
    assert "60000 x 60000 = 3600000000 pixels; at most 3000000000" in str(found)


def bitmap_icon(*sizes: tuple[int, int]) -> bytes:
    """An icon whose table says 16 x 16 of each image, and whose bitmaps' own headers say `sizes`."""
    table, bitmaps = b"", b""
    for width, height in sizes:
        table += bytes([16, 16, 0, 0, 1, 0, 32, 0])
        table += struct.pack("<II", 40, 6 + 16 * len(sizes) + len(bitmaps))
        bitmaps += struct.pack("<IiiHH24x", 40, width, height, 1, 32)
    return b"\0\0\1\0" + struct.pack("<H", len(sizes)) + table + bitmaps


@pytest.mark.parametrize(
    "icon",
    [
        bitmap_icon((300, 400)),
        bitmap_icon((300, -400)),
        bitmap_icon((300, 400), (16, 32)),
    ],
    ids=["one", "upside down", "first"],
)
def test_icons_are_as_large_as_their_decoded_bitmap_says(icon):
    """Height counts image and mask. Of entries of one stated size, the first is decoded."""
    with pytest.raises(ImageError, match="300 x 200 = 60000 pixels; at most 59999 are allowed"):
        read_image(icon, max_pixels=59_999)
    assert "pixels; at most" not in str(try_to_read(icon, max_pixels=60_000))
    second = bitmap_icon((16, 32), (300, 400))
    assert "pixels; at most" not in str(try_to_read(second, max_pixels=59_999))


def test_an_icon_of_nothing_is_not_called_too_large():
    assert "pixels; at most" not in str(try_to_read(b"\0\0\1\0\0\0", max_pixels=1))
    assert "pixels; at most" in str(try_to_read(bitmap_icon((1, 4)), max_pixels=1))


def test_no_more_of_a_stream_is_read_than_tells_that_it_is_too_long(corpus):
    class Told(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    asked: list[int] = []
    read_image(Told(next(case for case in corpus if not case.error).path.read_bytes()))
    assert asked == [images.MAX_FILE_BYTES + 1]


def test_no_name_is_handed_to_a_decoder(corpus, monkeypatch):
    """With a name, Pillow would map that file, whatever it is by then, into memory."""
    names = []
    factory, accepts = Image.OPEN["PNG"]
    monkeypatch.setitem(
        Image.OPEN, "PNG", (lambda file, name: names.append(name) or factory(file, name), accepts)
    )
    read_image(next(case.path for case in corpus if case.path.suffix == ".png" and not case.error))
    assert names == [""]


def test_file_size_is_limited(corpus, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 50)
    path = pick(corpus, "plain.png").path
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ImageError, match="too many bytes; at most 50 are allowed"):
            read_image(source)
    content = path.read_bytes()
    for limit, fits in ((len(content), True), (len(content) - 1, False)):
        monkeypatch.setattr(images, "MAX_FILE_BYTES", limit)
        assert isinstance(try_to_read(content), np.ndarray) == fits
        assert isinstance(try_to_read(path), np.ndarray) == fits


@pytest.mark.parametrize("image_format", ["TGA", "PCX", "SGI", "DDS", "PDF", "EPS", "XBM"])
def test_formats_off_the_list_are_not_opened(image_format):
    with pytest.raises(ImageError, match="not a readable image"):
        read_image(encode(Image.new("1" if image_format == "XBM" else "RGB", (8, 8)), image_format))


def test_unreadable_file(corpus, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match="plain.png': cannot be opened .Permission denied."):
        read_image(pick(corpus, "plain.png").path)


@pytest.mark.parametrize(
    "error, told",
    [(MemoryError(), "MemoryError"), (KeyError("a\nb"), r"'a\nb'"), (OSError("two\n lines."), "two lines")],
)
def test_whatever_a_decoder_raises_is_one_line(corpus, monkeypatch, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(images, "_flatten_to_srgb", fail)
    with pytest.raises(ImageError) as caught:
        read_image(pick(corpus, "plain.png").path)
    assert f"damaged image ({told})" in str(caught.value) and "\n" not in str(caught.value)


def test_format_that_this_pillow_lacks(corpus, monkeypatch):
    factory, _ = Image.OPEN["PNG"]
    monkeypatch.setitem(Image.OPEN, "PNG", (factory, lambda prefix: "PNG support not installed"))
    with pytest.raises(ImageError, match="not a readable image"):
        read_image(pick(corpus, "plain.png").path)


def test_hue_saturation_value():
    """No format on the list stores HSV, but a mode must not be what breaks the gate."""
    picture = images._flatten_to_srgb(Image.fromarray(PICTURE).convert("HSV"))
    assert np.abs(np.asarray(picture).astype(int) - PICTURE).max() <= 6


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with images, other files and hidden ones; the images need no content to be found."""
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "sub/deep/Ü 猫.tif", "sub/line\nbreak.png", "x[1].png",
                 "notes.txt", "odd.xyz", ".hidden.png", ".git/d.png", "._a.jpg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


EVERYTHING = ["a.jpg", "b.PNG", "sub/c.webp", "sub/deep/Ü 猫.tif", "sub/line\nbreak.png", "x[1].png"]


@pytest.mark.parametrize(
    "asked, expected",
    [
        (["."], EVERYTHING),
        (["sub"], ["sub/c.webp", "sub/deep/Ü 猫.tif", "sub/line\nbreak.png"]),
        (["odd.xyz"], ["odd.xyz"]),
        ([".hidden.png"], [".hidden.png"]),
        (["x[1].png"], ["x[1].png"]),
        (["*.png"], ["x[1].png"]),
        (["*"], EVERYTHING),
        (["**/*.tif"], ["sub/deep/Ü 猫.tif"]),
        (["sub/line\nbreak.png", "b.PNG", "a.jpg"], ["sub/line\nbreak.png", "b.PNG", "a.jpg"]),
        (
            ["x[1].png", "b.PNG", ".", "sub/../b.PNG"],
            ["x[1].png", "b.PNG", *EVERYTHING[:1], *EVERYTHING[2:5]],
        ),
        ([], []),
    ],
)
def test_find_images(tree, asked, expected):
    found = find_images([f"{tree}/{path}" for path in asked])
    assert [os.path.relpath(path, tree) for path in found] == expected
    assert all(isinstance(path, Path) for path in found)


def test_find_images_from_the_current_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert find_images([Path("sub"), "a.jpg"])[-1] == Path("a.jpg")


@pytest.mark.parametrize(
    "asked, problem",
    [
        ("none.png", "none.png': no such file, folder or pattern"),
        ("none*.png", "none*.png': no such file, folder or pattern"),
        ("no\nne.png", r"no\nne.png': no such file"),
        ("*.txt", "*.txt': no image among 1 files; images end in .apng"),
        (".git/empty", "no image among 0 files"),
    ],
)
def test_find_images_says_what_gave_nothing(tree, asked, problem):
    (tree / ".git/empty").mkdir()
    with pytest.raises(ImageError) as caught:
        find_images([f"{tree}/a.jpg", f"{tree}/{asked}"])
    assert problem in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_find_images_does_not_pass_over_a_folder_it_cannot_list(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match="deep': cannot be listed .Permission denied."):
        find_images([tree])


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (9, 12), (40, 5)])
def test_resize_gives_exactly_the_size_and_keeps_a_plain_colour(size):
    plain = np.full((9, 12, 3), (3, 140, 250), dtype=np.uint8)
    found = resize_image(plain, size)
    assert found.shape == (*size, 3) and found.dtype == np.uint8 and (found == plain[0, 0]).all()


def test_resize_keeps_a_image_of_the_same_size():
    np.testing.assert_array_equal(resize_image(PICTURE, PICTURE.shape[:2]), PICTURE)


def test_resize_shows_the_whole_image_without_proportions():
    halves = np.zeros((10, 100, 3), dtype=np.uint8)
    halves[:, 50:] = 200
    found = resize_image(halves, (10, 10))[..., 0]
    assert (found[:, :4] == 0).all() and (found[:, 6:] == 200).all()


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = resize_image(stripes, (8, 8))[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 127.5).max() <= 2, "one pixel in eight would be all black or all white"


def test_resize_refuses_no_pixels():
    with pytest.raises(ValueError, match="must be > 0"):
        resize_image(PICTURE, (0, 5))


def test_a_name_too_long_for_any_file_is_told_shortened():
    with pytest.raises(ImageError, match="cannot be opened") as caught:
        read_image("begin" + "x" * 5000 + "end.png")
    assert len(str(caught.value)) < 600 and "'begin" in str(caught.value) and "end.png'" in str(caught.value)

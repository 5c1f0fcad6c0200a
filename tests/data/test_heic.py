"""HEIC: the primary image, once upright, in sRGB; files that hold more than they say; and no decoder."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import threading
import types

import crafted
import numpy as np
import pytest
from corpus import ALPHA, HEIC, PICTURE, encode, encode_heic, from_linear, make_profile, over_white
from PIL import Image

from objecthood.data.clip_folder import videos
from objecthood.data.io import coded_sizes, heic
from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import (
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    ImageWarning,
    find_images,
    read_image,
    read_orientation,
)

AREA = "Images and videos"
LARGE = np.repeat(np.repeat(PICTURE, 8, 0), 8, 1)
needs_heic = pytest.mark.skipif(not HEIC, reason="needs the extra: pip install 'objecthood[heic]'")


def farthest(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max())


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@needs_heic
def test_every_orientation_comes_upright_once(scoreboard):
    """Phones write it into a box, which counts, and again into EXIF."""
    flipped = LARGE.transpose(1, 0, 2)
    upright = {
        1: LARGE, 2: LARGE[:, ::-1], 3: LARGE[::-1, ::-1], 4: LARGE[::-1], 5: flipped,
        6: np.rot90(LARGE, -1), 7: flipped[::-1, ::-1], 8: np.rot90(LARGE),
    }  # fmt: skip
    for orientation, expected in upright.items():
        content = encode_heic(LARGE, exif=oriented(orientation))
        assert b"irot" in content or b"imir" in content or orientation == 1
        assert b"Exif" in content
        assert farthest(read_image(content), expected) <= 2
        assert farthest(read_image(content, upright=False), expected) <= 2
        assert read_orientation(content) == 1
    boxless = encode_heic(LARGE, exif=oriented(6)).replace(b"irot", b"free")
    assert farthest(read_image(boxless), LARGE) <= 2
    scoreboard(AREA, "HEIC in every orientation: upright, once", len(upright))


@needs_heic
def test_tiles_opacity_depth_and_grey():
    tiled = np.tile(LARGE, (2, 2, 1))
    content = encode_heic(tiled, tile_size=64)
    assert content.count(b"hvc1") == 9 and farthest(read_image(content), tiled) <= 2
    alpha = np.repeat(np.repeat(ALPHA, 8, 0), 8, 1)
    content = encode_heic(np.dstack([LARGE, alpha]), quality=-1, matrix_coefficients=0)
    assert farthest(read_image(content), over_white(LARGE, alpha)) <= 1
    premultiplied = Image.fromarray(np.dstack([LARGE, alpha])).convert("RGBa")
    content = encode_heic(premultiplied, quality=-1, matrix_coefficients=0)
    assert b"prem" in content and farthest(read_image(content), over_white(LARGE, alpha)) <= 2
    grey = LARGE[..., :1].repeat(3, -1)
    assert farthest(read_image(encode_heic(LARGE[..., 0])), grey) <= 2
    deep = encode_heic(Image.fromarray(LARGE[..., 0].astype(np.uint16) * 257), chroma=420)
    assert farthest(read_image(deep), grey) <= 2
    import pillow_heif

    stream = io.BytesIO()
    deep_colour = (LARGE.astype("<u2") * 257).tobytes()
    pillow_heif.encode("RGB;16", (96, 72), deep_colour, stream, quality=90, chroma=444)
    assert pillow_heif.open_heif(stream).info["bit_depth"] == 10
    assert farthest(read_image(stream.getvalue()), LARGE) <= 2


@needs_heic
def test_of_several_images_the_primary_one_is_taken():
    content = encode_heic(np.zeros_like(LARGE), 255 - LARGE, LARGE, primary_index=2, thumbnails=[32])
    assert farthest(read_image(content), LARGE) <= 2
    alone, _ = heic.primary_image(io.BytesIO(content))
    assert alone.count(b"infe") == 1 and len(alone) < len(content) / 2


def display_p3() -> bytes:
    """A profile as phones write it, but with linear light: the primaries of Display P3."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    srgb = ((0.43607, 0.22250, 0.01393), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
    profile = make_profile(b"RGB ")
    for before, after in zip(srgb, P3, strict=True):
        profile = profile.replace(xyz(*before), xyz(*after))
    return profile


P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
"""Primaries of Display P3, adapted to D50, as the profile has them (SMPTE EG 432-1)."""


@needs_heic
def test_display_p3_becomes_srgb():
    picture = (LARGE // 4 + 90).astype(np.uint8)  # within sRGB
    found = read_image(encode_heic(picture, icc_profile=display_p3(), quality=-1, matrix_coefficients=0))
    srgb = np.array(((0.43607, 0.22250, 0.01393), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)))
    expected = from_linear(picture / 255 @ np.array(P3) @ np.linalg.inv(srgb))
    assert farthest(found, expected) <= 2
    assert farthest(found, from_linear(picture / 255)) > 8, "else the primaries would not matter"


@needs_heic
def test_nothing_outside_is_changed_and_one_thread_decodes(monkeypatch):
    import pillow_heif

    before, threads = dict(vars(pillow_heif.options)), threading.active_count()
    formats = set(Image.OPEN)
    seen, opened = [], pillow_heif.HeifImageFile

    def spy(*arguments):
        seen.append((pillow_heif.options.DECODE_THREADS, pillow_heif.options.DISABLE_SECURITY_LIMITS))
        return opened(*arguments)

    monkeypatch.setattr(pillow_heif, "HeifImageFile", spy)
    monkeypatch.setattr(pillow_heif.options, "DISABLE_SECURITY_LIMITS", True)
    read_image(encode_heic(np.tile(LARGE, (2, 2, 1)), tile_size=64))
    assert seen == [(0, False)]
    assert vars(pillow_heif.options) == before | {"DISABLE_SECURITY_LIMITS": True}
    assert set(Image.OPEN) == formats and "HEIF" not in Image.OPEN
    assert threading.active_count() <= threads


@needs_heic
def test_other_formats_are_read_without_it(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    (tmp_path / "a.png").write_bytes(encode(PICTURE, "PNG"))
    assert [read_image(path).shape for path in find_images([tmp_path])] == [PICTURE.shape]
    assert "pillow_heif" not in sys.modules


@needs_heic
def test_folders_hold_heic(tmp_path):
    for number, suffix in enumerate(("HEIC", "heif", "hif")):
        (tmp_path / f"{number}.{suffix}").write_bytes(encode_heic(LARGE))
    assert [path.name for path in find_images([tmp_path])] == ["0.HEIC", "1.heif", "2.hif"]
    assert FrameFolder(tmp_path).num_frames == 3 and list(videos(tmp_path)) == [tmp_path]


def test_without_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    photo = tmp_path / "photo.heic"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60))
    hint = "pip install 'objecthood[heic]'"
    with pytest.raises(ImageFormatError) as caught:
        read_image(photo)
    assert str(caught.value) == f"{str(photo)!r}: HEIC images need pillow-heif; {hint}"
    with pytest.raises(ImageError, match=r"no image among 1 files \(1 .heic\).*for HEIC, pip install"):
        find_images([tmp_path])
    (tmp_path / "a.png").write_bytes(encode(PICTURE, "PNG"))
    with pytest.warns(ImageWarning, match=r"left out 1 .heic, not read here; for HEIC, pip install"):
        assert find_images([tmp_path]) == [tmp_path / "a.png"]
    assert FrameFolder(tmp_path).num_frames == 1


def test_an_old_decoder_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(__version__="1.6.0"))
    with pytest.raises(
        ImageFormatError, match="need pillow-heif 1.8.1 or newer, with its security fixes, not 1.6.0"
    ):
        read_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60))


def test_brands():
    for brands, found in {
        (b"heic",): True, (b"mif1", b"heic"): True, (b"msf1", b"mif1", b"hevc"): True, (b"avif",): False,
        (b"mif1", b"avif", b"heic"): False, (b"mif1",): False, (b"mp42", b"isom"): False,
    }.items():  # fmt: skip
        ftyp = brands[0] + bytes(4) + b"".join(brands[1:])
        content = struct.pack(">I4s", 8 + len(ftyp), b"ftyp") + ftyp
        assert heic.is_heic(io.BytesIO(content)) == found
    assert not heic.is_heic(io.BytesIO(b"")) and not heic.is_heic(io.BytesIO(b"\0\0\0\0ftypmif1"))


def item(number: int, kind: bytes, data: bytes, *properties: tuple[bytes, bytes]) -> heic._Item:
    return heic._Item(number, kind, data, {100 * number + place: one for place, one in enumerate(properties)})


def parts_of(content: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """Coded data and properties of a HEIC of one image."""
    counted = [0]
    file = coded_sizes.unique(content, 0, len(content), counted)
    meta = coded_sizes.unique(content, file[b"meta"][0] + 4, file[b"meta"][1], counted)
    (_, data), *_ = coded_sizes.item_data(content, meta, {1})
    return data, tuple(heic._properties(content, meta[b"iprp"], counted)[1].values())


def ispe(width: int, height: int) -> tuple[bytes, bytes]:
    return b"ispe", struct.pack(">III", 0, width, height)


def grid(rows: int, columns: int, width: int, height: int) -> bytes:
    return struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)


def stating(content: bytes, width: int, height: int) -> bytes:
    return crafted.lying_avif(content, width, height)


@needs_heic
def test_sizes_are_checked_wherever_they_are_stated():
    content = encode_heic(LARGE)
    with pytest.raises(ImageTooLargeError, match="96 x 72 = 6912 pixels; at most 6911 are allowed"):
        read_image(content, max_pixels=96 * 72 - 1)
    assert read_image(content, max_pixels=96 * 72).shape == LARGE.shape
    with pytest.raises(ImageTooLargeError, match="96 x 72 = 6912 pixels; at most 6911"):
        read_image(stating(content, 16, 16), max_pixels=96 * 72 - 1)
    with pytest.raises(ImageTooLargeError, match="70000 x 70000 = 4900000000 pixels"):
        read_image(stating(content, 70_000, 70_000))
    assert isinstance(try_to_read(stating(content, 16, 16)), ImageError), "libheif compares them"


def try_to_read(content: bytes, **options) -> np.ndarray | ImageError:
    try:
        return read_image(content, **options)
    except ImageError as error:
        return error


@needs_heic
def test_grids_that_say_one_thing_and_hold_another():
    data, properties = parts_of(encode_heic(np.zeros((64, 64, 3), np.uint8)))
    tile = item(2, b"hvc1", data, *properties)

    def of(rows: int, columns: int, width: int, height: int, *tiles: int) -> bytes:
        whole = item(1, b"grid", grid(rows, columns, width, height), ispe(width, height))
        return heic._written([whole, tile], {(b"dimg", 1): list(tiles) or [2] * (rows * columns)})

    assert read_image(of(2, 2, 128, 100)).shape == (100, 128, 3), "one tile may come four times"
    with pytest.raises(ImageTooLargeError, match="8000 x 8000 = 64000000 pixels"):
        read_image(of(125, 125, 8000, 8000))
    with pytest.raises(ImageTooLargeError, match="HEVC slices of 16384000 pixels in all; at most 16000000"):
        read_image(of(100, 40, 64, 64), max_pixels=1_000_000)
    for wrong in (of(2, 2, 128, 128, 2), of(2, 2, 128, 128, 2, 2, 2, 2, 2), of(1, 1, 600, 600)):
        assert isinstance(try_to_read(wrong), ImageError)
    with pytest.raises(ImageError, match="a grid of other than HEVC images"):
        read_image(of(2, 2, 128, 128, 1, 2, 2, 2))
    with pytest.raises(ImageError, match="a grid of other than HEVC images"):
        read_image(of(2, 2, 128, 128).replace(b"hvc1", b"iovl", 1))


@needs_heic
def test_images_in_many_slices():
    """The decoder passes over the image at each, JPEG's scans in other words."""
    data, properties = parts_of(encode_heic(np.zeros((512, 512, 3), np.uint8)))
    places = itertools.accumulate((4 + len(unit) for unit in heic._units(data, [0])), initial=0)
    start = next(place for place in places if data[place + 4] >> 1 & 63 < 32)
    many = heic._written([item(1, b"hvc1", data + data[start:] * 99, *properties)], {})
    with pytest.raises(ImageTooLargeError, match="HEVC slices of 26214400 pixels in all; at most 16000000"):
        read_image(many, max_pixels=1_000_000)
    with pytest.raises(ImageError, match="HEVC images of too many units"):
        read_image(heic._written([item(1, b"hvc1", data + bytes(4 * 10_001), *properties)], {}))


def units(*fields: tuple[int, int]) -> bytes:
    """A sequence parameter set of numbers (value, bits); 0 bits: in exponential Golomb code."""
    text = ""
    for value, count in fields:
        text += f"{value:0{count}b}" if count else f"{value + 1:0{2 * (value + 1).bit_length() - 1}b}"
    text += "1" + "0" * (-len(text) % 8)
    content = int(text[: len(text) // 8 * 8], 2).to_bytes(len(text) // 8, "big")
    return b"\x42\x01" + content.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


PLAIN = ((0, 4), (0, 3), (1, 1), (0, 96), (0, 0))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((*PLAIN, (1, 0), (640, 0), (480, 0), (0, 1)), ((640, 480), (640, 480))),
        ((*PLAIN, (3, 0), (0, 1), (640, 0), (480, 0), (0, 1)), ((640, 480), (640, 480))),
        (
            (*PLAIN, (1, 0), (64, 0), (104, 0), (1, 1), (1, 0), (2, 0), (0, 0), (2, 0)),
            ((58, 100), (64, 104)),
        ),
        ((*PLAIN, (2, 0), (64, 0), (104, 0), (1, 1), (0, 0), (2, 0), (0, 0), (4, 0)), ((60, 100), (64, 104))),
        ((*PLAIN, (0, 0), (64, 0), (104, 0), (1, 1), (1, 0), (2, 0), (0, 0), (4, 0)), ((61, 100), (64, 104))),
        (
            ((0, 4), (2, 3), (1, 1), (0, 96), (0b1101, 4), (0, 12), (7, 88), (7, 8), (7, 8), (0, 0),
             (1, 0), (8000, 0), (6000, 0), (0, 1)),
            ((8000, 6000), (8000, 6000)),
        ),
    ],
)  # fmt: skip
def test_sizes_of_sequence_parameter_sets(fields, expected):
    assert heic._size(units(*fields)) == expected


@pytest.mark.parametrize(
    ("unit", "problem"),
    [
        (b"\x42\x01", "a damaged sequence header"), (b"\x42\x01" + bytes(300), "a damaged sequence header"),
        (units(*PLAIN, (1, 0), (64, 0), (104, 0), (1, 1), (32, 0), (0, 0), (0, 0), (0, 0)), "without pixels"),
        (units(*PLAIN, (1, 0), (0, 0), (104, 0), (0, 1)), "without pixels"),
    ],
)  # fmt: skip
def test_damaged_sequence_parameter_sets(unit, problem):
    with pytest.raises(ValueError, match=problem):
        heic._size(unit)


@needs_heic
def test_a_later_sequence_parameter_set_counts():
    """Among the coded data, where only the decoder would see it, it replaces the one in the box."""
    data, properties = parts_of(encode_heic(LARGE))
    larger = units(*PLAIN, (1, 0), (8000, 0), (8000, 0), (0, 1))
    hidden = struct.pack(">I", len(larger)) + larger + data
    with pytest.raises(ImageTooLargeError, match="8000 x 8000 = 64000000 pixels"):
        read_image(heic._written([item(1, b"hvc1", hidden, *properties)], {}))
    cropped = units(*PLAIN, (1, 0), (16000, 0), (16000, 0), (1, 1), (0, 0), (7900, 0), (0, 0), (7900, 0))
    hidden = struct.pack(">I", len(cropped)) + cropped + data
    with pytest.raises(ImageTooLargeError, match="16000 x 16000 = 256000000 pixels; at most 200000000"):
        read_image(heic._written([item(1, b"hvc1", hidden, *properties)], {}))


@needs_heic
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda whole: whole.replace(b"hvc1", b"iden"), "a HEIC file of an image of kind b'iden'; only"),
        (lambda whole: whole.replace(b"meta", b"moov"), "a HEIC file of an image sequence; only"),
        (lambda whole: whole.replace(b"iinf", b"free"), "damaged image .no box b'iinf'"),
        (lambda whole: whole.replace(b"ipco", b"free"), "damaged image .no box b'ipco'"),
        (lambda whole: whole.replace(b"hdlr", b"pitm"), "damaged image .two boxes b'pitm'"),
        (lambda whole: whole.replace(b"hvcC", b"free"), "without a sequence parameter set"),
        (lambda whole: whole.replace(b"ispe", b"free"), "damaged image"),
        (lambda whole: whole.replace(b"iloc", b"free"), "damaged image .no box b'iloc'"),
        (lambda whole: whole[:-20], "damaged image"),
        (lambda whole: whole[: whole.index(b"mdat")], "damaged image"),
        (lambda whole: short_lengths(whole), "a HEIC file of an HEVC image in units of short lengths"),
    ],
)  # fmt: skip
def test_damaged_files_and_other_kinds(change, problem):
    with pytest.raises(ImageError, match=problem) as caught:
        read_image(change(encode_heic(LARGE)))
    assert len(str(caught.value).splitlines()) == 1


@needs_heic
def test_boxes_that_repeat_work_are_bounded():
    data, properties = parts_of(encode_heic(LARGE))
    content = dict(properties)[b"hvcC"]
    many = content[:22] + b"\1\x21" + struct.pack(">H", 101) + b"\0\0" * 101
    with pytest.raises(ImageError, match="damaged image .101 parameter sets"):
        read_image(heic._written([item(1, b"hvc1", data, (b"hvcC", many), ispe(96, 72))], {}))


def short_lengths(whole: bytes) -> bytes:
    changed = bytearray(whole)
    changed[whole.index(b"hvcC") + 4 + 21] &= ~3
    return bytes(changed)


@needs_heic
def test_opacity_of_a_tile_is_left_out():
    """Else it would be decoded with every tile that shares it."""
    data, properties = parts_of(encode_heic(np.zeros((64, 64, 3), np.uint8)))
    alpha = (b"auxC", bytes(4) + b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    whole = heic._written(
        [
            item(1, b"grid", grid(1, 2, 128, 64), ispe(128, 64)),
            item(2, b"hvc1", data, *properties),
            item(3, b"hvc1", data, *properties, alpha),
        ],
        {(b"dimg", 1): [2, 2], (b"auxl", 3): [2]},
    )
    found, _ = heic.primary_image(io.BytesIO(whole))
    assert b"auxl" in whole and b"auxl" not in found and found.count(b"infe") == 2
    assert read_image(whole).shape == (64, 128, 3)


@needs_heic
def test_every_cut_is_refused():
    content = encode_heic(LARGE)
    for length in range(16, len(content), 7):
        assert isinstance(try_to_read(content[:length]), ImageError), length


def test_extents_that_overlap_are_bounded():
    """A small table must not make the reader join gigabytes."""
    content = bytes(2**22)
    table = struct.pack(">IBBHHHH", 0, 0x44, 0, 1, 1, 0, 999) + struct.pack(">II", 0, 2**22) * 999
    whole = content + table
    with pytest.raises(ValueError, match="coded data that overlap"):
        list(coded_sizes.item_data(whole, {b"iloc": (len(content), len(whole))}, {1}))
    with pytest.raises(ValueError, match="a table of 1048577 bytes"):
        coded_sizes.Fields(content, 0, 2**20 + 1)

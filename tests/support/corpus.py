"""Odd and damaged images, made on the spot, each with the pixels or the error that must come out of it.

Expected pixels come from formulas on the arrays that were stored, never from reading the file back.
"""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageCms, features

Draft = tuple[str, bytes, "np.ndarray | str", int]  # file name, content, expected pixels or error, tolerance

HEIGHT, WIDTH = 9, 12
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
# Smooth, for lossy formats; without any symmetry, so that a wrong turn or flip shows.
PICTURE = np.stack([COLUMNS * 20, ROWS * 25, np.full_like(ROWS, 90)], axis=-1)
GREY = COLUMNS * 16 + ROWS * 4
ALPHA = ROWS * 30
FINE = {"quality": 95, "subsampling": 0}
LOSSY = 5  # JPEG at quality 95 and without subsampling stays at 4 or below
CUT = "damaged image"
NEED_PILLOW_13 = ("premultiplied.tif", "luma.tif")  # earlier versions, as on Python 3.10, cannot read them
HEIC = importlib.util.find_spec("pillow_heif") is not None
FOREIGN = "not a readable image, begins with"
BOMB = "at most 50000000 are allowed|Decompressed data too large"


@dataclass(frozen=True)
class Case:
    """One file: `expected` pixels within `tolerance` (of 255), or `error`, a pattern its message matches."""

    name: str
    path: Path
    expected: np.ndarray | None = None
    tolerance: int = 0
    error: str | None = None


def write_corpus(folder: Path) -> list[Case]:
    """Write all files into `folder` (which exists) and say what each must give."""
    cases = []
    groups = (_formats, _modes, _deep, _orientations, _profiles, _animations, _shapes, _cut, _foreign, _bombs)
    for name, content, result, tolerance in (draft for group in groups for draft in group()):
        path = folder / name
        path.write_bytes(content)
        if name in NEED_PILLOW_13 and int(PIL.__version__.split(".")[0]) < 13:
            result = CUT
        expected, error = (None, result) if isinstance(result, str) else (result, None)
        cases.append(Case(name, path, expected, tolerance, error))
    (folder / "folder.png").mkdir()
    cases.append(Case("folder", folder / "folder.png", error="is a folder"))
    cases.append(Case("missing", folder / "missing.png", error="No such file"))
    cases.append(Case("impossible name", folder / "a\0b.png", error="cannot be opened"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        cases.append(Case("pipe", folder / "pipe.png", error="not a regular file"))
    assert len({case.name for case in cases}) == len(cases)
    return cases


def encode(array: np.ndarray | Image.Image, image_format: str, mode: str | None = None, **options) -> bytes:
    """Write an array (or image) with Pillow; `mode` reads its last axis as the bands of that mode."""
    image = array
    if isinstance(array, np.ndarray) and mode is None:
        image = Image.fromarray(array)
    elif isinstance(array, np.ndarray):
        image = Image.frombytes(mode, (array.shape[1], array.shape[0]), np.ascontiguousarray(array).tobytes())
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def encode_heic(*arrays: np.ndarray | Image.Image, **options) -> bytes:
    """Write arrays (or images) as one HEIC file. EXIF's orientation becomes a property of the image."""
    import pillow_heif

    file, stream = pillow_heif.HeifFile(), io.BytesIO()
    for array in arrays:
        file.add_from_pillow(Image.fromarray(array) if isinstance(array, np.ndarray) else array)
    file.save(stream, **({"quality": 90, "chroma": 444} | options))
    return stream.getvalue()


def make_png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG by hand (RFC 2083); `rows` are the filtered rows, compressed; `extra` are chunks before them."""
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    chunks = [header, *extra, make_chunk(b"IDAT", rows), make_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def make_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_tiff(content: bytes, bits: int | tuple[int, int], photometric: int, **more: int) -> bytes:
    """A TIFF 6.0 by hand: WIDTH x HEIGHT, one uncompressed strip; `more` sets tags (`t338=1`)."""
    first, second = bits if isinstance(bits, tuple) else (bits, 0)
    samples = 2 if second else 1
    tags = {256: WIDTH, 257: HEIGHT, 258: first | second << 16, 259: 1, 262: photometric, 277: samples}
    tags |= {278: HEIGHT, 279: len(content), **{int(key[1:]): value for key, value in more.items()}}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags)]
    entries = [struct.pack("<HHI", 258, 3, samples) + e[8:] if e[:2] == b"\x02\x01" else e for e in entries]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + content


def make_profile(space: bytes) -> bytes:
    """An ICC version 2 profile (b"RGB " or b"GRAY") with the primaries of sRGB and linear light."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    linear, white = b"curv" + bytes(8), xyz(0.9642, 1.0, 0.8249)
    tags = {b"wtpt": white, b"kTRC": linear} if space == b"GRAY" else {
        b"wtpt": white, b"rTRC": linear, b"gTRC": linear, b"bTRC": linear,
        b"rXYZ": xyz(0.43607, 0.22250, 0.01393), b"gXYZ": xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": xyz(0.14307, 0.06061, 0.71410),
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return (header.ljust(68, b"\0") + white[8:]).ljust(128, b"\0") + table + body


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=-1)


def from_linear(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> sRGB 0..255 (IEC 61966-2-1)."""
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    return np.rint(255 * curve).astype(np.uint8)


def _formats() -> Iterator[Draft]:
    jpeg = encode(PICTURE, "JPEG", **FINE)
    png = encode(PICTURE, "PNG")
    for suffix in ("png", "bmp", "ppm", "tiff"):
        yield f"plain.{suffix}", encode(PICTURE, suffix.upper()), PICTURE, 0
    yield "plain.webp", encode(PICTURE, "WEBP", lossless=True), PICTURE, 0
    yield "plain.jp2", encode(PICTURE, "JPEG2000", irreversible=False), PICTURE, 0
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"{compression}.tif", encode(PICTURE, "TIFF", compression=compression), PICTURE, 0
    yield "plain.jpg", jpeg, PICTURE, LOSSY
    yield "progressive.jpg", encode(PICTURE, "JPEG", **FINE, progressive=True), PICTURE, LOSSY
    yield "two images.mpo", encode(PICTURE, "MPO", **FINE), PICTURE, LOSSY
    if features.check("avif"):
        yield "plain.avif", encode(PICTURE, "AVIF", quality=100, subsampling="4:4:4"), PICTURE, LOSSY
    if HEIC:
        yield "plain.heic", encode_heic(PICTURE, quality=-1, matrix_coefficients=0), PICTURE, 0
    icon = np.dstack([np.resize(PICTURE, (16, 16, 3)), np.resize(ALPHA, (16, 16))])
    for kind in ("png", "bmp"):
        content = encode(icon, "ICO", bitmap_format=kind)
        yield f"icon {kind}.ico", content, over_white(icon[..., :3], icon[..., 3]), 1
    yield "really a png.jpg", png, PICTURE, 0
    yield "really a jpeg.txt", jpeg, PICTURE, LOSSY
    yield "no suffix", png, PICTURE, 0
    yield "Katze 猫 ñ.png", png, PICTURE, 0
    yield "line\nbreak.png", png, PICTURE, 0
    yield "-rf [1] *.png", png, PICTURE, 0
    yield "garbage after.png", png + bytes(range(256)) * 4, PICTURE, 0
    yield "garbage after.jpg", jpeg + bytes(range(256)) * 4, PICTURE, LOSSY


def _modes() -> Iterator[Draft]:
    bits = (GREY > 90).astype(np.uint8) * 255
    one_bit = Image.fromarray(bits).convert("1", dither=Image.Dither.NONE)
    yield "one bit.png", encode(one_bit, "PNG"), as_rgb(bits), 0
    yield "one bit.tif", encode(one_bit, "TIFF", compression="group4"), as_rgb(bits), 0
    two_bit = b"".join(b"\0\x1b\x1b\x1b" for _ in range(HEIGHT))
    yield "two bit.png", make_png(WIDTH, HEIGHT, 2, 0, zlib.compress(two_bit)), as_rgb(COLUMNS % 4 * 85.0), 0
    yield "grey.png", encode(GREY, "PNG"), as_rgb(GREY), 0
    grey_alpha = np.dstack([GREY, ALPHA])
    for suffix in ("png", "tiff"):
        content = encode(grey_alpha, suffix.upper(), "LA")
        yield f"grey alpha.{suffix}", content, over_white(as_rgb(GREY), ALPHA), 1
    premultiplied = np.dstack([np.rint(GREY * (ALPHA / 255)).astype(np.uint8), ALPHA])
    content = make_tiff(premultiplied.tobytes(), (8, 8), 1, t338=1)
    yield "premultiplied.tif", content, over_white(as_rgb(GREY), ALPHA), 2
    rgba = np.dstack([PICTURE, ALPHA])
    for suffix, options in {"png": {}, "tiff": {}, "webp": {"lossless": True, "exact": True}}.items():
        yield f"alpha.{suffix}", encode(rgba, suffix.upper(), **options), over_white(PICTURE, ALPHA), 1
    keyed = np.where(GREY == 64, 0, 255).astype(np.uint8)
    yield "grey key.png", encode(GREY, "PNG", transparency=64), over_white(as_rgb(GREY), keyed), 0
    keyed = np.where((PICTURE == (40, 50, 90)).all(-1), 0, 255).astype(np.uint8)
    yield "colour key.png", encode(PICTURE, "PNG", transparency=(40, 50, 90)), over_white(PICTURE, keyed), 0
    yield from _palettes()
    ink = np.dstack([PICTURE, COLUMNS * 5]).astype(np.uint8)
    mixed = np.rint((255 - PICTURE) * (1 - ink[..., 3:] / 255)).astype(np.uint8)
    yield "ink.tif", encode(ink, "TIFF", "CMYK"), mixed, 1
    yield "ink.jpg", encode(ink, "JPEG", "CMYK", **FINE), mixed, LOSSY
    neutral = np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)])
    yield "luma.tif", encode(neutral, "TIFF", "YCbCr"), as_rgb(GREY), 1
    lightness = GREY / 255 * 100  # CIE 1976 L*
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    neutral[..., 1:] = 0  # a* and b* are signed
    yield "lab.tif", encode(neutral, "TIFF", "LAB"), as_rgb(from_linear(light)), 2


def _palettes() -> Iterator[Draft]:
    index = COLUMNS % 4 + 4 * (ROWS % 4)
    steps = np.arange(16)
    colours = np.stack([steps * 17, 255 - steps * 16, steps * 5], axis=-1).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(colours.tobytes())
    shown = colours[index]
    some, one = (steps * 17).astype(np.uint8), np.where(steps == 6, 0, 255).astype(np.uint8)
    yield "palette.png", encode(image, "PNG"), shown, 0
    yield "palette.gif", encode(image, "GIF"), shown, 0
    yield "palette.tif", encode(image, "TIFF"), shown, 0
    content = encode(image, "PNG", transparency=some.tobytes())
    yield "palette some.png", content, over_white(shown, some[index]), 1
    yield "palette one.png", encode(image, "PNG", transparency=6), over_white(shown, one[index]), 0
    yield "palette one.gif", encode(image, "GIF", transparency=6), over_white(shown, one[index]), 0
    banded = image.convert("PA")
    banded.putalpha(Image.fromarray(ALPHA))
    yield "palette alpha.tif", encode(banded, "TIFF"), over_white(shown, ALPHA), 1


def _deep() -> Iterator[Draft]:
    deep = COLUMNS.astype(np.uint16) * 5400 + ROWS.astype(np.uint16) * 700
    shown = as_rgb(deep / 257)
    yield "16 bit.png", encode(deep, "PNG"), shown, 0
    yield "16 bit.tif", encode(deep, "TIFF"), shown, 0
    yield "16 bit big endian.tif", encode(deep.astype(">u2"), "TIFF", "I;16B"), shown, 0
    yield "16 bit white is zero.tif", make_tiff(deep.tobytes(), 16, 0), 255 - shown, 0
    yield "16 bit.pgm", b"P5 12 9 65535 " + deep.astype(">u2").tobytes(), shown, 0
    yield "16 bit dark.png", encode(deep // 100, "PNG"), as_rgb(deep // 100 / 257), 0
    twelve = (deep // 16).reshape(-1, 2).astype(np.uint32)
    packed = b"".join(struct.pack(">I", a << 12 | b)[1:] for a, b in twelve.tolist())
    yield "12 bit.tif", make_tiff(packed, 12, 1), as_rgb((deep // 16) / 4095 * 255), 0
    colour = np.stack([deep, deep[::-1], deep[:, ::-1]], axis=-1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    content = make_png(WIDTH, HEIGHT, 16, 2, zlib.compress(rows))
    yield "16 bit colour.png", content, (colour >> 8).astype(np.uint8), 0
    yield "32 bit.tif", encode(deep.astype(np.int32), "TIFF"), shown, 0
    wide = deep.astype(np.int32) * 1000 - 3_000_000
    stretched = as_rgb((deep - deep.min()) * (255 / np.ptp(deep)))
    yield "32 bit wide.tif", encode(wide, "TIFF"), stretched, 0
    unit = (deep / 65535).astype(np.float32) * 0.5
    yield "float.tif", encode(unit, "TIFF"), as_rgb(unit * 255), 1
    yield "float wide.tif", encode(deep.astype(np.float32) * 3 - 7, "TIFF"), stretched, 1
    broken = unit.copy()
    broken[0, :3] = np.nan, np.inf, -np.inf
    shown = as_rgb(unit * 255)
    shown[0, :3] = [[0], [255], [0]]
    yield "float not a number.tif", encode(broken, "TIFF"), shown, 1
    yield "float nothing.tif", encode(np.full_like(unit, np.nan), "TIFF"), np.zeros_like(PICTURE), 0
    yield "float constant.tif", encode(np.full_like(unit, 7), "TIFF"), np.zeros_like(PICTURE), 0


def _orientations() -> Iterator[Draft]:
    flipped = PICTURE.transpose(1, 0, 2)
    upright = {
        0: PICTURE, 1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1], 5: flipped,
        6: np.rot90(PICTURE, -1), 7: flipped[::-1, ::-1], 8: np.rot90(PICTURE), 9: PICTURE,
    }  # fmt: skip
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encode(PICTURE, "JPEG", **FINE, exif=exif)
        yield f"orientation {orientation}.jpg", content, expected, LOSSY
        if orientation in (3, 5, 6):
            yield f"orientation {orientation}.png", encode(PICTURE, "PNG", exif=exif), expected, 0
            content = encode(PICTURE, "WEBP", lossless=True, exif=exif)
            yield f"orientation {orientation}.webp", content, expected, 0
            yield f"orientation {orientation}.tif", encode(PICTURE, "TIFF", exif=exif), expected, 0
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 3
    yield "nonsense exif.png", encode(PICTURE, "PNG", exif=b"Exif\0\0nonsense"), PICTURE, 0
    yield "damaged exif.png", encode(PICTURE, "PNG", exif=damaged), PICTURE, 0
    yield "damaged exif.jpg", encode(PICTURE, "JPEG", **FINE, exif=damaged), PICTURE, LOSSY


def _profiles() -> Iterator[Draft]:
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear, linear_grey = make_profile(b"RGB "), make_profile(b"GRAY")
    brighter, grey = from_linear(PICTURE / 255), as_rgb(from_linear(GREY / 255))
    yield "profile same.png", encode(PICTURE, "PNG", icc_profile=same), PICTURE, 1
    yield "profile linear.png", encode(PICTURE, "PNG", icc_profile=linear), brighter, 2
    yield "profile linear.tif", encode(PICTURE, "TIFF", icc_profile=linear), brighter, 2
    stored = encode(PICTURE, "TIFF", icc_profile=linear)
    text = stored.replace(struct.pack("<HH", 34675, 7), struct.pack("<HH", 34675, 2))
    yield "profile text.tif", text, PICTURE, 0
    yield "profile linear grey.png", encode(GREY, "PNG", icc_profile=linear_grey), grey, 2
    yield "profile colour on grey.png", encode(GREY, "PNG", icc_profile=linear), grey, 2
    content = encode(np.dstack([PICTURE, ALPHA]), "PNG", icc_profile=linear)
    yield "profile alpha.png", content, over_white(brighter, ALPHA), 2
    yield "profile grey on colour.png", encode(PICTURE, "PNG", icc_profile=linear_grey), PICTURE, 0
    yield "profile broken.png", encode(PICTURE, "PNG", icc_profile=linear[:200] + b"\xff" * 99), PICTURE, 0
    yield "profile garbage.webp", encode(PICTURE, "WEBP", lossless=True, icc_profile=b"garbage!"), PICTURE, 0


def _animations() -> Iterator[Draft]:
    second = Image.fromarray(255 - PICTURE)
    for suffix, options in {"png": {}, "webp": {"lossless": True}, "tiff": {}}.items():
        content = encode(PICTURE, suffix.upper(), save_all=True, append_images=[second], **options)
        yield f"animated.{suffix}", content, PICTURE, 0
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    yield "animated.gif", encode(first, "GIF", save_all=True, append_images=[second]), as_rgb(GREY), 0


def _shapes() -> Iterator[Draft]:
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        picture = (np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3)
        yield f"{height} x {width}.png", encode(picture, "PNG"), picture, 0
    yield "no width.png", make_png(0, 9, 8, 2, zlib.compress(b"")), CUT, 0
    yield "no size.gif", b"GIF89a" + bytes(7) + b",\0\0\0\0\0\0\0\0\0\x02\0;", CUT, 0


def _cut() -> Iterator[Draft]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for image_format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"):
        content = encode(noise, image_format)
        yield f"half.{image_format.lower()}", content[: len(content) // 2], CUT, 0
    content = encode(noise[..., 0], "GIF")
    yield "half.gif", content[: len(content) // 2], CUT, 0
    png = encode(noise, "PNG")
    header, data = png.index(b"IHDR"), png.index(b"IDAT")
    yield "signature only.png", png[:8], CUT, 0
    yield "header only.png", png[:33], CUT, 0
    yield "wrong header checksum.png", png[: header + 17] + b"\0\0\0\0" + png[header + 21 :], CUT, 0
    yield "flipped data.png", png[: data + 900] + bytes([png[data + 900] ^ 255]) + png[data + 901 :], CUT, 0
    yield "one byte.png", b"\x89", FOREIGN, 0
    yield "empty.png", b"", "is empty", 0
    yield "no directory.tif", b"II*\0\xff\xff\xff\x7f", CUT, 0
    yield "too many samples.tif", make_tiff(bytes(99), 8, 1, t277=2048), CUT, 0
    yield "nothing inside.ico", b"\0\0\1\0\0\0", CUT, 0


def _foreign() -> Iterator[Draft]:
    yield "text.png", b"Just a few words.\n", FOREIGN, 0
    yield "page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", FOREIGN, 0
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', FOREIGN, 0
    yield "archive.png", b"PK\x03\x04" + bytes(60), FOREIGN, 0
    yield "radiance.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 9 +X 12\n" + bytes(432), FOREIGN, 0
    yield "document.png", b"%PDF-1.7\n" + bytes(60), FOREIGN, 0
    yield "printer.png", encode(PICTURE, "EPS"), FOREIGN, 0
    yield "layers.png", b"8BPS\0\1" + bytes(60), FOREIGN, 0
    wanted = CUT if HEIC else "HEIC images need pillow-heif"
    yield "phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), wanted, 0
    yield "table.json", b'{"image": null}', FOREIGN, 0
    yield "random.png", np.random.default_rng(1).bytes(4000), FOREIGN, 0
    yield "zeros.png", bytes(4000), FOREIGN, 0


def _bombs() -> Iterator[Draft]:
    """Small files that unpack to far more than is allowed ("decodes"), or only claim to."""
    decodes = make_png(10_000, 10_000, 1, 0, zlib.compress(bytes(1251 * 10_000), 9))
    yield "bomb decodes.png", decodes, BOMB, 0
    yield "bomb 4 gigapixels.png", make_png(60_000, 60_000, 8, 2, zlib.compress(bytes(99))), BOMB, 0
    yield "bomb largest.png", make_png(2**31 - 1, 2**31 - 1, 8, 6, zlib.compress(bytes(99))), BOMB, 0
    yield "bomb just above.png", make_png(50_000_001, 1, 1, 0, zlib.compress(bytes(6_250_002))), BOMB, 0
    black = Image.new("1", (10_000, 10_000))
    yield "bomb decodes.tif", encode(black, "TIFF", compression="group4"), BOMB, 0
    entry = bytes([16, 16, 0, 0, 1, 0, 32, 0]) + struct.pack("<II", len(decodes), 22)
    yield "bomb decodes.ico", b"\0\0\1\0\1\0" + entry + decodes, BOMB, 0
    for suffix, image_format, marker, offset, size in (
        ("gif", "GIF", b"GIF8", 6, struct.pack("<HH", 65535, 65535)),
        ("bmp", "BMP", b"BM", 18, struct.pack("<ii", 30_000, -30_000)),
        ("jpg", "JPEG", b"\xff\xc0", 5, struct.pack(">HH", 65_000, 65_000)),
        ("jp2", "JPEG2000", b"ihdr", 4, struct.pack(">II", 30_000, 30_000)),
    ):
        content = encode(PICTURE, image_format)
        start = content.index(marker) + offset
        yield f"bomb.{suffix}", content[:start] + size + content[start + len(size) :], BOMB, 0
    yield "bomb.pbm", b"P4 20000 20000\n" + bytes(99), BOMB, 0
    second = Image.fromarray(255 - PICTURE)
    animation = encode(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[second])
    start = animation.index(b"VP8X") + 12
    for side in (9_999, 16_383):
        canvas = struct.pack("<I", side)[:3] * 2
        yield f"bomb {side}.webp", animation[:start] + canvas + animation[start + 6 :], BOMB, 0
    padding = zlib.compress(bytes(100_000_000), 1)
    for kind in (b"zTXt", b"iCCP"):
        content = make_png(1, 1, 8, 0, zlib.compress(bytes(2)), make_chunk(kind, b"a\0\0" + padding))
        yield f"bomb {kind.decode()}.png", content, BOMB, 0

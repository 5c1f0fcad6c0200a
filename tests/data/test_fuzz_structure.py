"""Files whose structure is whole and whose values are extreme: what was written, or one line of our own,
within a second and 200 MB.

By structure, as random bytes seldom get beyond a checksum: tags of TIFF, directories of icons, boxes of AVIF
and HEIC, segments of JPEG, values of COCO's JSON, fields of recipes in weight files.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crafted
import numpy as np
import pytest
from corpus import HEIC, PICTURE, encode, encode_heic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features
from timing import cpu_seconds

import objecthood as oh
from objecthood.data.io.images import ImageError, read_image
from objecthood.hub.pretrained import PRETRAINED

AREA = "Fuzzing"
PIXELS = 1_000_000
NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 17, 32, 64, 100, 127, 128, 255, 256, 257, 1000, 4096, 5000, 32_767,
     32_768, 65_535, 65_536, 10**6, 2**24, 2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1]
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.text(max_size=5),
    st.sampled_from(
        [10**6, 10**9, 2**31, 2**63, 10**400, -1, -(10**9), 0.5, 1e308, float("nan"), float("inf"), "",
         "a\nb", "\x1b[2J", "\ud800", "../..", "/etc/hostname", "x" * 5000, "1", [], {}, [[]], [1],
         {"a": 1}, [None], [[1, 2]]]
    ),
)  # fmt: skip
counts = pytest.mark.parametrize(
    "count", [300, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory where Linux puts it")


FIELDS = "id file_name height width image_id category_id name iscrowd".split()


class Gauge:
    """Seconds of the slowest case, and the megabytes that memory grew by at most."""

    def __init__(self) -> None:
        self.slowest, self.ended, self.before = 0.0, {"read": 0, "refused": 0}, self.status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    @staticmethod
    def status(name: str) -> float:
        return int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]

    def try_to(self, function: Callable[[], object], *errors: type[Exception]) -> None:
        def once() -> None:
            nonlocal ended
            try:
                function()
                ended = "read"
            except errors as problem:
                assert "\n" not in str(problem) and len(str(problem)) < 1500
                ended = "refused"

        ended = ""
        seconds = cpu_seconds(once, limit=1)
        self.ended[ended] += 1
        self.slowest = max(self.slowest, seconds)
        assert seconds < 1

    def note(self, scoreboard, what: str) -> None:
        growth, tried = self.status("VmHWM") - self.before, sum(self.ended.values())
        assert growth < 200, f"{growth:.0f} MB"
        assert self.ended["refused"] > tried // 10
        scoreboard(AREA, what, tried, measured=f"{self.ended['read']} read; slowest {self.slowest:.2f} s, "
                   f"memory grew by at most {growth:.0f} MB")  # fmt: skip


def cases(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def fuzz_images(strategy: st.SearchStrategy[bytes], count: int, scoreboard, what: str) -> None:
    gauge = Gauge()

    @given(strategy)
    @cases(count)
    def check(content: bytes) -> None:
        gauge.try_to(lambda: read_image(content, max_pixels=PIXELS), ImageError)

    check()
    gauge.note(scoreboard, f"{what}: an image, or one line, within 1 s and 200 MB")


def strips(compression: int, content: bytes, channels: int = 1) -> tuple[dict, bytes, int]:
    tags = {
        256: (4, [16]), 257: (4, [16]), 258: (3, [8] * channels), 259: (3, [compression]), 262: (3, [1]),
        277: (3, [channels]), 278: (4, [16]), 273: (4, [0]), 279: (4, [len(content)]),
    }  # fmt: skip
    return tags, content, 273


def of_tiles(compression: int, content: bytes) -> tuple[dict, bytes, int]:
    tags, _, _ = strips(compression, content)
    del tags[273], tags[278], tags[279]
    more = {322: (4, [16]), 323: (4, [16]), 324: (4, [0]), 325: (4, [len(content)])}
    return tags | more, content, 324


def tiff_bases() -> list[tuple[dict, bytes, int]]:
    import zlib

    plain = bytes(range(256))
    jpeg = encode(np.resize(PICTURE[..., 0], (16, 16)).astype(np.uint8), "JPEG")
    packed = b"\x7f" + plain[:128] + b"\x7f" + plain[128:]
    return [
        strips(1, plain), strips(8, zlib.compress(plain)), strips(5, plain), strips(32773, packed),
        strips(7, jpeg), strips(6, jpeg), strips(4, plain), strips(1, plain * 3, 3),
        of_tiles(1, plain), of_tiles(8, zlib.compress(plain)), of_tiles(7, jpeg), of_tiles(50000, plain),
    ]  # fmt: skip


TAGS = st.sampled_from(
    [254, 255, 256, 257, 258, 259, 262, 263, 266, 269, 273, 274, 277, 278, 279, 280, 282, 283, 284, 292, 296,
     297, 301, 317, 318, 320,
     322, 323, 324, 325, 330, 332, 336, 338, 339, 340, 347, 512, 513, 514, 529, 530, 531,
     532, 700, 34665, 34675, 34853, 42112, 50838, 65535]
)  # fmt: skip


@counts
def test_tiff(count, scoreboard):
    field = st.tuples(
        st.integers(0, 18), st.one_of(st.lists(NUMBERS, max_size=6), NUMBERS.map(lambda n: [n] * 300))
    )
    changes = st.dictionaries(TAGS, field, min_size=1, max_size=4)
    left_out = st.sets(TAGS, max_size=1)

    def build(base, changes, left_out) -> bytes:
        tags, content, place = base
        known = {tag: (tags[tag][0], value[1]) if tag in tags else value for tag, value in changes.items()}
        kept = {tag: value for tag, value in (tags | known).items() if tag not in left_out}
        return crafted.tiff(kept, content, place if place not in changes else 0)

    fuzz_images(
        st.builds(build, st.sampled_from(tiff_bases()), changes, left_out), count, scoreboard, "TIFF tags"
    )


@counts
def test_icons(count, scoreboard):
    rows, end = (b"IDAT", crafted.black_rows(16)), (b"IEND", b"")
    header = st.builds(
        lambda width, height, depth, colour, lace: (
            b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, lace)
        ),
        NUMBERS, NUMBERS, st.sampled_from([0, 1, 2, 4, 8, 16]), st.sampled_from([0, 2, 3, 4, 6]),
        st.integers(0, 1),
    )  # fmt: skip
    small = st.just((b"IHDR", crafted.header_of_png(16, 16)))
    text = st.just((b"tEXt", b"a\0b"))
    pngs = st.lists(header | small | text | st.sampled_from([rows, end]), max_size=5).map(
        lambda chunks: crafted.png_chunks(*chunks)
    )
    bitmaps = st.builds(
        lambda size, width, height, planes, bits, compression, data: (
            struct.pack("<IIIHHI20x", size, width, height, planes, bits % 65536, compression) + bytes(data)
        ),
        st.sampled_from([12, 40, 40, 40, 52, 56, 64, 108, 124]) | NUMBERS, NUMBERS, NUMBERS, st.just(1),
        st.sampled_from([1, 4, 8, 16, 24, 32]) | NUMBERS, st.integers(0, 4), st.sampled_from([0, 1024, 5000]),
    )  # fmt: skip
    entry = st.tuples(
        st.integers(0, 255), st.integers(0, 255), st.sampled_from([0, 1, 8, 24, 32, 65535]), NUMBERS
    )

    def build(images, entries, number) -> bytes:
        start, directory, content = 6 + 16 * max(len(images), len(entries)), b"", b""
        for place in range(max(len(images), len(entries))):
            width, height, bits, offset = entries[place] if place < len(entries) else (16, 16, 32, 0)
            image = images[place] if place < len(images) else b""
            at = start + len(content) if image else offset
            directory += struct.pack("<BBBBHHII", width, height, 0, 0, 1, bits, len(image) or offset, at)
            content += image
        return b"\0\0\1\0" + struct.pack("<H", number or len(directory) // 16) + directory + content

    fuzz_images(
        st.builds(build, st.lists(pngs | bitmaps, min_size=1, max_size=3), st.lists(entry, max_size=3),
                  st.sampled_from([0, 0, 0, 1, 65535])),
        count, scoreboard, "directories, PNGs and bitmaps of icons",
    )  # fmt: skip


def overwritten(content: bytes, changes: list[tuple[int, int, int]]) -> bytes:
    """`content` with numbers of `size` bytes written at places."""
    changed = bytearray(content)
    for place, number, size in changes:
        at = place % max(1, len(content) - size)
        changed[at : at + size] = (number % 256**size).to_bytes(size, "big")
    return bytes(changed)


CHANGES = st.lists(
    st.tuples(st.integers(0, 10**6), NUMBERS, st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=3
)


def boxes_changed(bases: list[bytes]) -> st.SearchStrategy[bytes]:
    """Fields of boxes changed, boxes left out, twice, or in another order; the coded images as they are."""

    def parts(content: bytes) -> list[bytes]:
        return [content[start - 8 : end] for _, start, end in crafted.boxes(content, 0, len(content))]

    def build(base, changes, order, drop) -> bytes:
        boxes = parts(base)
        head = sum(map(len, boxes[:-1]))
        changed = overwritten(base[:head], [(16 + place, number, size) for place, number, size in changes])
        boxes = parts(changed + base[head:]) if drop else [changed + base[head:]]
        if drop and len(boxes) > 1:
            boxes.insert(order % len(boxes) + 1, boxes[order // 7 % len(boxes)])
        return b"".join(boxes)

    return st.builds(build, st.sampled_from(bases), CHANGES, st.integers(0, 99), st.booleans())


@counts
@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif(count, scoreboard):
    rgba = Image.new("RGBA", (32, 24), (9, 8, 7, 6))
    black = crafted.avif(32)
    bases = [
        black,
        encode(rgba, "AVIF", speed=10),
        crafted.avif(32, frames=2),
        crafted.lying_avif(black, 16, 16),
    ]
    fuzz_images(boxes_changed(bases), count, scoreboard, "AVIF boxes")


@pytest.mark.parametrize(
    "count", [200, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])]
)
@pytest.mark.skipif(not HEIC, reason="needs the extra `heic`")
def test_heic(count, scoreboard):
    """Boxes, or bits of what the decoder of HEVC gets: slices and parameter sets."""
    large = np.repeat(np.repeat(PICTURE, 8, 0), 8, 1)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = [
        encode_heic(large, exif=exif.tobytes(), thumbnails=[32]),
        encode_heic(large, tile_size=64),
        encode_heic(Image.new("RGBA", (32, 24), (9, 8, 7, 6))),
        crafted.lying_avif(encode_heic(large), 16, 16),
    ]
    coded = [encode_heic(noise, quality=60, chroma=chroma) for chroma in (420, 444)]

    def flipped(base, flips) -> bytes:
        changed, start = bytearray(base), base.rindex(b"mdat") + 4
        for place, bit in flips:
            changed[start + place % (len(base) - start)] ^= 1 << bit
        return bytes(changed)

    flips = st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 7)), min_size=1, max_size=9)
    data = st.builds(flipped, st.sampled_from(coded), flips)
    fuzz_images(boxes_changed(whole) | data, count, scoreboard, "HEIC boxes and HEVC data")


@counts
def test_jpeg(count, scoreboard):
    """Segments changed, left out, repeated up to 120 times, or in another order."""
    large = np.resize(PICTURE, (40, 50, 3))
    bases = [
        crafted.jpeg_segments(
            encode(large, "JPEG", progressive=progressive, exif=b"Exif\0\0II*\0" + bytes(40))
        )
        for progressive in (False, True)
    ]

    def build(base, place, times, other, changes) -> bytes:
        parts = list(base)
        first, second = place % len(parts), other % len(parts)
        parts[first : first + 1] = [parts[first]] * times
        if other % 3 == 0:
            parts.insert(second, parts.pop(first) if first < len(parts) else b"")
        whole = b"".join(parts)
        return whole[:4] + overwritten(whole[4:], changes) if place % 2 else whole

    fuzz_images(
        st.builds(build, st.sampled_from(bases), st.integers(0, 999), st.sampled_from([0, 1, 2, 40, 120]),
                  st.integers(0, 999), CHANGES),
        count, scoreboard, "JPEG segments",
    )  # fmt: skip


@counts
def test_coco(count, tmp_path, scoreboard, unchecked):
    pytest.importorskip("pycocotools", reason="needs the extra `coco`")
    from objecthood.data.published.coco import Coco, CocoError

    Image.new("RGB", (30, 20)).save(tmp_path / "1.png")
    file, gauge = tmp_path / "instances.json", Gauge()
    corners = st.sampled_from(
        [0, 5, 29.5, -4, 1e5, -1e5, 1e9, 1e308, float("nan"), None, "3", [], 10**400, True]
    )
    polygons = st.lists(st.lists(corners, min_size=5, max_size=9) | VALUES, max_size=3)
    codes = st.fixed_dictionaries({
        "size": st.sampled_from(
            [[20, 30], [30, 20], [-1, 30], [10**5, 10**5], [20], "ab", [20.0, 30], [True, 600]]
        ),
        "counts": st.sampled_from(
            [[600], [0, 600], [0, 1] * 300, [-1, 601], [10**400], "", "0", "Pb", [0.5], 7, None]
        ),
    })  # fmt: skip

    @given(
        st.lists(st.tuples(st.sampled_from(["images", "annotations", "categories"]),
                           st.sampled_from(FIELDS),
                           VALUES), max_size=2),
        polygons | codes | VALUES, st.sampled_from(["instance", "class"]), st.integers(0, 40), VALUES,
    )  # fmt: skip
    @cases(count)
    def check(changes, segmentation, labels, whole, value) -> None:
        content: dict[str, Any] = {
            "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 30}],
            "annotations": [
                {"id": n, "image_id": 1, "category_id": 7, "segmentation": segmentation} for n in (1, 2)
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        }
        for part, field, new in changes:
            content[part][0][field] = new
        if whole < 3:
            content[("images", "annotations", "categories")[whole]] = value
        file.write_text(json.dumps(content))
        gauge.try_to(lambda: Coco(tmp_path, file, 32, labels=labels)[[0]], CocoError, ImageError)

    check()
    gauge.note(scoreboard, "values of COCO's JSON: label maps, or one line, within 1 s and 200 MB")


@counts
def test_recipes(count, tmp_path, scoreboard, unchecked):
    """Every field of the recipe in a weight file at extreme values."""
    file, gauge = tmp_path / "w.safetensors", Gauge()
    whole = PRETRAINED["tetrominoes"].file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    recipe = json.loads(header["__metadata__"]["recipe"])
    fields = [field.name for field in dataclasses.fields(oh.RECIPES["tetrominoes"])] + ["task", "unknown"]
    number = st.sampled_from([0, -1, 1, 2, 255, 10**4, 10**9, 10**18, 1e-300, 1e308, -1e308, 0.5])

    @given(st.dictionaries(st.sampled_from(fields), number | VALUES, min_size=1, max_size=2))
    @cases(count)
    def check(changes) -> None:
        described = header["__metadata__"] | {"recipe": json.dumps(recipe | changes)}
        text = json.dumps(header | {"__metadata__": described}).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data)
        gauge.try_to(lambda: oh.load(file), ValueError)

    check()
    gauge.note(scoreboard, "fields of recipes in weight files: a model, or one line, within 1 s and 200 MB")


def test_the_bases_are_whole():
    """Else all would be refused for the wrong reason."""
    for tags, content, place in tiff_bases()[:1] + tiff_bases()[3:4] + tiff_bases()[8:10]:
        assert read_image(io.BytesIO(crafted.tiff(tags, content, place))).shape == (16, 16, 3)
    assert b"".join(crafted.jpeg_segments(encode(PICTURE, "JPEG"))) == encode(PICTURE, "JPEG")

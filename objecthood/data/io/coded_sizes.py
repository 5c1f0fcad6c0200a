"""The real decoding size of image files beyond their first header: icons, tiles, scans, coded frames.

A decoder may use more memory and time than the stated size suggests: for a TIFF tile larger than its image,
the PNG in an icon, the AV1 frame in an AVIF, or many scans of a JPEG. These functions read the file
structure without decoding.

TIFF 6.0, section 15 (tiles); ITU-T T.81, annex B (JPEG markers); ISO/IEC 14496-12 and 23008-12 (boxes,
`iloc`); AV1 Bitstream & Decoding Process Specification, sections 5.3 to 5.5 (open bitstream units, sequence
header).
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Set

from PIL import BmpImagePlugin, IcoImagePlugin, Image, PngImagePlugin

Stream = io.BytesIO | io.BufferedReader
Size = tuple[int, int]
"""Width and height in pixels."""

_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte, padding, nor a restart
_BLOCK = 64 * 1024
_MAX_BOXES = 10_000
_TABLE_BYTES = 2**20  # thousands of items
_SHARED_BYTES = 2**24  # what items may have in common, as equal tiles
_SEQUENCE_HEADER = 1
_CONTAINERS = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl"))
_SINGLE = frozenset(b"meta pitm iinf iloc iprp ipco ipma iref idat".split())


def icon_size(stream: Stream) -> Size:
    """Size of the image that Pillow takes from an icon, as that image's own header has it.

    The icon's own table says at most 256 x 256, and Pillow decodes while it opens.
    """
    stream.seek(0)
    entries = IcoImagePlugin.IcoFile(stream).entry
    if not entries:
        raise ValueError("an icon without an image")
    stream.seek(entries[0].offset)
    is_png = stream.read(8) == b"\x89PNG\r\n\x1a\n"
    stream.seek(entries[0].offset)
    if is_png:
        return PngImagePlugin.PngImageFile(stream).size
    image = BmpImagePlugin.DibImageFile(stream)
    if is_run_length(image):
        raise ValueError("an icon in run-length code, which icons have not")
    return image.width, image.height // 2  # the image and its mask


def is_run_length(image: Image.Image) -> bool:
    """Whether an opened BMP is in run-length code."""
    return any(tile[0] == "bmp_rle" for tile in getattr(image, "tile", ()))


def tile_size(image: object) -> Size | None:
    """Size of the tiles of an opened TIFF; None where it has none. A whole tile is decoded at a time."""
    tags = getattr(image, "tag_v2", {})
    if _TILE_WIDTH not in tags and _TILE_HEIGHT not in tags:
        return None
    width, height = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0)
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        raise ValueError(f"a tile of {width!r:.30} x {height!r:.30} pixels")
    return width, height


def count_scans(stream: Stream, most: int) -> int:
    """Number of scans of a JPEG, counted up to `most` + 1. The decoder passes over all pixels at each, and
    over bytes between segments that belong to none."""
    scans, place = 0, 2
    while scans <= most:
        place = _next_marker(stream, place)
        stream.seek(place)
        head = stream.read(4)
        if len(head) < 4 or head[1] == 0xD9:  # cut, or the end of the image
            return scans
        if head[1] in (0x01, 0xD8):  # without a length
            place += 2
            continue
        place += 2 + struct.unpack(">H", head[2:])[0]
        scans += head[1] == 0xDA
    return scans


def _next_marker(stream: Stream, place: int) -> int:
    """Where the next marker stands, at `place` or behind; the end of the file where there is none."""
    stream.seek(place)
    before, size = b"", 64  # most segments follow each other; scans are longer
    while block := stream.read(min(size, _BLOCK)):
        found = _MARKER.search(before + block)
        if found:
            return place - len(before) + found.start()
        place, before, size = place + len(block), block[-1:], 2 * size
    return place


def coded_sizes(stream: Stream) -> list[tuple[Size, Size]]:
    """Sizes of the AV1 frames of an AVIF: of each item and of the first frame of each track.

    Each is the largest size that its sequence header states, and the largest that a frame of it may have
    where frames may state their own size. Raises ValueError where no sequence header is found, or one is
    damaged.
    """
    stream.seek(0)
    content = stream.read()
    sizes = [size for data in _coded_data(content) for size in _sequence_sizes(data)]
    if not sizes:
        raise ValueError("no coded image")
    return sizes


def _coded_data(content: bytes) -> Iterator[bytes]:
    """The AV1 data of every coded item, and of the first sample of every track."""
    counted = [0]
    for kind, start, end in boxes(content, 0, len(content), counted):
        if kind == b"meta":
            yield from _items(content, start + 4, end, counted)
        elif kind == b"moov":
            yield from _first_samples(content, start, end, counted)


def boxes(content: bytes, start: int, end: int, counted: list[int]) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of each box."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start + 8)
            head = 16
        elif size == 0:  # to the end of the file
            size = end - start
        counted[0] += 1
        if size < head or start + size > end or counted[0] > _MAX_BOXES:
            raise ValueError(f"a box {kind!r} that does not fit")
        yield kind, start + head, start + size
        start += size


def unique(content: bytes, start: int, end: int, counted: list[int]) -> dict[bytes, tuple[int, int]]:
    """Start and end of the content of each kind of box; ValueError where one that is read comes twice."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, first, last in boxes(content, start, end, counted):
        if kind in found and kind in _SINGLE:
            raise ValueError(f"two boxes {kind!r}")
        found[kind] = first, last
    return found


def _items(content: bytes, start: int, end: int, counted: list[int]) -> Iterator[bytes]:
    """Data of the items of type av01."""
    found = unique(content, start, end, counted)
    if b"iloc" not in found or b"iinf" not in found:
        return
    types = item_types(content, found, counted)
    yield from (data for _, data in item_data(content, found, {n for n in types if types[n] == b"av01"}))


def item_types(content: bytes, meta: dict[bytes, tuple[int, int]], counted: list[int]) -> dict[int, bytes]:
    """Type of each item of a box `meta`, by its number."""
    first, last = meta[b"iinf"]
    first += 6 if content[first] == 0 else 8
    types: dict[int, bytes] = {}
    for kind, place, stop in boxes(content, first, last, counted):
        if kind == b"infe" and content[place] in (2, 3):
            wide = content[place] == 3
            number, _, item_type = struct.unpack_from(">IH4s" if wide else ">HH4s", content[place:stop], 4)
            if types.setdefault(number, item_type) != item_type:
                raise ValueError(f"two types of item {number}")
    return types


def item_data(
    content: bytes, meta: dict[bytes, tuple[int, int]], numbers: Set[int]
) -> Iterator[tuple[int, bytes]]:
    """Number and data of those items of a box `meta`."""
    idat, left = meta.get(b"idat", (0, 0)), len(content) + _SHARED_BYTES
    for number, method, extents in _locations(Fields(content, *meta[b"iloc"])):
        if number in numbers:
            origin, stop = (idat[0], idat[1]) if method == 1 else (0, len(content))
            data = []
            for offset, length in extents:
                data.append(_extent(content, origin + offset, length, stop))
                left -= len(data[-1])
                if left < 0:
                    raise ValueError("coded data that overlap")
            yield number, b"".join(data)


def _extent(content: bytes, start: int, length: int, stop: int) -> bytes:
    if start + length > stop:
        raise ValueError("coded data beyond the end")
    return content[start : start + length or stop]  # a length of 0: all the rest


class Fields:
    """Whole numbers of several bytes, one after the other."""

    def __init__(self, content: bytes, start: int, end: int):
        if end - start > _TABLE_BYTES:
            raise ValueError(f"a table of {end - start} bytes")
        self.content, self.place, self.end = content, start, end

    def next(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def take(self, size: int) -> bytes:
        """The next bytes as they are."""
        if self.place + size > self.end:
            raise ValueError("a table that is cut")
        self.place += size
        return self.content[self.place - size : self.place]


def _locations(fields: Fields) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Of the box `iloc`: number of an item, how its place is meant, and start and length of its parts."""
    version = fields.next(4) >> 24
    sizes, more = fields.next(1), fields.next(1)
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version in (1, 2) else 0
    for _ in range(fields.next(4 if version == 2 else 2)):
        number = fields.next(4 if version == 2 else 2)
        method = fields.next(2) & 15 if version in (1, 2) else 0
        fields.next(2)
        base = fields.next(base_size)
        extents = []
        for _ in range(fields.next(2)):
            fields.next(index_size)
            extents.append((base + fields.next(offset_size), fields.next(length_size)))
        yield number, method, extents


def _first_samples(content: bytes, start: int, end: int, counted: list[int]) -> Iterator[bytes]:
    """The first sample of each track with images."""
    places: dict[bytes, int] = {}
    for kind, first, last in boxes(content, start, end, counted):
        if kind in _CONTAINERS:
            yield from _first_samples(content, first, last, counted)
        places[kind] = first
    table = next((kind for kind in (b"stco", b"co64") if kind in places), None)
    if table is None or b"stsz" not in places or content[places[b"stsd"] + 12 :][:4] != b"av01":
        return
    common, number, first_size = struct.unpack_from(">3I", content, places[b"stsz"] + 4)
    offset = struct.unpack_from(">Q" if table == b"co64" else ">I", content, places[table] + 8)[0]
    if number:
        size = common or first_size
        yield _extent(content, offset, size, len(content))


def _sequence_sizes(data: bytes) -> Iterator[tuple[Size, Size]]:
    """Sizes of all sequence headers among the open bitstream units of `data`; ValueError where none is."""
    place, found = 0, False
    while place < len(data):
        head = data[place]
        place += 2 if head & 4 else 1  # with an extension
        length = len(data) - place
        if head & 2:  # it states its size
            length, place = _leb128(data, place)
        if head & 0x80 or place + length > len(data):
            raise ValueError("a damaged AV1 frame")
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _sequence_size(Bits(data[place : place + length]))
            found = True
        place += length
    if not found:
        raise ValueError("an AV1 frame without a sequence header")


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for number in range(8):
        if place >= len(data):
            break
        value |= (data[place] & 127) << 7 * number
        place += 1
        if data[place - 1] < 128:
            return value, place
    raise ValueError("a damaged AV1 frame")


class Bits:
    """Bits from the highest to the lowest of each byte."""

    def __init__(self, data: bytes):
        self.value, self.left = int.from_bytes(data[:256], "big"), 8 * min(len(data), 256)

    def next(self, count: int) -> int:
        if count > self.left:
            raise ValueError("a damaged sequence header")
        self.left -= count
        return self.value >> self.left & ((1 << count) - 1)

    def exponential(self) -> int:
        """A number in exponential Golomb code."""
        zeros = 0
        while not self.next(1):
            zeros += 1
        return (1 << zeros) - 1 + self.next(zeros)


def _sequence_size(bits: Bits) -> tuple[Size, Size]:
    """The largest width and height of a sequence header (section 5.5.1), and the largest of a frame."""
    bits.next(4)  # profile, still image
    reduced = bits.next(1)
    if reduced:
        bits.next(5)  # level
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.next(4) + 1, bits.next(4) + 1
    size = bits.next(width_bits) + 1, bits.next(height_bits) + 1
    return size, size if reduced else (1 << width_bits, 1 << height_bits)


def _skip_operating_points(bits: Bits) -> None:
    delay_bits = 0
    if bits.next(1):  # timing
        bits.next(64)
        if bits.next(1):  # equal intervals
            bits.exponential()
        if bits.next(1):  # decoder model
            delay_bits = bits.next(5) + 1
            bits.next(32 + 5 + 5)
    shows_delay = bits.next(1)
    for _ in range(bits.next(5) + 1):
        bits.next(12)
        if bits.next(5) > 7:  # level
            bits.next(1)  # tier
        if delay_bits and bits.next(1):
            bits.next(2 * delay_bits + 1)
        if shows_delay and bits.next(1):
            bits.next(4)

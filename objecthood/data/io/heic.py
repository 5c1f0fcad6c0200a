"""The primary image of a HEIC file, and the sizes that its decoder will need.

Phones write HEIC: an HEVC image, or a grid of them, beside thumbnails, depth maps and metadata. The decoder
(libheif) knows far more kinds of items than that, and errors in reading them have let images run code. So it
gets a file written here: the primary image, its tiles and its opacity, with a short list of properties.

ISO/IEC 23008-12 (items, grids, HEVC images), 14496-12 (boxes), 14496-15 (`hvcC`); ITU-T H.265, sections 7.3.1
to 7.3.3 (NAL units, sequence parameter sets).
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from objecthood.data.io.coded_sizes import Bits, Fields, Size, Stream, boxes, item_data, item_types, unique

BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AV1_BRANDS = frozenset((b"avif", b"avis"))
_PROPERTIES = frozenset((b"hvcC", b"ispe", b"pixi", b"colr", b"irot", b"imir", b"clap", b"auxC"))
_ALPHA = frozenset(
    (
        b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
        b"urn:mpeg:hevc:2015:auxid:1",
        b"urn:mpeg:avc:2015:auxid:1",
    )
)
_SEQUENCE, _FIRST_OF_NO_PICTURE = 33, 32
_MAX_UNITS, _MAX_PARAMETER_SETS = 10_000, 100


class UnsupportedError(ValueError):
    """A whole file of a kind that is not read."""


class Coded(NamedTuple):
    """A size that a file states: cropped, with the blocks that are cut off, and how often it is decoded."""

    size: Size
    coded: Size
    times: int = 0


def is_heic(stream: Stream) -> bool:
    """Whether the brands of a file are of HEVC images."""
    stream.seek(0)
    head = stream.read(16)
    if head[4:8] != b"ftyp":
        return False
    more = stream.read(min(max(0, int.from_bytes(head[:4], "big") - 16), 1024))
    brands = {head[8:12], *(more[place : place + 4] for place in range(0, len(more), 4))}
    return bool(brands & BRANDS) and not brands & _AV1_BRANDS


def primary_image(stream: Stream) -> tuple[bytes, list[Coded]]:
    """A HEIC file of the primary image alone, and what decoding it asks for.

    Raises:
        UnsupportedError: the primary image is neither an HEVC image nor a grid of them.
        ValueError: damaged.
    """
    stream.seek(0)
    content, counted = stream.read(), [0]
    file = unique(content, 0, len(content), counted)
    if b"meta" not in file:
        raise UnsupportedError("an image sequence") if b"moov" in file else ValueError("no box b'meta'")
    meta = unique(content, file[b"meta"][0] + 4, file[b"meta"][1], counted)
    for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if kind not in meta:
            raise ValueError(f"no box {kind!r}")
    types = item_types(content, meta, counted)
    fields = Fields(content, *meta[b"pitm"])
    primary = fields.next(2 if fields.next(4) >> 24 == 0 else 4)
    properties = _properties(content, meta[b"iprp"], counted)
    references = _references(content, meta.get(b"iref"), counted)
    alpha = [
        number
        for (kind, number), masters in references.items()
        if kind == b"auxl" and number != primary and primary in masters and _is_alpha(properties, number)
    ][:1]
    tiles: Counter[int] = Counter()
    for number in [primary, *alpha]:
        if types.get(number) not in (b"hvc1", b"grid"):
            raise UnsupportedError(f"an image of kind {types.get(number, b'')!r}")
        if types[number] == b"grid":
            tiles.update(references.get((b"dimg", number), ()))
    if any(types.get(number) != b"hvc1" or number in (primary, *alpha) for number in tiles):
        raise ValueError("a grid of other than HEVC images")
    wanted = dict.fromkeys([primary, *alpha, *tiles])
    data = dict(item_data(content, meta, wanted.keys()))
    items = [
        _Item(number, types[number], data.get(number, b""), properties.get(number, {})) for number in wanted
    ]
    units = [0]
    coded = [one for item in items for one in item.coded(tiles.get(item.number, 1), units)]
    kept = {(b"auxl", number): [primary] for number in alpha}
    for number in (primary, *alpha):
        if types[number] == b"grid":
            kept[b"dimg", number] = references.get((b"dimg", number), [])
    if alpha and alpha[0] in references.get((b"prem", primary), ()):
        kept[b"prem", primary] = alpha
    return _written(items, kept), coded


@dataclass
class _Item:
    number: int
    kind: bytes
    data: bytes
    properties: dict[int, tuple[bytes, bytes]]
    """Kind and content of each, by its place in `ipco`, in the order in which they apply."""

    def coded(self, times: int, counted: list[int]) -> list[Coded]:
        """What it states; `counted` are the NAL units of all items."""
        found = []
        for kind, content in self.properties.values():
            if kind == b"ispe":
                width, height = struct.unpack_from(">II", content, 4)
                found.append(Coded((width, height), (width, height)))
        if self.kind == b"grid":
            wide = 4 if self.data[1:2] and self.data[1] & 1 else 2
            fields = Fields(self.data, 4, len(self.data))
            width, height = fields.next(wide), fields.next(wide)
            return [*found, Coded((width, height), (width, height))]
        sizes = [
            size
            for kind, content in self.properties.values()
            if kind == b"hvcC"
            for size in _sizes_of_box(content)
        ]
        slices = 0
        for unit in _units(self.data, counted):
            slices += _kind(unit) < _FIRST_OF_NO_PICTURE
            if _kind(unit) == _SEQUENCE:
                sizes.append(_size(unit))
        if not sizes:
            raise ValueError("an HEVC image without a sequence parameter set")
        return found + [Coded(size, coded, times * max(1, slices)) for size, coded in set(sizes)]


def _properties(
    content: bytes, place: tuple[int, int], counted: list[int]
) -> dict[int, dict[int, tuple[bytes, bytes]]]:
    """Of each item, its properties among `_PROPERTIES`."""
    parts = unique(content, *place, counted)
    if b"ipco" not in parts:
        raise ValueError("no box b'ipco'")
    known = [
        (kind, content[start:end]) if kind in _PROPERTIES else None
        for kind, start, end in boxes(content, *parts[b"ipco"], counted)
    ]
    found: dict[int, dict[int, tuple[bytes, bytes]]] = {}
    fields = Fields(content, *parts.get(b"ipma", (0, 0)))
    head = fields.next(4)
    for _ in range(fields.next(4)):
        item = found.setdefault(fields.next(4 if head >> 24 else 2), {})
        for _ in range(fields.next(1)):
            index = fields.next(2) & 0x7FFF if head & 1 else fields.next(1) & 0x7F
            one = known[index - 1] if 0 < index <= len(known) else None
            if one:
                item[index] = one
    return found


def _references(
    content: bytes, place: tuple[int, int] | None, counted: list[int]
) -> dict[tuple[bytes, int], list[int]]:
    """Of each kind of reference and item, the items that it refers to."""
    found: dict[tuple[bytes, int], list[int]] = {}
    if place is None:
        return found
    wide = 4 if content[place[0]] else 2
    for kind, start, end in boxes(content, place[0] + 4, place[1], counted):
        fields = Fields(content, start, end)
        number = fields.next(wide)
        found.setdefault((kind, number), [fields.next(wide) for _ in range(fields.next(2))])
    return found


def _is_alpha(properties: dict[int, dict[int, tuple[bytes, bytes]]], number: int) -> bool:
    return any(
        kind == b"auxC" and content[4:].partition(b"\0")[0] in _ALPHA
        for kind, content in properties.get(number, {}).values()
    )


@functools.lru_cache(maxsize=16)  # tiles have it in common
def _sizes_of_box(content: bytes) -> tuple[tuple[Size, Size], ...]:
    """Sizes in the sequence parameter sets of a box `hvcC`."""
    fields, units = Fields(content, 21, len(content)), []
    if fields.next(1) & 3 != 3:
        raise UnsupportedError("an HEVC image in units of short lengths")
    for _ in range(fields.next(1)):
        fields.next(1)
        for _ in range(fields.next(2)):
            units.append(fields.take(fields.next(2)))
    if len(units) > _MAX_PARAMETER_SETS:
        raise ValueError(f"{len(units)} parameter sets")
    return tuple(_size(unit) for unit in units if _kind(unit) == _SEQUENCE)


def _units(data: bytes, counted: list[int]) -> Iterator[bytes]:
    """NAL units of coded data, each behind its length."""
    place = 0
    while place < len(data):
        counted[0] += 1
        end = place + 4 + int.from_bytes(data[place : place + 4], "big")
        if place + 4 > len(data) or end > len(data):
            raise ValueError("a damaged HEVC image")
        if counted[0] > _MAX_UNITS:
            raise ValueError("HEVC images of too many units")
        yield data[place + 4 : end]
        place = end


def _kind(unit: bytes) -> int:
    return unit[0] >> 1 & 63 if unit else _FIRST_OF_NO_PICTURE


def _size(unit: bytes) -> tuple[Size, Size]:
    """Size of the images of a sequence parameter set (7.3.2.2): cropped, and as coded."""
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.next(4)
    layers = bits.next(3)
    bits.next(1 + 96)
    present = [(bits.next(1), bits.next(1)) for _ in range(layers)]
    if layers:
        bits.next(2 * (8 - layers))
    for profile, level in present:
        bits.next(88 * profile + 8 * level)
    bits.exponential()
    chroma = bits.exponential()
    if chroma == 3:
        bits.next(1)
    width, height = bits.exponential(), bits.exponential()
    crop = [bits.exponential() for _ in range(4)] if bits.next(1) else [0] * 4
    across, down = (2 if chroma in (1, 2) else 1), (2 if chroma == 1 else 1)
    cropped = width - across * (crop[0] + crop[1]), height - down * (crop[2] + crop[3])
    if min(cropped) < 1:
        raise ValueError("an HEVC image without pixels")
    return cropped, (width, height)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _written(items: list[_Item], references: dict[tuple[bytes, int], list[int]]) -> bytes:
    """A HEIC file of `items`, the first of which is its primary image."""
    numbers = {item.number: number for number, item in enumerate(items, 1)}
    kept = {index: one for item in items for index, one in item.properties.items()}
    places = {index: place for place, index in enumerate(kept, 1)}
    named, assigned, located = [], [], []
    length = 0
    for item in items:
        number, own = numbers[item.number], item.properties
        hidden = number > 1  # else it would be an image in its own right
        named.append(_box(b"infe", struct.pack(">IHH4sx", 2 << 24 | hidden, number, 0, item.kind)))
        assigned.append(struct.pack(f">HB{len(own)}H", number, len(own), *(places[index] for index in own)))
        located.append((number, length, len(item.data)))
        length += len(item.data)
    refers = [
        _box(
            kind,
            struct.pack(
                f">HH{len(targets)}H", numbers[number], len(targets), *(numbers[one] for one in targets)
            ),
        )
        for (kind, number), targets in references.items()
    ]

    def meta(start: int) -> bytes:
        places = b"".join(
            struct.pack(">HHHII", number, 0, 1, start + first, size) for number, first, size in located
        )
        return _box(
            b"meta", bytes(4), _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", bytes(4), struct.pack(">H", 1)),
            _box(b"iinf", bytes(4), struct.pack(">H", len(items)), *named),
            _box(b"iprp", _box(b"ipco", *(_box(*one) for one in kept.values())),
                 _box(b"ipma", struct.pack(">II", 1, len(items)), *assigned)),
            *([_box(b"iref", bytes(4), *refers)] if refers else []),
            _box(b"iloc", struct.pack(">IBBH", 0, 0x44, 0, len(items)), places),
        )  # fmt: skip

    head = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + _box(b"mdat", *(item.data for item in items))

"""Image files whose parts contradict each other, built by structure: a small image with a large tile, an icon
that hides its size, a box that lies about the coded image, scan after scan over nothing."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

from corpus import HEIC, encode, make_chunk
from PIL import Image, features

TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "Q", 12: "d", 16: "Q"}
"""Of TIFF fields, as `struct` writes them."""


def tiff(tags: dict[int, tuple[int, list[int]]], content: bytes = b"", data_tag: int = 273) -> bytes:
    """A TIFF of any tags, each (type, values); where `data_tag` is there, its first value becomes the place
    of `content`."""
    tags, start = dict(sorted(tags.items())), 8 + 2 + 12 * len(tags) + 4
    packed = {tag: _values(kind, values) for tag, (kind, values) in tags.items()}
    extra = {tag: value for tag, value in packed.items() if len(value) > 4}
    places, place = {}, start
    for tag, value in extra.items():
        places[tag], place = place, place + len(value)
    if data_tag in tags and len(packed[data_tag]) == 4:
        packed[data_tag] = struct.pack("<I", place)
    directory = b"".join(
        struct.pack("<HHI", tag, kind, len(values))
        + (struct.pack("<I", places[tag]) if tag in extra else packed[tag].ljust(4, b"\0"))
        for tag, (kind, values) in tags.items()
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)
    return head + b"".join(extra.values()) + content


def _values(kind: int, values: list[int]) -> bytes:
    size = {"B": 1, "H": 2, "I": 4, "Q": 8, "c": 1, "d": 8}[TYPES.get(kind, "I")]
    return b"".join((int(value) % 256**size).to_bytes(size, "little") for value in values)


def tiled_tiff(side: int, tile: int, channels: int = 1) -> bytes:
    """`side` x `side` pixels in one deflated tile of `tile` x `tile`."""
    deflate = zlib.compressobj(9)
    row = bytes(tile * channels)
    content = b"".join(deflate.compress(row) for _ in range(tile)) + deflate.flush()
    tags = {
        256: (4, [side]), 257: (4, [side]), 258: (3, [8] * channels), 259: (3, [8]),
        262: (3, [1 if channels == 1 else 2]), 277: (3, [channels]), 322: (4, [tile]), 323: (4, [tile]),
        324: (4, [0]), 325: (4, [len(content)]),
    }  # fmt: skip
    return tiff(tags, content, 324)


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any chunks, in any order."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(kind, content) for kind, content in chunks)


def header_of_png(width: int, height: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)


def black_rows(side: int) -> bytes:
    """The compressed rows of a black PNG of 1 bit and `side` x `side` pixels."""
    deflate = zlib.compressobj(9)
    row = bytes(side // 8 + 1 + (side % 8 > 0))
    return b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()


def icon(content: bytes, width: int = 16, height: int = 16, bits: int = 32) -> bytes:
    """An icon of one image."""
    entry = struct.pack("<BBBBHHII", width, height, 0, 0, 1, bits, len(content), 22)
    return b"\0\0\1\0\1\0" + entry + content


def hidden_icon(side: int, again: bool = False) -> bytes:
    """An icon whose PNG has a chunk before its header, or (`again`) a second, larger header."""
    rows, large = black_rows(side), (b"IHDR", header_of_png(side, side))
    first = (b"IHDR", header_of_png(16, 16)) if again else (b"tEXt", b"a\0b")
    return icon(png_chunks(first, large, (b"IDAT", rows), (b"IEND", b"")))


def boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of ISO boxes."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        yield kind, start + 8, start + size
        start += max(size, 8)


def lying_avif(content: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC whose `ispe` boxes (of a sequence, its `tkhd` boxes too) state another size."""
    changed, at = bytearray(content), 0
    while (at := content.find(b"ispe", at + 1)) > 0:
        changed[at + 8 : at + 16] = struct.pack(">II", width, height)
    at = 0
    while (at := content.find(b"tkhd", at + 1)) > 0:
        (size,) = struct.unpack_from(">I", content, at - 4)
        changed[at - 4 + size - 8 : at - 4 + size] = struct.pack(">II", width << 16, height << 16)
    return bytes(changed)


def avif(side: int, frames: int = 1, **options) -> bytes:
    """A black AVIF."""
    image = Image.new("RGB", (side, side))
    more = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    return encode(image, "AVIF", speed=10, **more, **options)


def bitmap_of_runs(side: int) -> bytes:
    """A BMP in run-length code, one pixel and an end of line a row, which Pillow fills byte by byte."""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + head + bytes(1024) + b"\1\1\0\0" * side + b"\0\1"


def jpeg_of_scans(side: int, scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG that refines nothing in `scans` scans more than it needs, behind `between`."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 77).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + between + whole[last:-2] * scans + whole[-2:]


def jpeg_segments(content: bytes) -> list[bytes]:
    """The segments of a JPEG, each with its marker; scans with their data."""
    parts, place = [content[:2]], 2
    while place + 4 <= len(content) and content[place + 1] != 0xD9:
        kind = content[place + 1]
        end = place + 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if kind == 0xDA:
            while end + 1 < len(content) and (
                content[end] != 255 or content[end + 1] in (0, *range(208, 216))
            ):
                end += 1
        parts.append(content[place:end])
        place = end
    return [*parts, content[place:]]


def larger_codestream(side: int, said: int = 16) -> bytes:
    """A JPEG 2000 whose box says `said` x `said`, and whose codestream holds `side` x `side`."""
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, "JPEG2000")
    content = bytearray(stream.getvalue())
    at = content.index(b"ihdr") + 4
    content[at : at + 8] = struct.pack(">II", said, said)
    return bytes(content)


def larger_frame(side: int, said: int = 16) -> bytes:
    """A WebP whose canvas says `said` x `said`, and whose image is `side` x `side`."""
    body = encode(Image.new("RGB", (side, side)), "WEBP", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + struct.pack("<I", said - 1)[:3] * 2
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(body)) + b"WEBP" + canvas + body


def larger_gif(side: int, said: int = 16) -> bytes:
    """A GIF whose screen says `said` x `said`, and whose image is `side` x `side`."""
    content = bytearray(encode(Image.new("P", (side, side)), "GIF"))
    content[6:10] = struct.pack("<HH", said, said)
    return bytes(content)


# Black, of 7200 x 7200 pixels, as Pillow wrote it (zlib, base 85): it takes eight seconds to encode.
BLACK_AVIF = (
    "c-muNV30{GsVqn=%S>Yc0uY^>nP!-qnF!*)%uOvxWPkw0jFg-rD4U@mGr5ET4e%9YmgIt2j6f`xnUkLk;<$kLj1W;qULd{$WNTz*"
    "=B2^aN&z{kOi*58nSr5meoj8vu8horq5>f8nOTsW52QshiwjaA*2yS9Fv#ADOt5ASAi<MZX6W1~F9Q+~PR`FM%1h3v0Gi9oz}5g1"
    "63;Bih4~2REEYzlW)>jpNp4DFi4X%9m;7f7`-9(RaAcSooo1GBIhM-A`9y%h?EJaF5Bz7mK8981C11J4kw0NyW0k&dS$CO;r(#oh"
    ")xM;V?Z-Neh3;KH$>TeHsf4X=%KO(!=?>=S&qdS(cll@pSsM6ki+*!v#kB{9NBh4#J$qtu>F?l=PmZ3v#DA_x-6_8RMQfLu<y0|;"
    "yfr)TlszF^qbY8U^CYca>4<Qi`)Oshvir~d_q+L`62HhciE}tCok6aB2k5VnEDs(40N<7+G5"
)


# Black, of 7200 x 7200 pixels, as pillow-heif wrote it: it takes forty seconds to encode.
BLACK_HEIC = (
    "c-rmRPe>F|9KiA4%vernso0vCkgJy@h_+MEp~03Q@Dc_6Ik~&;vX6G$VOwG=1dAjK4@D7m6FSr>g>HsmHxC`UbPzgJLPTBc5+0Q8&F&Vx5j"
    "=LN@A!3R=Iz^mA7%#`MWi=Zz8d7SDkFOFRW1>3`zn<au`c-8a!Tq;JU?0}HMS*CnX*KdepM*eo+RmsrGNBdjn~&Am6!TvK&i1@Z8sc^>7A_"
    "I*vntZB*M*IfhzmIr!1?W6zKK53Nl5#zOJX8u$*w{UTxCCs;qCUt%<ZbBl;2Dp4DnqtKkGEoZ*Bm%-dc{-+5@rvLg4)$VXR#$wyyL4Zaw&d"
    "s^LabSb=Xy|jKvbJBWUnoE27l{z!ULTM~hsOaIHvVB4i?N*nAZ2jZ)_SJu-Jx~=DjySHXpH23t!2czvQJQYpPLtMn<&UN`U}g4zHQVV-J?T"
    "v!jNMIsI^8{ea-e-G+27&b8jAn5jn7N@Gu7(+%Cm>5nbQ5?jpNJD6Z+j<5_u;rK?Cc*Zh!D}@3*cmB0t1_Bl{LHX_Q=iAXbO8cv$?Ad;T^I"
    "o9Z}>!lnwGOExvo2SOzKA_kGO$tntFM`utlyT-{i()S4zjI0$9jGQhIjJBNx!KnE?2u3ZBK`?6LZ!@#lTM&$T=0GrtkAPq__yGi?BOD=S$G"
    "A)sy%-OI(J&xp=lDO3*$797SsoCxB3~J^G9YGLWsWosh}li9x|>Y`0?3x#0R)gOn+60BKmY**5I_I{1Q0*~0R#|0009IL8~_0X5I_I{1Q0*"
    "~0R#|0009ILKmZ{?009ILKmY**5I_I{1Q0*~0R#|02oOL30R#|0009ILKmY**5I_I{1P}rQ5I_I{<evoD;r;}u7hZ?"
)


def contradictions() -> Iterator[tuple[str, bytes]]:
    """Small files that say few pixels and hold far more."""
    side = 7200
    yield "tile.tif", tiled_tiff(16, 12_000)
    yield "tile of colour.tif", tiled_tiff(16, 5000, 3)
    yield "hidden.ico", hidden_icon(10_400)
    yield "second header.ico", hidden_icon(10_400, again=True)
    yield "second header.png", png_chunks(
        (b"IHDR", header_of_png(16, 16)), (b"IHDR", header_of_png(side, side)), (b"IDAT", black_rows(side)),
        (b"IEND", b""),
    )  # fmt: skip
    yield "codestream.jp2", larger_codestream(1000)
    yield "screen.gif", larger_gif(side)
    yield "canvas.webp", larger_frame(1000)
    if features.check("avif"):
        yield "ispe.avif", lying_avif(zlib.decompress(base64.b85decode(BLACK_AVIF)), 16, 16)
    if HEIC:
        yield "ispe.heic", lying_avif(zlib.decompress(base64.b85decode(BLACK_HEIC)), 16, 16)

"""TFRecord files, the container TensorFlow writes data sets into, read without TensorFlow.

A file is a sequence of records: length (8 bytes, little-endian), masked CRC-32C of the length (4), data, and
masked CRC-32C of the data (4); see tensorflow/core/lib/io/record_writer.h. The whole may be compressed with
GZIP (RFC 1952), several members in a row included. Both checksums of every record are compared, and GZIP's.

What cannot be seen: a plain file cut exactly between two records, or a compressed one between two members, is
a good file of fewer records. The format holds no count. The published files are compressed, in one member.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Generator, Iterator
from typing import NoReturn

import google_crc32c

from objecthood.runtime import limits

# No record larger than this is read: the largest honest one known is CLEVR's, 3.2 MB. A damaged length would
# otherwise have gigabytes inflated before anything is found wrong.
MAX_RECORD_BYTES = limits.RECORD_BYTES
_CHUNK = 2**16  # bytes of the file read at a time
_MASK_DELTA = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h
_GZIP = b"\x1f\x8b\x08"  # RFC 1952: the magic number, and deflate, its only method


class RecordError(ValueError):
    """A file or record that cannot be read. One line: file, record, offset, what is wrong, what to do."""


class Records(Iterator[bytes]):
    """The data of every record of a file, in order, one in memory at a time.

    Args:
        path: the file; whether it is compressed is told from its first bytes.
        skip_bad: pass over records whose data is damaged while their length is whole, and list them in
            `skipped`. Damage after which the next record cannot be found (a bad length, bad compression, the
            file ending early) raises all the same.

    Attributes:
        number: of the record last given, from 0, skipped ones counted; -1 before the first.
        offset: where that record begins, in bytes of the decompressed stream.
        skipped: one error for every record passed over.

    Raises:
        RecordError: no such file, or damage; never ends quietly before the end of the file.

    Example:
        >>> import tempfile
        >>> length, data = b"\2" + bytes(7), b"hi"
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     for part in (length, data):
        ...         _ = file.write(part + struct.pack("<I", masked_crc(part)))
        ...     file.flush()
        ...     list(Records(file.name))
        [b'hi']
    """

    def __init__(self, path: str | os.PathLike[str], *, skip_bad: bool = False):
        self.name = repr(os.fspath(path))
        self.skip_bad = skip_bad
        self.number, self.offset = -1, 0
        self.skipped: list[RecordError] = []
        self._stream = _Stream(path, self.name)
        self._position = 0

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> bytes:
        while True:
            self.offset = self._position
            self.number += 1
            header = self._read(12, "its header", may_end=True)
            if not header:
                self._end()
            data = self._read(self._length(header), "its data")
            (checksum,) = struct.unpack("<I", self._read(4, "the checksum of its data"))
            if checksum == masked_crc(data):
                return data
            self.refuse("the checksum of its data is wrong")

    @property
    def share(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return self._stream.share

    def refuse(self, problem: str) -> None:
        """Pass over the record last read, or raise: for damage that the reader of its content finds.

        Raises:
            RecordError: unless `skip_bad`.
        """
        error = self._error(f"{problem}; download the file again, or skip bad records")
        if not self.skip_bad:
            raise error
        self.skipped.append(error)

    def close(self) -> None:
        """Close the file; it is closed by itself at its end."""
        self._stream.close()

    def _length(self, header: bytes) -> int:
        if not _is_header(header):
            raise self._error("the checksum of its length is wrong, so the next record cannot be found")
        (length,) = struct.unpack_from("<Q", header)
        if length > MAX_RECORD_BYTES:
            raise self._error(f"claims {length} bytes of data; at most {MAX_RECORD_BYTES} are allowed")
        return length

    def _read(self, count: int, what: str, *, may_end: bool = False) -> bytes:
        """Exactly `count` bytes, or none at the end of the file where it may end."""
        try:
            data = self._stream.read(count)
        except _StreamError as error:
            raise self._error(f"{error}; download the file again") from error
        if len(data) < count and not (may_end and not data):
            missing = f"{len(data)} of {count} bytes of {what}"
            raise self._error(f"the file ends early, after {missing}; download it again")
        self._position += len(data)
        return data

    def _end(self) -> NoReturn:
        self.close()
        self.number -= 1
        if not self._position:
            raise RecordError(f"{self.name}: holds no record; download the file again")
        raise StopIteration

    def _error(self, problem: str) -> RecordError:
        return RecordError(f"{self.name}: record {self.number} at byte {self.offset}: {problem}")


def masked_crc(data: bytes) -> int:
    """TensorFlow's checksum: CRC-32C rotated right by 15 bits, plus a constant, modulo 2^32.

    Example:
        >>> hex(masked_crc(b"123456789"))  # its CRC-32C is 0xe3069283
        '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


class _StreamError(Exception):
    """Compression that is damaged."""


class _Stream:
    """The bytes of a file, decompressed where it is compressed, with no more in memory than asked for."""

    def __init__(self, path: str | os.PathLike[str], name: str):
        try:
            self._size = os.stat(path).st_size
            start = _first_bytes(path)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            problem = getattr(error, "strerror", None) or str(error)
            raise RecordError(f"{name}: cannot be opened ({problem}); check its name") from error
        # A plain file may begin like a compressed one: its first length decides.
        self._compressed = start.startswith(_GZIP) and not _is_header(start)
        self._chunks = _chunks(path)
        self._inflate = zlib.decompressobj(wbits=31)
        self._waiting = b""  # bytes read and not yet used
        self._used = 0

    @property
    def share(self) -> float:
        return min(1.0, self._used / max(1, self._size))

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while count:
            part = self._inflate_some(count) if self._compressed else self._copy_some(count)
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._chunks.close()

    def _fill(self) -> bool:
        """Whether bytes are waiting, read now if need be."""
        if not self._waiting:
            self._waiting = next(self._chunks, b"")
            self._used += len(self._waiting)
        return bool(self._waiting)

    def _copy_some(self, limit: int) -> bytes:
        self._fill()
        part, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return part

    def _inflate_some(self, limit: int) -> bytes:
        """At least one decompressed byte, or none at the end of the file."""
        while not self._inflate.eof or self._next_member():
            ended = not self._fill()
            try:
                part = self._inflate.decompress(self._waiting, limit)
            except zlib.error as error:
                raise _StreamError(f"the compression is damaged ({error})") from error
            self._waiting = self._inflate.unused_data or self._inflate.unconsumed_tail
            if part:
                return part
            if ended and not self._inflate.eof:
                raise _StreamError("the compressed file ends early")
        return b""

    def _next_member(self) -> bool:
        """Begin the next member, if there is one. Zeros after a member are padding, as for gzip."""
        while self._fill():
            self._waiting = self._waiting.lstrip(b"\0")
            if self._waiting:
                self._inflate = zlib.decompressobj(wbits=31)
                return True
        return False


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    if not os.path.isfile(path):  # a pipe would block, a folder has no bytes
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        return file.read(12)


def _chunks(path: str | os.PathLike[str]) -> Generator[bytes, None, None]:
    """The file piece by piece; it is closed at its end, or when nobody asks any more."""
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _is_header(header: bytes) -> bool:
    """Whether 12 bytes are a length and its checksum."""
    return len(header) == 12 and struct.unpack_from("<I", header, 8)[0] == masked_crc(header[:8])

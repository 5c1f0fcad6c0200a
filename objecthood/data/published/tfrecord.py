"""TFRecord files, the container TensorFlow writes data sets into, read without TensorFlow.

A file is a sequence of records: length (8 bytes, little-endian), masked CRC-32C of the length (4), data, and
masked CRC-32C of the data (4); see tensorflow/core/lib/io/record_writer.h. The whole may be compressed with
GZIP (RFC 1952), several members in a row included. Both checksums of every record are compared, and GZIP's.

What cannot be seen: a plain file cut exactly between two records, or a compressed one between two members, is
a good file of fewer records. The format holds no count. The published files are compressed, in one member.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from typing import NoReturn

import google_crc32c

from objecthood.runtime import limits

# No record larger than this is read: the largest honest one known is CLEVR's, 3.2 MB. A damaged length would
# otherwise have gigabytes inflated before anything is found wrong.
MAX_RECORD_BYTES = limits.RECORD_BYTES
_PIECE = 2**16  # bytes asked for at a time: a claimed length takes no memory
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
        except ValueError as error:
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


class _Stream:
    """The bytes of a file, decompressed if it is compressed, with no more in memory than asked for."""

    def __init__(self, path: str | os.PathLike[str], name: str):
        try:
            self._size = os.stat(path).st_size
            if not os.path.isfile(path):  # a pipe would block, a folder has no bytes
                raise ValueError("not a regular file")
            self._file = open(path, "rb")  # noqa: SIM115 (closed by `close`)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            problem = getattr(error, "strerror", None) or str(error)
            raise RecordError(f"{name}: cannot be opened ({problem}); check its name") from error
        start = self._file.read(12)
        self._file.seek(0)
        self._used = 0
        # A plain file may begin like a compressed one: its first length decides.
        is_compressed = start.startswith(_GZIP) and not _is_header(start)
        self._content = gzip.GzipFile(fileobj=self._file) if is_compressed else self._file

    @property
    def share(self) -> float:
        if not self._file.closed:
            self._used = self._file.tell()
        return self._used / max(1, self._size)

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end; ValueError for damaged compression."""
        parts = []
        try:
            while not self._file.closed and (part := self._content.read(min(count, _PIECE))):
                parts.append(part)
                count -= len(part)
        except EOFError as error:
            raise ValueError("the compressed file ends early") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"the compression is damaged ({error})") from error
        return b"".join(parts)

    def close(self) -> None:
        _ = self.share  # the last one stays known
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _is_header(header: bytes) -> bool:
    """Whether 12 bytes are a length and its checksum."""
    return len(header) == 12 and struct.unpack_from("<I", header, 8)[0] == masked_crc(header[:8])

"""Read untrusted .npz archives (zip files of arrays).

Archives with too many or too large arrays, zip bombs, duplicate names and Python objects (which need pickle)
are refused. Nothing is unpacked to disk.
"""

from __future__ import annotations

import math
import os
import zipfile

import numpy as np

from objecthood.runtime import limits

MAX_BYTES = limits.ARCHIVE_BYTES
"""Of all arrays, unpacked; shards of rendered scenes hold some hundred million."""
MAX_ARRAYS = limits.ARCHIVE_ARRAYS
MAX_RATIO = limits.ARCHIVE_RATIO
"""Unpacked to packed; deflate itself reaches 1032 (zlib.net, "Technical Details")."""
FREE_BYTES = 50_000_000
"""Unpacked size up to which the ratio is not looked at: some megabytes of zeros are honest."""


class ArchiveError(ValueError):
    """Not an archive, or one with refused content. One line, without the file name."""


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name.

    Raises:
        ArchiveError: no such file, damage, or one of the limits above.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", x=np.arange(3))
        ...     read_arrays(f"{folder}/a.npz")["x"].tolist()
        [0, 1, 2]
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check(entries)
            return {entry.filename.removesuffix(".npy"): _read_array(archive, entry) for entry in entries}
    except ArchiveError:
        raise
    except OSError as error:
        raise ArchiveError(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged archives make zipfile and NumPy raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArchiveError(f"damaged or no archive of plain arrays: {reason}") from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    """What the list of contents says, before any of it is unpacked."""
    names = [entry.filename for entry in entries]
    size, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if len(names) > MAX_ARRAYS:
        raise ArchiveError(f"{len(names)} arrays; at most {MAX_ARRAYS} are allowed")
    if len(set(names)) < len(names):
        raise ArchiveError("two arrays of one name")
    if size > MAX_BYTES:
        raise ArchiveError(f"{size} bytes of arrays; at most {MAX_BYTES} are allowed")
    if size > FREE_BYTES and size > MAX_RATIO * packed:
        raise ArchiveError(f"{packed} bytes that unpack to {size}; at most {MAX_RATIO}-fold is allowed")


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array, whose header must promise what the list of contents says."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(entry) as content:
        version = np.lib.format.read_magic(content)
        if version not in readers:
            raise ArchiveError(f"{entry.filename!r} is of an unknown format {version}")
        shape, by_columns, dtype = readers[version](content)
        if dtype.hasobject:
            raise ArchiveError(f"{entry.filename!r} holds Python objects, which are never read")
        count = math.prod(shape)
        data = content.read()  # to its end, where its checksum is compared
    if min(shape, default=0) < 0 or len(data) != count * dtype.itemsize:
        raise ArchiveError(f"{entry.filename!r} promises {count} values in {len(data)} bytes")
    return np.frombuffer(data, dtype, count).reshape(shape, order="F" if by_columns else "C").copy()

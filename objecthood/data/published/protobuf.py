"""`tf.train.Example`, the message inside TFRecord files, parsed without TensorFlow or protobuf.

An Example is a map from a name to a list of byte strings, of float32 or of int64
(tensorflow/core/example/example.proto, feature.proto; wire format: protobuf.dev/programming-guides/encoding).

A list of byte strings may have a million entries of one byte, as the images of the multi-object data sets
do. Where all entries are equally long they lie at equal distances: their tags and lengths are then compared,
and their bytes found, by NumPy at a stride, and never in a Python loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64, UInt8

# Wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ENTRY_TAG = 1 << 3 | _BYTES  # of every entry of a BytesList: field 1

Feature = (
    UInt8[np.ndarray, "entries length"]
    | list[bytes]
    | Float32[np.ndarray, " values"]
    | Int64[np.ndarray, " values"]
)
"""Byte strings are rows of an array where all are equally long and below 128 bytes, a list elsewhere."""


class ProtobufError(ValueError):
    """Bytes that are no `tf.train.Example`."""


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of an Example by name, in the order written; of a name that comes twice, the last.

    The arrays of byte strings are views into `data`, not copies, and cannot be written to.

    Raises:
        ProtobufError: the bytes end early or make no sense.

    Example:
        >>> example = bytes.fromhex("0a0f 0a0d 0a0178 1208 0a06 0a0107 0a0109")
        >>> parse_example(example)["x"].tolist()
        [[7], [9]]
    """
    features: dict[str, Feature] = {}
    for start, end in _messages(data, 0, len(data), field=1):  # Example.features
        for entry in _messages(data, start, end, field=1):  # Features.feature
            name, feature = _map_entry(data, *entry)
            features[name] = feature
    return features


def _map_entry(data: bytes, start: int, end: int) -> tuple[str, Feature]:
    name, feature = "", None
    for field, wire, first, last in _fields(data, start, end):
        if field == 1 and wire == _BYTES:
            name = _text(data[first:last])
        elif field == 2 and wire == _BYTES:
            feature = _feature(data, first, last)
    return name, [] if feature is None else feature


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"a feature's name is not text: {name[:40]!r}") from error


def _feature(data: bytes, start: int, end: int) -> Feature | None:
    """The one list that a Feature holds; None where it is empty."""
    feature: Feature | None = None
    for field, wire, first, last in _fields(data, start, end):
        if wire == _BYTES and field in _LISTS:
            feature = _LISTS[field](data, first, last)
    return feature


def _bytes_list(data: bytes, start: int, end: int) -> UInt8[np.ndarray, "entries length"] | list[bytes]:
    rows = _equal_entries(data, start, end)
    if rows is not None:
        return rows
    return [data[first:last] for first, last in _messages(data, start, end, field=1)]


def _equal_entries(data: bytes, start: int, end: int) -> UInt8[np.ndarray, "entries length"] | None:
    """All entries at once where each has the tag and the length of the first, one byte each; else None."""
    if end - start < 2 or data[start] != _ENTRY_TAG or data[start + 1] > 127:
        return None
    length = data[start + 1]
    stride = 2 + length
    count, rest = divmod(end - start, stride)
    if rest:
        return None
    heads = np.ndarray((count,), "<u2", data, start, (stride,))
    if not (heads == (_ENTRY_TAG | length << 8)).all():
        return None
    return np.ndarray((count, length), np.uint8, data, start + 2, (stride, 1))


def _float_list(data: bytes, start: int, end: int) -> Float32[np.ndarray, " values"]:
    """Packed or one by one."""
    parts = []
    for field, wire, first, last in _fields(data, start, end):
        if field == 1 and wire in (_BYTES, _FIXED32):
            if (last - first) % 4:
                raise ProtobufError(f"a list of floats has {last - first} bytes, not a multiple of 4")
            parts.append(data[first:last])
    return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)


def _int64_list(data: bytes, start: int, end: int) -> Int64[np.ndarray, " values"]:
    """Packed or one by one; negative numbers in two's complement."""
    values = []
    for field, wire, first, last in _fields(data, start, end):
        if field == 1 and wire in (_BYTES, _VARINT):
            while first < last:
                value, first = _varint(data, first, last)
                values.append(value)
    return np.array(values, np.uint64).astype(np.int64)


_LISTS = {1: _bytes_list, 2: _float_list, 3: _int64_list}


def _messages(data: bytes, start: int, end: int, *, field: int) -> Iterator[tuple[int, int]]:
    """Where the contents of a repeated message or byte string lie; other fields are passed over."""
    for number, wire, first, last in _fields(data, start, end):
        if number == field and wire == _BYTES:
            yield first, last


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first byte and end of every field of a message."""
    while start < end:
        key, start = _varint(data, start, end)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            last = _varint(data, start, end)[1]
        elif wire == _BYTES:
            length, start = _varint(data, start, end)
            last = start + length
        elif wire in (_FIXED32, _FIXED64):
            last = start + (4 if wire == _FIXED32 else 8)
        else:
            raise ProtobufError(f"a field of wire type {wire} at byte {start}")
        if not field or last > end:
            raise ProtobufError(f"field {field} at byte {start} ends at byte {last} of {end}")
        yield field, wire, start, last
        start = last


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for place in range(start, min(end, start + 10)):
        byte = data[place]
        value |= (byte & 127) << 7 * (place - start)
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
    raise ProtobufError(f"a number at byte {start} has no end")

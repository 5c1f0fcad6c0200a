"""A writer of TFRecord files and `tf.train.Example`s for tests, apart from the package's own code."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np

SETS = {
    # Name of the set: height, width, channels, entities, whether entities come last, other features.
    "clevr_with_masks": (
        240, 320, 3, 11, False,
        "x y z pixel_coords rotation size material shape color visibility".split(),
    ),
    "multi_dsprites_binarized": (64, 64, 1, 4, True, "x y shape color visibility orientation scale".split()),
    "multi_dsprites_colored_on_grayscale": (
        64, 64, 3, 6, True,
        "x y shape color visibility orientation scale".split(),
    ),
    "multi_dsprites_colored_on_colored": (
        64, 64, 3, 5, True,
        "x y shape color visibility orientation scale".split(),
    ),
    "tetrominoes": (35, 35, 3, 4, False, "x y shape color visibility".split()),
    "objects_room": (64, 64, 3, 7, False, []),
}  # fmt: skip


def checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32)


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def varint(value: int) -> bytes:
    groups = []
    while True:
        value, low = value >> 7, value & 127
        groups.append(low | (128 if value else 0))
        if not value:
            return bytes(groups)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def one_byte_entries(values: np.ndarray) -> bytes:
    """A BytesList in which every byte is an entry of its own."""
    flat = np.ascontiguousarray(values, np.uint8).reshape(-1)
    rows = np.empty((len(flat), 3), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = 0x0A, 1, flat
    return rows.tobytes()


def example(features: dict[str, np.ndarray | list[bytes]]) -> bytes:
    """uint8 arrays as one-byte entries, float32 packed, int64 packed, lists of bytes as they are."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = field(1, b"".join(field(1, value) for value in values))
        elif values.dtype == np.uint8:
            feature = field(1, one_byte_entries(values))
        elif values.dtype == np.float32:
            feature = field(2, field(1, values.tobytes()))
        else:
            feature = field(3, field(1, b"".join(varint(int(value) % 2**64) for value in values)))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def scene(name: str, seed: int, num_objects: int | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of one scene of a set, and its label map [height, width]."""
    height, width, channels, entities, entity_last, others = SETS[name]
    generator = np.random.default_rng(seed)
    objects = generator.integers(1, entities) if num_objects is None else num_objects
    labels = np.zeros((height, width), np.uint8)
    for label in range(1, objects + 1):
        top, left = generator.integers(0, height - 12), generator.integers(0, width - 12)
        labels[top : top + 12, left : left + 12] = label
    # Few grey levels and some noise: about as compressible as a rendered image.
    picture = 20 * labels[..., None] + generator.integers(0, 4, (height, width, channels), dtype=np.uint8)
    masks = np.where(labels == np.arange(entities)[:, None, None], 255, 0).astype(np.uint8)
    features = {"image": picture, "mask": masks.transpose(1, 2, 0) if entity_last else masks}
    there = np.arange(entities) <= objects
    for other in others:
        count = {"pixel_coords": 3, "color": channels if entity_last or entities == 4 else 1}.get(other, 1)
        values = generator.uniform(-3, 3, entities * count).astype(np.float32)
        if other == "visibility":
            values = there.astype(np.float32)
        elif name == "clevr_with_masks" and other in ("size", "material", "shape", "color"):
            most = {"size": 2, "material": 2, "shape": 3, "color": 8}[other]
            values = generator.integers(1, most + 1, entities).astype(np.uint8) * there
            values[0] = 0
        features[other] = values
    return features, labels

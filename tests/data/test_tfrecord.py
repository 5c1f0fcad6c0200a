"""TFRecord files: whole ones are read, and no damage passes for a shorter or another file."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from records import checksum, frame

from objecthood.data.published.tfrecord import MAX_RECORD_BYTES, RecordError, Records, masked_crc

GOOD = [b"first record", bytes(range(97)), b"third"]
PLAIN = b"".join(frame(record) for record in GOOD)
ENDS = [len(b"".join(frame(record) for record in GOOD[:count])) for count in range(4)]


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "shard.tfrecords"
    path.write_bytes(content)
    return path


def read(path: Path, **options: bool) -> tuple[list[bytes], str]:
    """The records given before the end or the error, and the error."""
    given: list[bytes] = []
    try:
        given.extend(Records(path, **options))
    except RecordError as error:
        return given, str(error)
    return given, ""


def bitwise_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksum_is_the_definition():
    for record in GOOD:
        crc = bitwise_crc32c(record)
        assert masked_crc(record) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        packed(PLAIN),
        packed(PLAIN[:50]) + packed(PLAIN[50:]),
        packed(PLAIN) + packed(b""),
        packed(PLAIN[: ENDS[1]]) + bytes(70_000) + packed(PLAIN[ENDS[1] :]) + bytes(12),
    ],
    ids=["plain", "gzip", "two members", "empty member", "padded with zeros"],
)
def test_whole_files(tmp_path, content):
    records = Records(write(tmp_path, content))
    assert list(records) == GOOD
    assert (records.number, records.share, records.skipped) == (2, 1.0, [])
    assert list(records) == []


def test_numbers_and_offsets(tmp_path):
    records = Records(write(tmp_path, packed(PLAIN)))
    assert [(records.number, records.offset) for _ in records] == list(enumerate(ENDS[:3]))


def test_plain_file_that_begins_like_gzip(tmp_path):
    large = bytes(0x088B1F)
    assert list(Records(write(tmp_path, frame(large)))) == [large]


def test_records_larger_than_a_piece(tmp_path):
    large = [os.urandom(200_000), bytes(3_000_000), b""]
    content = b"".join(frame(record) for record in large)
    assert list(Records(write(tmp_path, content))) == large
    assert list(Records(write(tmp_path, packed(content)))) == large


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation(tmp_path, compressed, scoreboard):
    content = packed(PLAIN) if compressed else PLAIN
    for length in range(len(content)):
        given, error = read(write(tmp_path, content[:length]))
        assert given == GOOD[: len(given)]
        if not compressed and length in ENDS[1:]:  # a good file of fewer records: the format holds no count
            assert (given, error) == (GOOD[: ENDS.index(length)], "")
            continue
        assert "shard.tfrecords" in error, length
        if length:
            assert f"record {len(given)} at byte {ENDS[len(given)]}: " in error, length
        else:
            assert "holds no record" in error
    what = "a file cut at every byte: never silently short, but where the format itself cannot tell"
    scoreboard("Data files", what, len(content))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_mutations(tmp_path, compressed, skip_bad, scoreboard):
    content, chance = packed(PLAIN) if compressed else PLAIN, random.Random(int(compressed))
    errors = skips = 0
    for _ in range(300):
        records = Records(write(tmp_path, mutate(content, chance)), skip_bad=skip_bad)
        given: list[bytes] = []
        try:
            given.extend(records)
        except RecordError as error:
            errors += 1
            assert "shard.tfrecords" in str(error)
            assert "at byte" in str(error) or "no record" in str(error)
            assert all(record in GOOD for record in given)
        else:  # whole in spite of it (as a GZIP time stamp), or counted
            assert given == [record for record in GOOD if record in given]
            assert len(given) + len(records.skipped) == len(GOOD)
            skips += len(records.skipped)
    assert errors > 100
    assert (skips > 0) == (skip_bad and not compressed)
    scoreboard("Data files", "damaged TFRecord files: an error that names the record, or counted", 300)


def mutate(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    place = chance.randrange(len(data))
    kind = chance.randrange(4)
    if kind == 0:
        data[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data[place] = (data[place] + chance.randrange(1, 256)) % 256
    elif kind == 2:
        del data[place : place + chance.randrange(1, 9)]
    else:
        data[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


def test_skip_bad_counts_and_goes_on(tmp_path):
    content = bytearray(PLAIN)
    content[ENDS[1] + 12 + 5] ^= 1
    path = write(tmp_path, packed(bytes(content)))
    assert read(path) == (
        GOOD[:1],
        f"'{path}': record 1 at byte {ENDS[1]}: the checksum of its data is wrong; "
        "download the file again, or skip bad records",
    )
    records = Records(path, skip_bad=True)
    assert list(records) == [GOOD[0], GOOD[2]]
    assert [str(error) for error in records.skipped] == [read(path)[1]]


def test_a_bad_length_stops_even_where_bad_records_are_skipped(tmp_path):
    content = bytearray(PLAIN)
    content[ENDS[1]] ^= 1
    given, error = read(write(tmp_path, bytes(content)), skip_bad=True)
    assert given == GOOD[:1]
    assert f"record 1 at byte {ENDS[1]}: the checksum of its length is wrong" in error


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, MAX_RECORD_BYTES + 1, MAX_RECORD_BYTES])
def test_huge_lengths_take_no_memory(tmp_path, length):
    header = struct.pack("<Q", length)
    content = PLAIN + header + checksum(header) + b"few bytes"
    for path in (write(tmp_path, content), write(tmp_path, packed(content))):
        tracemalloc.start()
        try:
            given, error = read(path)
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()
        assert given == GOOD
        assert f"record 3 at byte {len(PLAIN)}: " in error
        assert ("ends early" if length == MAX_RECORD_BYTES else f"claims {length} bytes") in error


def test_what_is_no_file(tmp_path):
    for path, problem in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "not a regular file"),
        (write(tmp_path, b""), "holds no record"),
        (Path(f"{tmp_path}/\0"), "cannot be opened"),
    ):
        with pytest.raises(RecordError, match=problem):
            list(Records(path))


def test_an_unfinished_reader_leaves_no_open_file(tmp_path):
    path = write(tmp_path, PLAIN)
    records = Records(path)
    next(records)
    del records
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        next(Records(path))
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)

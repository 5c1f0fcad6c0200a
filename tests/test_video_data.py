"""Readers of video data sets: DAVIS' layout and MOVi's records."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from objecthood.data.io.images import ImageError
from objecthood.data.published.davis import Davis2016, folds
from objecthood.data.published.movi import Movi
from objecthood.data.published.tfrecord import RecordError, masked_crc


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(name: str, values) -> bytes:
    """An entry of `tf.train.Features`, after tensorflow/core/example/feature.proto."""
    if isinstance(values[0], bytes):
        content = field(1, b"".join(field(1, value) for value in values))
    elif isinstance(values[0], float):
        content = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
    else:
        content = field(3, field(1, b"".join(varint(int(value)) for value in values)))
    return field(1, field(1, name.encode()) + field(2, content))


def record(features: dict) -> bytes:
    data = field(1, b"".join(feature(name, values) for name, values in features.items()))
    length = struct.pack("<Q", len(data))
    parts = (length, data)
    return b"".join(part + struct.pack("<I", masked_crc(part)) for part in parts)


@pytest.fixture
def clip():
    random = np.random.default_rng(0)
    video = random.integers(0, 255, (3, 16, 12, 3), dtype=np.uint8)
    labels = random.integers(0, 4, (3, 16, 12), dtype=np.uint8)
    flow = random.integers(0, 65535, (3, 16, 12, 2))
    features = {
        "video": [png(frame) for frame in video],
        "segmentations": [png(frame) for frame in labels],
        "forward_flow": flow.ravel().tolist(),
        "metadata/forward_flow_range": [-2.0, 6.0],
    }
    return video, labels, flow, features


def test_movi_clips_are_what_their_records_hold(tmp_path, clip):
    video, labels, flow, features = clip
    (tmp_path / "movi_c-train.tfrecord-00000-of-00001").write_bytes(record(features) + record(features))
    clips = list(Movi(tmp_path, with_flow=True))
    assert len(clips) == 2
    for one in clips:
        assert (one["image"][0].permute(0, 2, 3, 1).mul(255).round().numpy() == video).all()
        assert (one["masks"][0].numpy() == labels).all()
        down, across = (flow[..., axis] / 65535 * 8 - 2 for axis in (0, 1))
        np.testing.assert_allclose(one["flow"][0, :, 0].numpy(), across, atol=1e-5)
        np.testing.assert_allclose(one["flow"][0, :, 1].numpy(), down, atol=1e-5)
    assert "flow" not in next(iter(Movi(tmp_path)))


def test_records_of_others_are_refused(tmp_path, clip):
    features = clip[3]
    file = tmp_path / "other.tfrecord"
    file.write_bytes(record({"video": features["video"]}))
    with pytest.raises(RecordError, match="record 0: not a MOVi clip .*segmentations"):
        list(Movi(file))
    with pytest.raises(RecordError, match="no TFRecord file"):
        Movi(tmp_path / "none")


def test_davis_layout(tmp_path):
    for kind, mode in (("JPEGImages", "RGB"), ("Annotations", "L")):
        for sequence in ("goat", "bear"):
            folder = tmp_path / kind / "480p" / sequence
            folder.mkdir(parents=True)
            for number in range(3):
                suffix = "jpg" if mode == "RGB" else "png"
                Image.new(mode, (20, 10), 255 if mode == "L" else "red").save(
                    folder / f"{number:05d}.{suffix}"
                )
    davis = Davis2016(tmp_path)
    assert davis.sequences == ["bear", "goat"] and davis.frames("goat").num_frames == 3
    assert davis.truth("goat").shape == (3, 10, 20) and davis.truth("goat").all()
    (tmp_path / "Annotations" / "480p" / "goat" / "00001.png").unlink()
    with pytest.raises(ImageError, match="00001.png.*no annotation"):
        davis.truth("goat")
    with pytest.raises(ImageError, match="no JPEGImages/480p"):
        Davis2016(tmp_path / "JPEGImages")


def test_folds_hold_every_sequence_out_once():
    names = [f"s{number:02d}" for number in range(12)]
    three = folds(names)
    assert sorted(name for _, out in three for name in out) == names
    assert all(not set(train) & set(out) and len(train) == 8 for train, out in three)


def test_davis_itself(shared_data):
    davis = Davis2016(shared_data / "davis2016")
    assert len(davis.sequences) == 12 and davis.frames("goat").num_frames == 90
    truth = davis.truth("dog")
    assert truth.shape == (60, 480, 854) and 0.01 < truth.mean() < 0.3

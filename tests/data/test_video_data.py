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
    for left in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "JPEGImages" / "480p" / left).mkdir()
    davis = Davis2016(tmp_path)
    assert davis.sequences == ["bear", "goat"] and davis.frames("goat").num_frames == 3
    assert davis.truth("goat").shape == (3, 10, 20) and davis.truth("goat").all()
    (tmp_path / "Annotations" / "480p" / "goat" / "00001.png").unlink()
    with pytest.raises(ImageError, match="00001.png.*no annotation"):
        davis.truth("goat")
    with pytest.raises(ImageError, match="no JPEGImages/480p"):
        Davis2016(tmp_path / "JPEGImages")


@pytest.mark.parametrize("missing", ["00001-of-00003", "00002-of-00003"])
def test_shards_that_are_missing_are_told(tmp_path, clip, missing):
    for split in ("train", "validation"):
        for number in range(3):
            name = f"movi_c-{split}.tfrecord-{number:05d}-of-00003"
            (tmp_path / name).write_bytes(record(clip[3]))
    assert len(list(Movi(tmp_path))) == 6
    (tmp_path / f"movi_c-validation.tfrecord-{missing}").unlink()
    for paths in (tmp_path, f"{tmp_path}/movi_c*", f"{tmp_path}/movi_c-validation*"):
        with pytest.raises(RecordError, match=f"2 of 3 shards, number {int(missing[:5])} is missing"):
            Movi(paths)
    assert len(list(Movi(f"{tmp_path}/movi_c-train*"))) == 3
    assert len(list(Movi(tmp_path / "movi_c-validation.tfrecord-00000-of-00003"))) == 1, "named itself"


@pytest.mark.parametrize("feature", ["video", "segmentations"])
def test_frames_and_segmentations_fit(tmp_path, clip, feature):
    short, narrow = dict(clip[3]), dict(clip[3])
    short[feature] = short[feature][:2]
    narrow[feature] = [png(np.zeros((16, 11), np.uint8))] * 3
    for features in (short, narrow):
        (tmp_path / "a.tfrecord").write_bytes(record(features))
        with pytest.raises(RecordError, match="record 0: not a MOVi clip .*frames with .* segmentations"):
            list(Movi(tmp_path))


def davis_copy(folder, annotations: list[Image.Image]) -> Davis2016:
    """A sequence of as many frames of 20 x 10."""
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p" / "goat").mkdir(parents=True)
    for number, annotation in enumerate(annotations):
        Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "480p" / "goat" / f"{number:05d}.jpg")
        annotation.save(folder / "Annotations" / "480p" / "goat" / f"{number:05d}.png")
    return Davis2016(folder)


def test_whatever_is_annotated_is_foreground(tmp_path):
    """0 and 1, numbers of objects in a palette (where DAVIS 2017 makes number 8 dark), colours, 16 bits."""
    labels = np.zeros((10, 20), np.uint8)
    labels[2:5, 3:9] = 1
    palette = Image.fromarray(8 * labels).convert("P")
    palette.putpalette([0, 0, 0] * 8 + [64, 0, 0] + [0] * 720)
    white_ground = Image.fromarray(labels).convert("P")
    white_ground.putpalette([255, 255, 255, 0, 0, 0] + [0] * 762)
    annotations = [
        Image.fromarray(labels),
        Image.fromarray(255 * labels),
        palette,
        white_ground,
        Image.fromarray(np.stack([0 * labels, 0 * labels, 3 * labels], -1)),
        Image.fromarray(np.stack([labels, 0 * labels, 0 * labels, 0 * labels + 255], -1)),
        Image.fromarray(labels.astype(np.uint16) * 256),
        Image.fromarray(labels > 0),
    ]
    truth = davis_copy(tmp_path, annotations).truth("goat")
    for number, mask in enumerate(truth):
        np.testing.assert_array_equal(mask, labels > 0, err_msg=f"annotation {number}")


def test_frames_and_annotations_are_of_each_other(tmp_path):
    davis = davis_copy(tmp_path, [Image.new("L", (20, 10))] * 3)
    assert not davis.truth("goat").any()
    annotations = davis.annotations / "goat"
    Image.new("L", (19, 10)).save(annotations / "00001.png")
    with pytest.raises(ImageError, match=r"00001.png': is 19 x 10, its frame 20 x 10"):
        davis.truth("goat")
    (annotations / "00001.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"00001.png': damaged annotation"):
        davis.truth("goat")
    Image.new("L", (20, 10)).save(annotations / "00001.png")
    (davis.images / "goat" / "00002.jpg").unlink()
    with pytest.raises(ImageError, match=r"00002.png': this annotation has no frame"):
        davis.truth("goat")
    for frame in ("00002.jpg", "00002.png"):
        Image.new("RGB", (20, 10)).save(davis.images / "goat" / frame)
    with pytest.raises(ImageError, match=r"00002.png': two frames of this name"):
        davis.truth("goat")


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

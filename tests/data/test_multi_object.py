"""The multi-object data sets, read and packed: equal to TensorFlow's reading, fast, never silently wrong."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from published_sets import write_multi_object, write_records
from records import SETS, example, field, frame, scene, varint
from timing import cpu_seconds

from objecthood.data import clevr_properties
from objecthood.data.published.multi_object import read
from objecthood.data.published.multi_object_packed import Packed, PackError, convert, split_scenes
from objecthood.data.published.protobuf import ProtobufError, parse_example
from objecthood.data.published.tfrecord import RecordError
from objecthood.data.scene import Dataset
from objecthood.data.transforms import resize_bilinear, resize_nearest
from objecthood.runtime.signals import nobody_else

FILES = {
    "clevr_with_masks_train": "clevr",
    "multi_dsprites_binarized": "dsprites_binarized",
    "multi_dsprites_colored_on_colored": "dsprites_colored_on_colored",
    "multi_dsprites_colored_on_grayscale": "dsprites_colored_on_grayscale",
    "objects_room_train": "objects_room",
    "tetrominoes_train": "tetrominoes",
}


# Reading.


@pytest.mark.parametrize("file", FILES)
def test_equal_to_tensorflow(shared_data, file):
    expected = np.load(shared_data / "multi_object" / "expected.npz")
    scenes = read(shared_data / "multi_object" / f"{file}.tfrecords")
    given = list(scenes)
    pictures = expected[f"{FILES[file]}_image"]
    wanted = np.broadcast_to(pictures, (*pictures.shape[:3], 3)).astype(np.float32) / np.float32(255)
    assert scenes.variant == file.removesuffix("_train")
    assert [scene["image"].dtype for scene in given] == [torch.float32] * len(pictures)
    np.testing.assert_array_equal(torch.stack([s["image"] for s in given]).permute(0, 2, 3, 1), wanted)
    np.testing.assert_array_equal(
        torch.stack([s["masks"] for s in given]), expected[f"{FILES[file]}_label"].astype(np.int64)
    )


def test_properties_equal_to_tensorflow(shared_data):
    expected = np.load(shared_data / "multi_object" / "expected.npz")
    given = list(read(shared_data / "multi_object" / "clevr_with_masks_train.tfrecords"))
    for number, scene_ in enumerate(given):
        rows = scene_["properties"].numpy()
        there = expected["clevr_visibility"][number][1:] > 0
        assert rows.shape == (10, 19)
        np.testing.assert_array_equal(rows[:, 18], there)
        assert not rows[~there].any()
        for axis, name in enumerate("xyz"):
            values = expected[f"clevr_{name}"][number][1:][there]
            np.testing.assert_allclose(rows[there, axis], (values + 3) / 6, atol=1e-7)
        start = 3
        for name, names in clevr_properties.NAMES.items():
            group = rows[there, start : start + len(names)]
            np.testing.assert_array_equal(group.sum(1), 1)
            codes = expected[f"clevr_{name}"][number][1:][there]
            np.testing.assert_array_equal(group.argmax(1) + 1, codes)
            start += len(names)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_recognised(tmp_path, name):
    scenes = read(write_multi_object(tmp_path / "file", name, range(2)))
    for seed, given in enumerate(scenes):
        features, labels = scene(name, seed)
        assert given["masks"].dtype == torch.int64
        np.testing.assert_array_equal(given["masks"], labels)
        np.testing.assert_array_equal(
            (given["image"] * 255).round(),
            np.broadcast_to(features["image"].transpose(2, 0, 1), (3, *labels.shape)),
        )
        assert ("properties" in given) == (name == "clevr_with_masks")
    assert scenes.variant == name


def test_speed_of_clevr(tmp_path):
    path = write_multi_object(tmp_path / "file", "clevr_with_masks", range(12))
    rate = 12 / cpu_seconds(lambda: list(read(path)))
    assert rate >= 30  # half of what a slow processor without AVX-512 does


def test_pixels_of_no_mask_and_of_two(tmp_path):
    features = scene("tetrominoes", 0, 3)[0]
    features["mask"][:, 0, 0] = 0
    features["mask"][:, 0, 1] = [0, 100, 255, 255]
    given = next(read(write_records(tmp_path / "file", [example(features)])))
    assert given["masks"][0, :2].tolist() == [0, 2]


def test_background_of_objects_room(tmp_path):
    features, labels = scene("objects_room", 3, 6)
    path = write_records(tmp_path / "file", [example(features)])
    plain, merged = next(read(path)), next(read(path, merge_background=True))
    np.testing.assert_array_equal(plain["masks"], labels)
    np.testing.assert_array_equal(merged["masks"], np.maximum(labels.astype(int) - 3, 0))


def test_bytes_in_any_entries(tmp_path):
    features, labels = scene("tetrominoes", 1)
    image, mask = features["image"].tobytes(), features["mask"].tobytes()
    features["image"] = [image]
    features["mask"] = [mask[:1000], b"", mask[1000:]]
    given = next(read(write_records(tmp_path / "file", [example(features)])))
    np.testing.assert_array_equal(given["masks"], labels)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": np.zeros(35 * 35 * 3 - 1, np.uint8)}, "image of 3674 bytes"),
        ({"mask": np.zeros(35 * 35 * 3, np.uint8)}, "masks of 3675"),
        ({"x": np.zeros(3, np.float32)}, "`x` has 3 values for 4 entities"),
        ({"extra": np.zeros(4, np.float32)}, "other features: color, extra, shape"),
        ({"image": np.zeros(35 * 35 * 3, np.float32)}, "no bytes named `image`"),
        ({"visibility": np.zeros(4, np.uint8)}, "`visibility` holds bytes"),
    ],
)
def test_wrong_records_are_named(tmp_path, change, problem):
    good = example(scene("tetrominoes", 0)[0])
    bad = example(scene("tetrominoes", 1)[0] | change)
    path = write_records(tmp_path / "file", [good, bad, good])
    scenes = read(path)
    next(scenes)
    with pytest.raises(RecordError, match=problem) as caught:
        next(scenes)
    assert f"'{path}': record 1 at byte {len(frame(good))}: " in str(caught.value)
    scenes = read(path, skip_bad=True)
    assert len(list(scenes)) == 2
    assert scenes.skipped == [str(caught.value)]


def test_wrong_codes_and_another_set(tmp_path):
    clevr = scene("clevr_with_masks", 0, 5)[0]
    clevr["color"][3] = 9
    with pytest.raises(RecordError, match="`color` has codes .* 1 to 8 are known"):
        next(read(write_records(tmp_path / "file", [example(clevr)])))
    others = [example(scene(name, 0)[0]) for name in ("tetrominoes", "objects_room")]
    scenes = read(write_records(tmp_path / "file", others))
    next(scenes)
    with pytest.raises(RecordError, match="a scene of objects_room in a file of tetrominoes"):
        next(scenes)


# Protobuf.


def test_lists_packed_and_one_by_one():
    floats, numbers = np.array([1.5, -2], np.float32), np.array([3, -1, 2**40])
    one_by_one = b"".join(b"\x0d" + value.tobytes() for value in floats)
    singles = b"".join(b"\x08" + varint(int(value) % 2**64) for value in numbers)
    data = example({"f": floats, "i": numbers})
    data += field(1, field(1, field(1, b"g") + field(2, field(2, one_by_one))))
    data += field(1, field(1, field(1, b"j") + field(2, field(3, singles))))
    data += field(1, field(1, field(1, b"empty") + field(2, b"")))
    given = parse_example(data + varint(7 << 3 | 1) + bytes(8))
    for names, wanted in (("fg", floats), ("ij", numbers)):
        for name in names:
            np.testing.assert_array_equal(given[name], wanted)
    assert given["empty"] == []


def test_entries_of_equal_and_other_lengths():
    for entries in ([b"abc", b"def"], [b"a", b"bc", b"d"], [bytes(127)] * 3, [bytes(128)] * 2, [b"", b""]):
        given = parse_example(example({"x": entries}))["x"]
        rows = given if isinstance(given, list) else [row.tobytes() for row in given]
        assert rows == entries
    # Sizes that fit the stride of the first entry while the entries do not.
    tricky = field(1, b"\x00") + field(1, b"\x01\x0a\x01\x02")
    given = parse_example(field(1, field(1, field(1, b"x") + field(2, field(1, tricky)))))["x"]
    assert given == [b"\x00", b"\x01\x0a\x01\x02"]


def test_mutated_examples_end_in_our_error_or_not_at_all():
    good, chance = (
        example({"x": np.arange(20, dtype=np.uint8), "y": np.ones(3, np.float32), "z": [b"ab", b""]}),
        (random.Random(0)),
    )
    errors = 0
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            parse_example(bytes(data[: chance.randrange(len(data))] if chance.random() < 0.3 else data))
        except ProtobufError:
            errors += 1
    assert errors > 100


# Packed.


@pytest.fixture
def clevr_file(tmp_path) -> Path:
    counts = [3, 7, 6, 10, 4, 3, 8, 6, 5, 9]
    return write_records(
        tmp_path / "clevr.tfrecords",
        [example(scene("clevr_with_masks", seed, count)[0]) for seed, count in enumerate(counts)],
    )


def reference_bilinear(image: np.ndarray, resolution: int) -> np.ndarray:
    """`tf.image.resize` by its definition: half-pixel centres, edges repeated, float64; [H, W, C]."""

    def axis_weights(size: int) -> np.ndarray:
        centres = (np.arange(resolution) + 0.5) * size / resolution - 0.5
        low = np.floor(centres)
        weights = np.zeros((resolution, size))
        for row, (place, share) in enumerate(zip(low.astype(int), centres - low, strict=True)):
            weights[row, np.clip(place, 0, size - 1)] += 1 - share
            weights[row, np.clip(place + 1, 0, size - 1)] += share
        return weights

    rows, columns = axis_weights(image.shape[0]), axis_weights(image.shape[1])
    return (
        np.einsum("rh,hwc,cw->rc", rows, image, columns)
        if image.ndim == 2
        else np.stack([rows @ image[..., channel] @ columns.T for channel in range(image.shape[2])], axis=-1)
    )


@pytest.mark.parametrize(
    ("size", "resolution"), [((192, 192), 128), ((240, 320), 128), ((35, 35), 64), ((5, 7), 3)]
)
def test_resize_is_that_of_the_definition(size, resolution):
    image = np.random.default_rng(0).random((*size, 3))
    given = resize_bilinear(torch.from_numpy(image).permute(2, 0, 1)[None].float(), resolution)[0].permute(
        1, 2, 0
    )
    np.testing.assert_allclose(given, reference_bilinear(image, resolution), atol=1e-5)
    labels = np.arange(size[0] * size[1]).reshape(size)
    rows, columns = (np.floor((np.arange(resolution) + 0.5) * side / resolution).astype(int) for side in size)
    np.testing.assert_array_equal(resize_nearest(labels, resolution), labels[np.ix_(rows, columns)])


def test_packed_as_stored(clevr_file, tmp_path):
    steps: list[tuple[int, float]] = []
    manifest = convert(clevr_file, tmp_path / "pack", progress=lambda *step: steps.append(step))
    assert [count for count, _ in steps] == list(range(1, 11))
    assert steps[-1][1] == 1.0
    assert manifest["num_scenes"] == 10
    assert manifest["source"]["bytes"] == clevr_file.stat().st_size
    assert json.loads((tmp_path / "pack" / "manifest.json").read_text()) == manifest
    assert not (tmp_path / "pack.partial").exists()
    packed, scenes = Packed(tmp_path / "pack"), list(read(clevr_file))
    assert isinstance(packed, Dataset)
    assert not packed.endless
    assert packed.scenes.tolist() == list(range(9))
    batch = packed[[8, 2]]
    for row, number in enumerate((8, 2)):
        for key, value in scenes[number].items():
            assert batch[key].dtype == value.dtype
            np.testing.assert_array_equal(batch[key][row], value)


def test_crop_and_resolution(clevr_file, tmp_path):
    convert(clevr_file, tmp_path / "full")
    convert(clevr_file, tmp_path / "small", crop=True, resolution=128)
    exact = Packed(tmp_path / "full", crop=True, resolution=128)[range(3)]
    small = Packed(tmp_path / "small", crop=True)[range(3)]
    for number, scene_ in zip(range(3), read(clevr_file), strict=False):
        picture = scene_["image"][:, 29:221, 64:256].permute(1, 2, 0).double().numpy()
        wanted = reference_bilinear(picture, 128)
        np.testing.assert_allclose(exact["image"][number].permute(1, 2, 0), wanted, atol=1e-6)
        np.testing.assert_allclose(small["image"][number].permute(1, 2, 0), wanted, atol=0.5 / 255 + 1e-6)
    assert torch.equal(exact["masks"], small["masks"])
    assert torch.equal(exact["properties"], small["properties"])
    with pytest.raises(ValueError, match="`crop` comes before resizing"):
        convert(clevr_file, tmp_path / "squashed", resolution=64)
        Packed(tmp_path / "squashed", crop=True)


def test_filter_and_splits(clevr_file, tmp_path):
    convert(clevr_file, tmp_path / "pack")
    assert Packed(tmp_path / "pack", max_objects=6).scenes.tolist() == [0, 2, 4, 5, 7, 8]
    assert Packed(tmp_path / "pack", min_objects=7, max_objects=10).scenes.tolist() == [1, 3, 6]
    assert Packed(tmp_path / "pack", "test").scenes.tolist() == [9]
    with pytest.raises(PackError, match="no scene of 0 to 6 objects in test, of 10 scenes"):
        Packed(tmp_path / "pack", "test", max_objects=6)
    with pytest.raises(ValueError, match="`split`"):
        Packed(tmp_path / "pack", "val")


def test_splits_of_the_published_file():
    everything = np.ones(100_000, bool)
    train, test, validation = (split_scenes(everything, s, 70_000) for s in ("train", "test", "validation"))
    assert (train[0], train[-1], test[0], test[-1], validation[0], validation[-1]) == (
        0, 69_999, 70_000, 70_319, 70_320, 99_999,
    )  # fmt: skip
    every_third = np.arange(100_000) % 3 == 0
    assert len(split_scenes(every_third, "test", 70_000)) == 320


def test_room_background_in_a_pack(tmp_path):
    path = write_multi_object(tmp_path / "room", "objects_room", range(4), num_objects=5)
    convert(path, tmp_path / "pack")
    batch = Packed(tmp_path / "pack")[[0]]
    np.testing.assert_array_equal(
        batch["masks"][0], np.maximum(scene("objects_room", 0, 5)[1].astype(int) - 3, 0)
    )
    assert "properties" not in batch
    assert Packed(tmp_path / "pack", max_objects=2)._arrays["num_objects"].tolist() == [2, 2, 2, 2]


def test_convert_refuses_and_cleans_up(clevr_file, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(PackError, match="exists"):
        convert(clevr_file, tmp_path / "there")
    with pytest.raises(PackError, match="`crop` is for CLEVR"):
        convert(write_multi_object(tmp_path / "t", "tetrominoes", range(2)), tmp_path / "pack", crop=True)
    content = clevr_file.read_bytes()
    clevr_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RecordError, match="ends early"):
        convert(clevr_file, tmp_path / "pack", skip_bad=True)
    assert not (tmp_path / "pack").exists()
    assert not (tmp_path / "pack.partial").exists()


def test_convert_begins_anew_after_a_kill(clevr_file, tmp_path):
    (tmp_path / "pack.partial").mkdir()
    (tmp_path / "pack.partial" / "images.npy").write_bytes(b"half an image" * 1_000_000)
    (tmp_path / "pack.partial" / "manifest.json").write_text("{")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "pack.partial" / "masks.npy").symlink_to(tmp_path / "mine")
    with (
        nobody_else(tmp_path / "pack.partial"),
        pytest.raises(ValueError, match="is written to by .*; wait for it"),
    ):
        convert(clevr_file, tmp_path / "pack", max_scenes=4)
    convert(clevr_file, tmp_path / "pack", max_scenes=4)
    assert len(Packed(tmp_path / "pack")) == 3 and (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "other.partial").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a symbolic link, and nothing is written through one"):
        convert(clevr_file, tmp_path / "other")


def test_skipped_records_are_in_the_manifest(tmp_path):
    good, bad = scene("tetrominoes", 0)[0], {"image": np.zeros(5, np.uint8)}
    path = write_records(tmp_path / "file", [example(good), example(bad), example(good)])
    manifest = convert(path, tmp_path / "pack", skip_bad=True)
    assert manifest["num_scenes"] == 2
    assert len(manifest["skipped"]) == 1
    assert "record 1 at byte" in manifest["skipped"][0]
    with pytest.raises(PackError, match="none of 1 records is good"):
        convert(write_records(tmp_path / "bad", [example(bad)]), tmp_path / "other", skip_bad=True)


def test_damaged_packs(clevr_file, tmp_path):
    with pytest.raises(PackError, match=r"no readable manifest.json"):
        Packed(tmp_path)
    convert(clevr_file, tmp_path / "pack", max_scenes=4)
    images = tmp_path / "pack" / "images.npy"
    content = images.read_bytes()
    images.write_bytes(content[:-1])
    with pytest.raises(PackError, match=r"images.npy': cannot be read"):
        Packed(tmp_path / "pack")
    np.save(images, np.array([{"a": 1}] * 4, dtype=object), allow_pickle=True)
    with pytest.raises(PackError, match=r"images.npy': cannot be read"):
        Packed(tmp_path / "pack")
    images.write_bytes(content)
    np.save(tmp_path / "pack" / "masks.npy", np.zeros((3, 240, 320), np.uint8))
    with pytest.raises(PackError, match="3 scenes, not 4"):
        Packed(tmp_path / "pack")
    (tmp_path / "pack" / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(PackError, match="convert again"):
        Packed(tmp_path / "pack")


@pytest.mark.parametrize("name", ["images", "masks", "num_objects"])
def test_a_pack_that_is_cut_while_it_is_read(clevr_file, tmp_path, name):
    """To read a mapped file beyond its end would kill the process."""
    convert(clevr_file, tmp_path / "pack", max_scenes=4)
    scenes, file = Packed(tmp_path / "pack"), tmp_path / "pack" / f"{name}.npy"
    os.truncate(file, 100)
    with pytest.raises(ValueError, match=f"{name}.npy was cut to 100 of .* bytes") as told:
        scenes[[0]]
    assert "\n" not in str(told.value)

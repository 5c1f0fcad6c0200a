"""Train, validation and test of one source share no scene: every data set that a recipe can name."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace

import pytest
from sources import WRITERS, opened

from objecthood.data.randomness import SPLITS, split_of
from objecthood.data.scene import Dataset
from objecthood.recipes.discovery import Discovery
from objecthood.recipes.sources import MADE_HERE, READ_FROM_FILES


def fingerprints(dataset: Dataset) -> list[bytes]:
    """The images' bytes in 8 bits, at most the first 64."""
    images = dataset[range(min(len(dataset), 64))]["image"]
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in (255 * images).round().byte()]


def check_apart(parts: dict[str, list[bytes]]) -> None:
    for name, part in parts.items():
        assert part and len(set(part)) == len(part), f"{name}: its own images differ from each other"
    for one in parts:
        for other in parts:
            assert one == other or not set(parts[one]) & set(parts[other]), f"{one} and {other} share images"


def test_every_source_from_files_is_written_here():
    assert set(WRITERS) == set(READ_FROM_FILES)


@pytest.mark.parametrize("data", READ_FROM_FILES)
def test_splits_of_files_share_no_scene(data, tmp_path, monkeypatch):
    if data.startswith("coco") and importlib.util.find_spec("pycocotools") is None:
        pytest.skip("needs the extra `coco`")
    path = WRITERS[data](tmp_path / "data", monkeypatch)
    check_apart({split: fingerprints(opened(data, path, split)) for split in SPLITS})


@pytest.mark.parametrize("data", MADE_HERE)
def test_splits_of_made_scenes_share_no_scene(data):
    """Also between seeds: the seed of a run changes its training scenes alone."""
    parts = {split: fingerprints(opened(data, "", split)) for split in SPLITS}
    parts |= {f"train, seed {seed}": fingerprints(opened(data, "", "train", seed)) for seed in (1, 2)}
    check_apart(parts)


def test_the_split_of_a_name_is_fixed_and_its_shares_are_those_promised():
    names = [f"{number:012}.jpg" for number in range(4000)]
    splits = [split_of(name) for name in names]
    shares = {split: splits.count(split) / len(splits) for split in SPLITS}
    assert shares == pytest.approx({"train": 0.9, "validation": 0.05, "test": 0.05}, abs=0.015)
    assert [split_of(f"{number}.png") for number in (0, 1, 6)] == ["validation", "train", "test"]


def test_the_protocol_says_what_is_held_out():
    coco = Discovery(name="x", steps=1, data="coco", data_path="x", resolution=64, num_slots=2)
    assert "images of the COCO file (at most; 5 % of it by a hash of their names) held out" in coco.protocol
    assert "objects" not in replace(coco, data="clevrtex").protocol.split(" held out")[0]
    assert "clevr scenes of 0 to 10 objects held out" in replace(coco, data="clevr").protocol
    assert "where they are too few for that, images of training" in replace(coco, data="folder").protocol

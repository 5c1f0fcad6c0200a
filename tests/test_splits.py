"""Train, validation and test of one source share no scene: every data set that a recipe can name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_clevr
import test_clevrtex
import test_multi_object
from PIL import Image

from objecthood.data.clevr_render import clevr_like
from objecthood.data.clevr_render.arrangement import draw_scene
from objecthood.data.clevr_render.clevr_like import pack, render_dataset
from objecthood.data.published.multi_object_packed import convert
from objecthood.data.randomness import SPLITS, split_of
from objecthood.data.scene import Dataset
from objecthood.recipes.discovery import Discovery
from objecthood.recipes.sources import MADE_HERE, READ_FROM_FILES, Source

IMAGES = 120


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(IMAGES):
        noise(path / f"{number}.png", number)
    return path


def coco(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder(path / "images", monkeypatch)
    rows = [
        {"id": number, "file_name": f"{number}.png", "width": 16, "height": 16} for number in range(IMAGES)
    ]
    content = {"images": rows, "annotations": [], "categories": []}
    (path / "instances.json").write_text(json.dumps(content))
    return path


def clevr(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split, count in (("train", 30), ("val", 10)):
        test_clevr.write_split(path, split, [3] * count, size=(16, 24))
    return path


def clevrtex(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return test_clevrtex.write(path, count=30)


def multi_object(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.mkdir()
    file = test_multi_object.write_set(
        path / "tetrominoes_train.tfrecords", "tetrominoes", range(30), num_objects=3
    )
    convert(file, path / "packed")
    return path / "packed"


def clevr_like_scenes(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scenes that would be rendered, with noise for images, which is a function of the scene."""

    def instead(key, index, objects, resolution, background):
        scene = draw_scene(key, index, objects)
        seed = int.from_bytes(hashlib.sha256(scene.positions.tobytes()).digest()[:4], "big")
        picture = np.random.default_rng(seed).integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        return pack(scene, picture, np.zeros((resolution, resolution), np.uint8))

    monkeypatch.setattr(clevr_like, "_render", instead)
    monkeypatch.setattr("objecthood.data.clevr_render.render.choose_variant", lambda: ("none", "no renderer"))
    for split in SPLITS:
        render_dataset(path, 8, objects=(3, 4), resolution=16, split=split)
    return path


WRITERS = {
    "folder": folder,
    "coco": coco,
    "coco-stored": coco,
    "coco-upright": coco,
    "clevr": clevr,
    "clevrtex": clevrtex,
    "multi-object": multi_object,
    "clevr-like": clevr_like_scenes,
}


def fingerprints(dataset: Dataset) -> list[bytes]:
    """The images' bytes in 8 bits, at most the first 64."""
    images = dataset[range(min(len(dataset), 64))]["image"]
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in (255 * images).round().byte()]


def opened(data: str, path: Path | str, split: str, seed: int = 0) -> Dataset:
    source = Source(path=str(path), split=split, seed=seed, resolution=16, background="grey", objects=(3, 10))
    return (MADE_HERE | READ_FROM_FILES)[data](source)


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
    assert "of a folder too small for that, images of training" in replace(coco, data="folder").protocol

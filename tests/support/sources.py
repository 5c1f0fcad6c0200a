"""A small folder of files for every source of scenes that a recipe can name, and such a source opened."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_sets import write_clevr, write_clevrtex, write_multi_object

from objecthood.data.clevr_render import clevr_like
from objecthood.data.clevr_render.arrangement import draw_scene
from objecthood.data.clevr_render.clevr_like import pack, render_dataset
from objecthood.data.published.multi_object_packed import convert
from objecthood.data.randomness import SPLITS
from objecthood.data.scene import Dataset
from objecthood.recipes.sources import MADE_HERE, READ_FROM_FILES, Source

IMAGES = 120


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number in range(IMAGES):
        noise(path / f"{number}.png", number)
    return path


def shards(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images = folder(path.with_name("images"), monkeypatch)
    path.mkdir()
    for number in range(2):
        with tarfile.open(path / f"{number}.tar", "w") as shard:
            for image in sorted(images.iterdir())[number::2]:
                shard.add(image, image.name)
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
        write_clevr(path, split, [3] * count, size=(16, 24))
    return path


def clevrtex(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_clevrtex(path, count=30)


def multi_object(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.mkdir()
    file = write_multi_object(path / "tetrominoes_train.tfrecords", "tetrominoes", range(30), num_objects=3)
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
    "shards": shards,
    "coco": coco,
    "coco-stored": coco,
    "coco-upright": coco,
    "clevr": clevr,
    "clevrtex": clevrtex,
    "multi-object": multi_object,
    "clevr-like": clevr_like_scenes,
}


def opened(data: str, path: Path | str, split: str, seed: int = 0) -> Dataset:
    source = Source(path=str(path), split=split, seed=seed, resolution=16, background="grey", objects=(3, 10))
    return (MADE_HERE | READ_FROM_FILES)[data](source)

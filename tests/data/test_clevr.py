"""The CLEVR v1.0 folder: properties, splits, filters, crop, and what bad folders say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import COUNTS, write_clevr

from objecthood.data import clevr_properties
from objecthood.data.io.images import ImageError
from objecthood.data.published import clevr
from objecthood.data.published.clevr import Clevr, ClevrError
from objecthood.data.scene import Dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clevr(tmp_path / "CLEVR_v1.0", "train", COUNTS)
    write_clevr(tmp_path / "CLEVR_v1.0", "val", COUNTS[:3])
    return tmp_path / "CLEVR_v1.0"


def numbers(dataset: Clevr) -> list[int]:
    return [int(path.stem[-6:]) for path in dataset.paths]


def test_splits(folder, monkeypatch):
    assert numbers(Clevr(folder, 8, "train")) == list(range(2, 12))  # a tenth, rounded up, is held out
    assert numbers(Clevr(folder, 8, "validation")) == [0, 1]
    test = Clevr(folder, 8, "test")
    assert numbers(test) == [0, 1, 2]
    assert test.paths[0].parent.name == "val"
    monkeypatch.setattr(clevr, "VALIDATION_SCENES", 1)
    assert numbers(Clevr(folder, 8, "validation")) == [0]


def test_filter(folder):
    assert numbers(Clevr(folder, 8, max_objects=6)) == [3, 4, 5, 6, 8, 10, 11]
    assert numbers(Clevr(folder, 8, min_objects=7)) == [2, 7, 9]
    with pytest.raises(ClevrError, match="no scene of 0 to 2 objects in train"):
        Clevr(folder, 8, max_objects=2)


def test_a_batch(folder):
    dataset = Clevr(folder, 16, "test")
    assert isinstance(dataset, Dataset)
    batch = dataset[[2, 0]]
    assert set(batch) == {"image", "properties"}
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 3, 16, 16), torch.float32)
    assert (batch["properties"].shape, batch["properties"].dtype) == ((2, 10, 19), torch.float32)
    assert 0 <= batch["image"].min() <= batch["image"].max() <= 1
    assert torch.equal(batch["image"][1], dataset[np.array([0])]["image"][0])


def test_properties_in_the_documented_order(folder):
    scenes = json.loads((folder / "scenes" / "CLEVR_val_scenes.json").read_text())["scenes"]
    rows = Clevr(folder, 8, "test")[range(3)]["properties"].numpy()
    for scene, row in zip(scenes, rows, strict=True):
        count = len(scene["objects"])
        assert row[:, 18].tolist() == [1] * count + [0] * (10 - count)
        assert not row[count:].any()
        for thing, values in zip(scene["objects"], row, strict=False):
            np.testing.assert_allclose(values[:3] * 6 - 3, thing["3d_coords"], atol=1e-5)
            assert ("large", "small")[values[3:5].argmax()] == thing["size"]
            assert ("rubber", "metal")[values[5:7].argmax()] == thing["material"]
            assert ("cube", "sphere", "cylinder")[values[7:10].argmax()] == thing["shape"]
            colors = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
            assert colors[values[10:18].argmax()] == thing["color"]
            assert values[3:18].sum() == 4


def test_layout_is_that_of_the_shared_scores(shared_data, folder):
    target = np.load(shared_data / "parity" / "set_metrics.npz")["target"]
    ours = Clevr(folder, 8, "test")[range(3)]["properties"].numpy()
    for rows in (target, ours):
        there = rows[rows[..., 18] == 1]
        for first, last in ((3, 5), (5, 7), (7, 10), (10, 18)):
            np.testing.assert_array_equal(there[:, first:last].sum(1), 1)
        assert there[:, :3].min() >= 0
        assert there[:, :3].max() <= 1


def test_order_is_that_of_the_scenes_made_here():
    made = pytest.importorskip("objecthood.data.clevr_render.arrangement")
    assert tuple(clevr_properties.NAMES.values()) == (made.SIZES, made.MATERIALS, made.SHAPES, made.COLORS)


def test_resize_and_crop(tmp_path):
    write_clevr(tmp_path, "val", [3], size=(320, 480))
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "images/val/CLEVR_val_000000.png")))[..., :3]
    image = pixels.permute(2, 0, 1)[None].float() / 255
    for crop, part in ((False, image), (True, image[..., 29:221, 64:256])):
        wanted = torch.nn.functional.interpolate(part, (128, 128), mode="bilinear", align_corners=False)
        given = Clevr(tmp_path, 128, "test", crop=crop)[[0]]["image"]
        torch.testing.assert_close(given, wanted, atol=0.5 / 255 + 1e-6, rtol=0)


def test_bad_arguments(folder):
    for arguments, problem in (
        ({"split": "val"}, "`split` (='val') must be one of train, validation, test"),
        ({"resolution": 0}, "`resolution` (=0) must be at least 1 pixel and at most 7071"),
        ({"max_objects": 11}, "`max_objects` (=11) must be at most 10"),
    ):
        with pytest.raises(ValueError) as caught:
            Clevr(folder, **arguments)
        assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is damaged"),
        ("[]", "is damaged, or not CLEVR's"),
        ('{"scenes": [{"objects": []}]}', "scene 0 has no image_filename"),
        ('{"scenes": []}', "no scene of 0 to 10 objects"),
        (
            '{"scenes": [{"image_filename": "a", "objects": [{"size": "huge"}]}]}',
            "object of 'a' is not CLEVR's",
        ),
    ],
)
def test_bad_folders(folder, content, problem):
    file = folder / "scenes" / "CLEVR_val_scenes.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ClevrError, match=problem) as caught:
        Clevr(folder, 8, "test")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named(folder):
    dataset = Clevr(folder, 8, "test")
    dataset.paths[1].write_bytes(b"no image")
    with pytest.raises(ImageError, match="CLEVR_val_000001.png"):
        dataset[[0, 1]]


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "change",
    [
        None,
        5,
        {},
        [None],
        [[]],
        {"image_filename": None},
        {"image_filename": 7},
        {"image_filename": "../secret.png"},
        {"image_filename": ".."},
        {"objects": None},
        {"objects": {}},
        {"objects": "ab"},
        {"objects": [None]},
        {"objects": [3]},
        {"3d_coords": None},
        {"3d_coords": {"x": 1, "y": 2, "z": 3}},
        {"3d_coords": [1, None, 3]},
        {"3d_coords": [1, float("nan"), 3]},
        {"3d_coords": [1, 10**400, 3]},
        {"3d_coords": "far"},
        {"shape": None},
        {"shape": {}},
        NESTED,
    ],
    ids=lambda change: str(change)[:30],
)
def test_json_of_other_types_is_one_line(folder, change):
    """null, or a dictionary for a list, anywhere; the file is named."""
    file = folder / "scenes" / "CLEVR_val_scenes.json"
    content = json.loads(file.read_text())
    scene = content["scenes"][1]
    if not isinstance(change, dict) or not change:
        content["scenes"] = change
    elif change.keys() <= scene.keys():
        scene |= change
    else:
        scene["objects"][0] |= change
    file.write_text(NESTED if change is NESTED else json.dumps(content))
    with pytest.raises(ClevrError) as caught:
        Clevr(folder, 8, "test")
    assert "CLEVR_val_scenes.json" in str(caught.value) and "\n" not in str(caught.value)

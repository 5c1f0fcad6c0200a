"""ClevrTex's folder: layout, splits, masks as labels, crop, and what bad folders say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import HEIGHT, WIDTH, labels_of, write_clevrtex

from objecthood.data.io.cache import Cache, Decoded
from objecthood.data.published.clevrtex import ClevrTex, ClevrTexError
from objecthood.data.scene import Dataset


def numbers(dataset: ClevrTex) -> list[int]:
    return [int(path.stem[-6:]) for path in dataset.paths]


def test_splits_of_the_published_loader(tmp_path):
    write_clevrtex(tmp_path)
    assert numbers(ClevrTex(tmp_path, 8, "test")) == [0, 1]
    assert numbers(ClevrTex(tmp_path, 8, "validation")) == [2, 3]
    assert numbers(ClevrTex(tmp_path / "clevrtex_full", 8)) == list(range(4, 20))
    write_clevrtex(tmp_path, "outd", 3)
    assert numbers(ClevrTex(tmp_path, 8, "train", variant="outd")) == [0, 1, 2]


@pytest.mark.parametrize("palette", [True, False])
def test_masks_are_labels(tmp_path, palette):
    dataset = ClevrTex(write_clevrtex(tmp_path, palette=palette), 24, "train")
    assert isinstance(dataset, Dataset)
    batch = dataset[[0, 5]]
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 3, 24, 24), torch.float32)
    assert (batch["masks"].shape, batch["masks"].dtype) == ((2, 24, 24), torch.int64)
    # 0.8 of 30 is 24: the crop needs no resize.
    for row, number in enumerate((4, 9)):
        np.testing.assert_array_equal(batch["masks"][row], labels_of(number)[3:27, 8:32])
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
        wanted = pixels[3:27, 8:32, :3].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(batch["image"][row], wanted)


def test_whole_and_resized(tmp_path):
    batch = ClevrTex(write_clevrtex(tmp_path), 12, "test", crop=False)[[0]]
    assert batch["image"].shape == (1, 3, 12, 12)
    assert set(batch["masks"].unique().tolist()) == {0, 1, 2}


def test_bad_folders(tmp_path):
    with pytest.raises(ClevrTexError, match="no CLEVRTEX_full_000000.png"):
        ClevrTex(tmp_path)
    write_clevrtex(tmp_path, count=3)
    with pytest.raises(ClevrTexError, match="3 scenes are too few for a test split"):
        ClevrTex(tmp_path, split="test")
    mask = tmp_path / "clevrtex_full" / "0" / "CLEVRTEX_full_000001_flat.png"
    dataset = ClevrTex(tmp_path, 8)
    for content, problem in (
        (Image.new("L", (4, 4)), "4 x 4 of mode L"),
        (Image.new("RGB", (40, 30)), "mode RGB"),
    ):
        content.save(mask)
        with pytest.raises(ClevrTexError, match=f"000001_flat.png': .*{problem}"):
            dataset[[1]]
    mask.write_bytes(b"none")
    with pytest.raises(ClevrTexError, match=r"000001_flat.png': cannot be read"):
        dataset[[1]]
    mask.unlink()
    with pytest.raises(ClevrTexError, match="has no mask CLEVRTEX_full_000001_flat.png"):
        ClevrTex(tmp_path, 8)


def test_bad_arguments(tmp_path, unchecked):
    for arguments, problem in (
        ({"split": "val"}, "`split`"),
        ({"variant": "whole"}, "`variant`"),
        ({"resolution": 0}, "`resolution`"),
    ):
        with pytest.raises(ValueError, match=problem):
            ClevrTex(tmp_path, **arguments)


def test_cache_keeps_what_fits():
    made: list[int] = []

    def make(index: int) -> Decoded:
        made.append(index)
        return Decoded(np.full((2, 2, 3), index, np.uint8), np.zeros((2, 2), np.uint8))

    cache = Cache(make, capacity=35)  # two of 16 bytes
    for index in (0, 1, 2, 0, 1, 2):
        assert cache[index].picture[0, 0, 0] == index
    assert made == [0, 1, 2, 2]

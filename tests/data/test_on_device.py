"""A data set kept on a device gives what the data set gives."""

import numpy as np
import pytest
import torch

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.generated.sprites import Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.data.loader import batches
from objecthood.data.on_device import OnDevice
from objecthood.data.scene import Dataset


def equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype, key


def test_scenes_are_those_of_the_data_set_to_the_bit():
    plain = ClevrLike(resolution=32, count=70)  # more than are read at once
    kept = OnDevice(plain, "cpu")
    assert isinstance(kept, Dataset) and len(kept) == len(plain) == 70 and not kept.endless
    for indices in (range(70), [69, 0, 0, 68], np.array([5])):
        equal(kept[indices], plain[indices])
    assert kept.num_bytes == 70 * (3 * 32 * 32 + 32 * 32 + 10 * 19 * 4)


def test_the_loader_draws_the_same_batches():
    plain = ClevrLike(resolution=16, count=10)
    pairs = zip(batches(plain, 4, seed=3), batches(OnDevice(plain, "cpu"), 4, seed=3), strict=True)
    for _, (one, other) in zip(range(6), pairs, strict=False):
        equal(one, other)


def test_batches_are_copies():
    kept = OnDevice(ClevrLike(resolution=16, count=3), "cpu")
    kept[[1]]["image"].zero_()
    assert kept[[1]]["image"].max() > 0


def test_user_images_made_here_are_rounded_to_bytes():
    made = Sprites("train", 0, "coloured", 32)
    kept = OnDevice(made, "cpu", count=40)
    assert len(kept) == 40
    assert (kept[range(40)]["image"] - made[range(40)]["image"]).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(kept[range(40)]["masks"], made[range(40)]["masks"])


def test_what_cannot_be_kept_is_said():
    with pytest.raises(ValueError, match="endless data set needs `count`"):
        OnDevice(Tetrominoes("train", 0), "cpu")
    with pytest.raises(ValueError, match=r"`count` \(=0\) must be at least 1"):
        OnDevice(Tetrominoes("train", 0), "cpu", count=0)

    class Crowd(ClevrLike):
        def batch(self, indices):
            return super().batch(indices) | {"masks": torch.full((len(indices), 16, 16), 128)}

    with pytest.raises(ValueError, match="a scene has label 128; at most 127 objects are kept on a device"):
        OnDevice(Crowd(resolution=16, count=1), "cpu")

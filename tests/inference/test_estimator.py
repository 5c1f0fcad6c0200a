"""Arrays in, labels out, as scikit-learn has it."""

import dataclasses

import numpy as np
import pytest
import sklearn.base
import torch
from undrawn import leave_out_images

import objecthood as oh
from objecthood import metrics
from objecthood.data.generated.sprites import Sprites
from objecthood.inference.estimator import ObjectFinder, as_bytes


def sprites(split, count):
    scenes = Sprites(split, resolution=32)[range(count)]
    pictures = scenes["image"].permute(0, 2, 3, 1).mul(255).round().byte().numpy()
    return pictures, scenes["masks"].numpy()


pytestmark = pytest.mark.xdist_group("estimator")  # that is fitted once


@pytest.fixture(scope="module")
def found():
    pictures, _ = sprites("train", 300)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_images(patch)
        return ObjectFinder(6, resolution=32, steps=25, seed=1).fit(pictures)


def test_it_learns_and_says_so(found, undrawn):
    pictures, masks = sprites("test", 24)
    labels = found.predict(pictures)
    assert (
        labels.shape == masks.shape and labels.dtype == np.int16 and set(np.unique(labels)) <= set(range(6))
    )
    untrained = ObjectFinder(6, resolution=32, steps=1, seed=1).fit(pictures)
    assert found.score(pictures) > untrained.score(pictures) + 0.04
    assert found.scores_["mse"] == pytest.approx(-found.score(pictures), rel=0.5)


def test_scores_are_the_metrics_of_predict(found):
    pictures, masks = sprites("test", 8)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(found.predict(pictures)).long(), 6).movedim(-1, 1)
    expected = metrics.adjusted_rand_index(torch.from_numpy(masks), one_hot.float(), ignore_background=True)
    assert found.score(pictures, masks) == pytest.approx(expected.nanmean().item())
    results = oh.predict(found.model_, list(pictures), iterations=7)
    assert np.array_equal(found.transform(pictures), np.stack([result.slots for result in results]))
    floats = found.predict(pictures / np.float32(255))
    assert np.array_equal(floats, found.predict(pictures))


def test_scikit_learn_can_clone_it(found):
    again = sklearn.base.clone(found)
    assert again is not found and again.get_params() == found.get_params() and not hasattr(again, "model_")
    assert again.set_params(steps=3).steps == 3 and found.steps == 25
    with pytest.raises(ValueError, match="no setting 'slots'; it has num_slots"):
        again.set_params(slots=3)
    with pytest.raises(ValueError, match="call fit"):
        again.predict(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_run_is_kept_where_asked(tmp_path):
    pictures, _ = sprites("train", 20)
    finder = ObjectFinder(3, resolution=16, steps=2, out=tmp_path / "run").fit(pictures)
    kept = oh.load(tmp_path / "run" / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), finder.model_.parameters(), strict=True))
    assert (tmp_path / "run" / "index.html").exists()
    with pytest.raises(ValueError, match="holds a run already"):
        finder.fit(pictures)


@pytest.mark.parametrize(
    ("pictures", "answer"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), r"uint8 \[2, 3, 8, 8\]\) must be \[images, height, width, 3\]"),
        (np.zeros((8, 8, 3), np.uint8), "must be"),
        (np.zeros((0, 8, 8, 3), np.uint8), "must be"),
        (np.zeros((2, 8, 8, 3), np.int64), "int64"),
        (np.full((2, 8, 8, 3), 255.0), r"must be in \[0, 1\], got 255 to 255"),
        (np.full((2, 8, 8, 3), np.nan), "must be in"),
        (np.broadcast_to(np.uint8(0), (1, 10**5, 10**5, 3)), "at most"),
        ("pictures", "must be"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], "must be resized to one"),
    ],
)
def test_other_arrays_are_refused(pictures, answer, unchecked):
    with pytest.raises(ValueError, match=answer):
        as_bytes(pictures)
    with pytest.raises(ValueError, match=answer):
        ObjectFinder().fit(pictures)


def test_tensors_and_numbers_of_any_type_are_taken(unchecked):
    images = torch.rand(1, 8, 8, 3, requires_grad=True)
    assert np.abs(as_bytes(images.bfloat16()).astype(int) - as_bytes(images)).max() <= 1
    model = oh.RECIPES["tetrominoes"].build_model()
    (result,) = oh.predict(model, images[0].movedim(-1, 0).bfloat16(), num_slots=np.int64(2))
    assert len(result.masks) == 2
    assert dataclasses.replace(oh.RECIPES["folder"], num_slots=np.int64(5)).to_dict()["num_slots"] == 5

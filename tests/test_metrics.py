"""Metrics against scikit-learn and against their definitions written as loops."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from objecthood.analysis import diagnostics
from objecthood.metrics import (
    adjusted_rand_index,
    dinosaur_scores,
    id_switches,
    mean_best_overlap,
    mean_iou,
)

SCORES = {
    "ari": lambda true, predicted: adjusted_rand_index(true, predicted, ignore_background=False),
    "fg_ari": lambda true, predicted: adjusted_rand_index(true, predicted, ignore_background=True),
    "mbo": mean_best_overlap,
    "miou": mean_iou,
}


@st.composite
def label_maps(draw, num_true: int = 5, num_predicted: int = 6, lowest: int = -1):
    """True labels (-1 ignored) and predicted ones of a few small images; sometimes much alike."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    true = random.integers(lowest, draw(st.integers(0, num_true)), shape, endpoint=True)
    predicted = random.integers(0, draw(st.integers(0, num_predicted)), shape, endpoint=True)
    if draw(st.booleans()):
        predicted = np.where(random.random(shape) < 0.8, true.clip(0) % (num_predicted + 1), predicted)
    return torch.from_numpy(true), torch.from_numpy(predicted)


def wanted_ari(true: np.ndarray, predicted: np.ndarray, ignore_background: bool) -> float:
    counted = true > 0 if ignore_background else true >= 0
    return adjusted_rand_score(true[counted], predicted[counted]) if counted.any() else math.nan


@settings(max_examples=400, deadline=None)
@given(label_maps(), st.booleans())
def test_adjusted_rand_index_equals_scikit_learn(maps, ignore_background):
    true, predicted = maps
    ours = adjusted_rand_index(true, predicted, ignore_background=ignore_background)
    for mine, t, p in zip(ours.tolist(), true.numpy(), predicted.numpy(), strict=True):
        wanted = wanted_ari(t, p, ignore_background)
        assert abs(mine - wanted) <= 1e-9 or (math.isnan(mine) and math.isnan(wanted))


def overlaps(true: np.ndarray, predicted: np.ndarray) -> list[list[float]]:
    """Intersection over union of each object present with each predicted label, ignored pixels left out."""
    counted = true >= 0
    labels = range(int(predicted.max()) + 1)
    table = []
    for label in sorted({int(value) for value in true.flatten()} - {-1, 0}):
        row = []
        for slot in labels:
            both = ((true == label) & (predicted == slot) & counted).sum()
            either = (((true == label) | (predicted == slot)) & counted).sum()
            row.append(float(both / either) if either else 0.0)
        table.append(row)
    return table


@settings(max_examples=150, deadline=None)
@given(label_maps(num_true=3, num_predicted=3))
def test_overlaps_equal_their_definition(maps):
    true, predicted = maps
    best, matched = mean_best_overlap(true, predicted).tolist(), mean_iou(true, predicted).tolist()
    for mine, assigned, t, p in zip(best, matched, true.numpy(), predicted.numpy(), strict=True):
        table = overlaps(t, p)
        if not table:
            assert math.isnan(mine) and math.isnan(assigned)
            continue
        assert abs(mine - np.mean([max(row) for row in table])) <= 1e-12
        columns = [*range(len(table[0])), *[-1] * len(table)]  # an object may go without a mask
        largest = max(
            sum(row[column] for row, column in zip(table, choice, strict=True) if column >= 0)
            for choice in set(permutations(columns, len(table)))
        )
        assert abs(assigned - largest / len(table)) <= 1e-12


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.integers(0, 10**6))
def test_scores_do_not_depend_on_label_numbers(maps, seed):
    true, predicted = maps
    random = torch.Generator().manual_seed(seed)
    new_names = torch.randperm(9, generator=random)
    new_truth = torch.cat([torch.tensor([0]), torch.randperm(7, generator=random) + 1, torch.tensor([-1])])
    for score in SCORES.values():
        wanted = score(true, predicted)
        torch.testing.assert_close(
            score(true, new_names[predicted]), wanted, rtol=0, atol=1e-12, equal_nan=True
        )
        torch.testing.assert_close(
            score(new_truth[true], predicted), wanted, rtol=0, atol=1e-12, equal_nan=True
        )


@settings(max_examples=30, deadline=None)
@given(label_maps(), st.integers(0, 10**6))
def test_scores_do_not_depend_on_pixel_order(maps, seed):
    true, predicted = maps
    order = torch.randperm(true[0].numel(), generator=torch.Generator().manual_seed(seed))
    moved = [labels.flatten(1)[:, order].view_as(labels) for labels in (true, predicted)]
    for score in SCORES.values():
        wanted = score(true, predicted)
        torch.testing.assert_close(score(*moved), wanted, rtol=0, atol=1e-12, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_ignored_pixels_may_hold_anything(maps):
    true, predicted = maps
    other = torch.where(true < 0, 8, predicted)
    for score in SCORES.values():
        torch.testing.assert_close(
            score(true, other), score(true, predicted), rtol=0, atol=1e-12, equal_nan=True
        )


@settings(max_examples=30, deadline=None)
@given(label_maps(num_predicted=3))
def test_soft_masks_count_as_their_largest(maps):
    true, predicted = maps
    one_hot = torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).float()
    soft = (one_hot * 2 + 0.5 * torch.rand(one_hot.shape)).softmax(dim=1)
    for score in SCORES.values():
        torch.testing.assert_close(score(true, soft), score(true, predicted), equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(label_maps())
def test_images_of_a_batch_are_independent(maps):
    true, predicted = maps
    for score in SCORES.values():
        alone = torch.cat([score(t[None], p[None]) for t, p in zip(true, predicted, strict=True)])
        torch.testing.assert_close(score(true, predicted), alone, rtol=0, atol=1e-12, equal_nan=True)


def test_equal_partitions_score_one():
    true = torch.randint(0, 4, (3, 8, 8))
    for name, score in SCORES.items():
        assert score(true, true).tolist() == [1.0] * 3, name


def edge(true, predicted) -> dict[str, float]:
    return {
        name: float(score(torch.tensor([true]), torch.tensor([predicted]))) for name, score in SCORES.items()
    }


def test_images_without_objects():
    scores = edge([[0, 0, 0]], [[1, 1, 1]])
    assert scores["ari"] == 1.0 and all(math.isnan(scores[name]) for name in ("fg_ari", "mbo", "miou"))
    assert edge([[0, 0, 0]], [[1, 2, 1]])["ari"] == 0.0


def test_images_with_every_pixel_ignored():
    assert all(math.isnan(value) for value in edge([[-1, -1]], [[0, 1]]).values())


def test_a_single_pixel():
    assert edge([[1]], [[3]]) == {"ari": 1.0, "fg_ari": 1.0, "mbo": 1.0, "miou": 1.0}


def test_a_single_object():
    assert edge([[0, 1, 1]], [[0, 1, 1]])["fg_ari"] == 1.0
    assert edge([[0, 1, 1]], [[0, 1, 2]]) == pytest.approx(
        {"ari": 0.0, "fg_ari": 0.0, "mbo": 0.5, "miou": 0.5}
    )


def test_one_mask_over_two_objects_serves_both_in_overlap_and_one_in_matching():
    scores = edge([[1, 1, 2, 2]], [[0, 0, 0, 0]])
    assert scores["mbo"] == 0.5 and scores["miou"] == 0.25


def test_scores_are_float64_and_exact_for_large_images():
    true = torch.zeros(1, 2048, 2048, dtype=torch.int64)
    true[:, :1024] = 1
    predicted = true.clone()
    predicted[:, 0, 0] = 0
    score = adjusted_rand_index(true, predicted, ignore_background=False)
    assert score.dtype == torch.float64
    assert 0 < 1 - float(score) < 1e-5


WRONG = {
    "predictions of another size": ((2, 4, 4), (2, 5, 4)),
    "soft masks of another size": ((2, 4, 4), (2, 3, 8, 8)),
    "another batch": ((2, 4, 4), (3, 4, 4)),
    "truth without batch": ((4, 4), (4, 4)),
    "truth as soft masks": ((2, 3, 4, 4), (2, 3, 4, 4)),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("true, predicted", WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_refused_in_one_line(unchecked, score, true, predicted):
    with pytest.raises(ValueError, match="must be labels") as caught:
        score(torch.zeros(true, dtype=torch.int64), torch.zeros(predicted, dtype=torch.int64))
    assert "\n" not in str(caught.value)
    assert str(list(true)) in str(caught.value) and str(list(predicted)) in str(caught.value)


def test_negative_predictions_are_refused():
    with pytest.raises(ValueError, match="must be 0 or more; got -1"):
        adjusted_rand_index(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), -1), ignore_background=False)


@pytest.mark.parametrize("largest", [300, 5_000_000, 2**62])
def test_labels_with_gaps_count_as_labels_without(largest):
    true, predicted = torch.randint(-1, 4, (3, 9, 9)), torch.randint(0, 5, (3, 9, 9))
    names = torch.tensor([0, 7, 299, largest, -1])  # the last is index -1
    other = torch.tensor([largest, 3, 0, 11, largest - 1])
    for score in SCORES.values():
        wanted = score(true, predicted)
        torch.testing.assert_close(
            score(names[true], other[predicted]), wanted, rtol=0, atol=1e-12, equal_nan=True
        )
    clips, found = true[None], predicted[None]
    wanted = id_switches(clips, found, least_overlap=0.1)
    assert wanted[1].sum() > 0
    for ours, theirs in zip(id_switches(names[clips], other[found], least_overlap=0.1), wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(diagnostics.used_slots(other[predicted]), diagnostics.used_slots(predicted))


def test_bool_masks_count_as_their_labels(unchecked):
    true, predicted = torch.randint(0, 4, (2, 6, 6)), torch.randint(0, 4, (2, 6, 6))
    one_hot = torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2).bool()
    for score in SCORES.values():
        torch.testing.assert_close(score(true, one_hot), score(true, predicted), equal_nan=True)
        assert torch.equal(score(true > 0, predicted > 0), score((true > 0).long(), (predicted > 0).long()))
        for several in (one_hot.logical_or(one_hot.roll(1, 1)), one_hot & False):
            with pytest.raises(ValueError, match="bool masks must be one-hot.*got pixels with [02]"):
                score(true, several)
    clip = id_switches(true[None], one_hot[None])
    assert all(map(torch.equal, clip, id_switches(true[None], predicted[None])))


def test_small_unsigned_labels_are_taken(unchecked):
    true = torch.tensor([[[0, 1], [2, 2]]], dtype=torch.uint8)
    assert float(mean_iou(true, true)) == 1.0


def test_classes_are_scored_with_their_own_masks():
    """One segment on two instances of a class: half of each instance, all of the class."""
    instances = torch.tensor([[[1, 1, 2, 2, 0]]])
    found = dinosaur_scores(instances, torch.tensor([[[3, 3, 3, 3, 4]]]), instances.clamp(max=1))
    assert found["mbo_i"].item() == 0.5 and found["mbo_c"].item() == 1.0
    assert "mbo_c" not in dinosaur_scores(instances, instances)

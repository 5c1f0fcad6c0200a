"""Set prediction: average precision against a plain loop, the model's contract, a run on bundled scenes."""

import json
import math

import numpy as np
import pytest
import torch

import objecthood as oh
from objecthood.data.clevr_like import ClevrLike
from objecthood.metrics import PROPERTY_GROUPS, average_precision
from objecthood.models import set_predictor
from objecthood.recipes.base import FAST


def random_objects(generator: np.random.Generator, num_images: int, num_objects: int) -> torch.Tensor:
    """Targets: some real objects with one-hot groups, the rest zero."""
    target = np.zeros((num_images, num_objects, 19), np.float32)
    for image in target:
        for row in image[: generator.integers(0, num_objects + 1)]:
            row[:3] = generator.random(3)
            for group in PROPERTY_GROUPS.values():
                row[generator.integers(group.start, group.stop)] = 1
            row[18] = 1
    return torch.from_numpy(target)


def plain_average_precision(predicted: np.ndarray, target: np.ndarray, threshold: float) -> float:
    """The definition, prediction by prediction; flags must differ."""
    places = [(image, slot) for image in range(len(predicted)) for slot in range(predicted.shape[1])]
    places.sort(key=lambda place: -predicted[place][18])
    found, right = set(), []
    for image, slot in places:
        guess, best, nearest = predicted[image, slot], math.inf, None
        for number, truth in enumerate(target[image]):
            groups = PROPERTY_GROUPS.values()
            if truth[18] and all(guess[group].argmax() == truth[group].argmax() for group in groups):
                distance = 6 * float(np.linalg.norm(guess[:3].astype(float) - truth[:3].astype(float)))
                if distance < best:
                    best, nearest = distance, (image, number)
        right.append(nearest is not None and best < threshold and nearest not in found)
        if right[-1]:
            found.add(nearest)
    precisions = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
    total = sum(max(precisions[n:]) for n in range(len(right)) if right[n])
    return total / target[:, :, 18].sum()


@pytest.mark.parametrize("threshold", [math.inf, 1.0, 0.25])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_its_definition(seed, threshold):
    generator = np.random.default_rng(seed)
    target = random_objects(generator, 12, 5)
    noise = torch.from_numpy(generator.random((12, 5, 19)).astype(np.float32))
    predicted = target[:, generator.permutation(5)] * 0.7 + 0.3 * noise
    predicted[:, :, :3] = target[:, :, :3].flip(1) + 0.02 * noise[:, :, :3]
    expected = plain_average_precision(predicted.numpy(), target.numpy(), threshold)
    assert abs(average_precision(predicted, target, distance_threshold=threshold) - expected) < 1e-9


def test_average_precision_of_the_truth_is_one_and_of_wrong_colours_zero():
    target = random_objects(np.random.default_rng(0), 6, 4)
    assert average_precision(target, target, distance_threshold=0.125) == pytest.approx(1)
    wrong = target.clone()
    wrong[:, :, 10:18] = wrong[:, :, 10:18].roll(1, dims=-1)
    assert average_precision(wrong, target) == 0


def test_average_precision_refuses_other_shapes(unchecked):
    with pytest.raises(ValueError, match="must be"):
        average_precision(torch.rand(2, 3, 18), torch.rand(2, 3, 19))


@pytest.mark.parametrize("build", [set_predictor.clevr, set_predictor.fast_clevr])
def test_the_model_answers_for_any_number_of_slots_and_iterations(build):
    model = build(resolution=32)
    answer = model(torch.rand(2, 3, 32, 32), num_slots=4, iterations=2)
    assert answer.properties.shape == (2, 4, 19) and answer.attention.shape[:3] == (2, 2, 4)
    assert answer.properties.min() >= 0 and answer.properties.max() <= 1


def test_pictures_of_another_size_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"sees pictures \[batch, 3, 128, 128\]"):
        set_predictor.clevr()(torch.rand(1, 3, 64, 64))


class Bundled(oh.recipes.FastSetPrediction):
    """The 256 scenes of the package, for every split."""

    def dataset(self, split):
        return ClevrLike(resolution=self.resolution)


def test_a_run_on_rendered_scenes_learns_and_is_scored(tmp_path):
    numbers = {"steps": 60, "batch_size": 8, "test_scenes": 16, "evaluate_every": 100, "warmup_steps": 5}
    recipe = Bundled(name="bundled", data="clevr-like", resolution=32, **FAST | numbers)
    result = oh.train(recipe, tmp_path / "run")
    assert set(result["scores"]) == {"ap", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0] and (tmp_path / "run/index.html").exists()


def test_set_predictors_paint_no_masks(tmp_path, unchecked):
    with pytest.raises(ValueError, match="paints no masks"):
        oh.predict(set_predictor.fast_clevr(), tmp_path, tmp_path / "out")

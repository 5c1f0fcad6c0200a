"""Set prediction: average precision against a plain loop, the model's contract, a run on bundled scenes."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import objecthood as oh
from objecthood.data.clevr_render.arrangement import CAMERA, draw_scene
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.clevr_render.view import project
from objecthood.metrics import PROPERTY_GROUPS, average_precision
from objecthood.models import set_predictor
from objecthood.recipes.base import FAST
from objecthood.recipes.set_prediction import flipped, projected_positions


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


def test_of_several_starts_the_first_counts():
    """A set predictor paints nothing by which starts could be told apart."""
    model = set_predictor.clevr(num_slots=3, resolution=16).eval()
    images, noise = torch.rand(2, 3, 16, 16), torch.randn(4, 2, 3, 64)
    with torch.no_grad():
        found, first, last = (
            model.segment(images, noise=noise),
            *(model(images, noise=noise[n]) for n in (0, 3)),
        )
    assert torch.equal(found.properties, first.properties)
    assert not torch.equal(found.properties, last.properties)


@pytest.mark.parametrize("build", [set_predictor.clevr, set_predictor.fast_clevr])
def test_the_model_answers_for_any_number_of_slots_and_iterations(build):
    model = build(resolution=32)
    answer = model(torch.rand(2, 3, 32, 32), num_slots=4, iterations=2)
    assert answer.properties.shape == (2, 4, 19) and answer.attention.shape[:3] == (2, 2, 4)
    assert answer.properties.min() >= 0 and answer.properties.max() <= 1


def test_user_images_of_another_size_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"takes float tensors \[batch, 3, 128, 128\]"):
        set_predictor.clevr()(torch.rand(1, 3, 64, 64))


class Bundled(oh.recipes.FastSetPrediction):
    """The 256 scenes of the package, for every split."""

    def dataset(self, split):
        return ClevrLike(resolution=self.resolution)


def test_a_run_on_rendered_scenes_learns_and_is_scored(tmp_path):
    numbers = {"steps": 60, "batch_size": 8, "test_scenes": 16, "evaluate_every": 200, "warmup_steps": 5}
    recipe = Bundled(name="bundled", data="clevr-like", resolution=32, **FAST | numbers)
    result = oh.train(recipe, tmp_path / "run")
    assert set(result["scores"]) == {"ap", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"}
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0] and (tmp_path / "run/index.html").exists()


@pytest.mark.parametrize("build", [set_predictor.clevr, set_predictor.fast_clevr])
def test_slots_of_every_iteration_speak(build):
    torch.manual_seed(0)
    model, images = build(resolution=32), torch.rand(2, 3, 32, 32)
    torch.manual_seed(1)
    answers = model.every_iteration(model.encode(images))
    assert len(answers) == 3
    for number, answer in enumerate(answers, start=1):
        torch.manual_seed(1)
        expected = model(images, iterations=number)
        assert torch.allclose(answer.properties, expected.properties, atol=1e-5)
        assert torch.allclose(answer.attention[:, 0], expected.attention[:, -1], atol=1e-5)


def test_intermediate_losses_are_the_mean_over_iterations():
    torch.manual_seed(0)
    scenes = ClevrLike(resolution=32)[range(3)]
    recipe = oh.recipes.SetPrediction(name="x", data="clevr-like", resolution=32, steps=1)
    model = set_predictor.fast_clevr(resolution=32)
    with_all = dataclasses.replace(recipe, intermediate_losses=True).loss(model, scenes, 0)
    each = [
        oh.losses.matching_loss(model(scenes["image"], iterations=number).properties, scenes["properties"])
        for number in (1, 2, 3)
    ]
    assert with_all.item() == pytest.approx(sum(each).item() / 3, abs=1e-5)
    last = dataclasses.replace(recipe, intermediate_losses=False).loss(model, scenes, 0)
    assert last.item() == pytest.approx(each[-1].item(), abs=1e-5)


def test_a_mirrored_scene_is_seen_by_a_mirrored_camera():
    """Where an object appears, seen from the camera without jitter, left and right change places."""
    scenes = ClevrLike(resolution=32)[range(40)]
    chosen = torch.arange(40) % 2 == 0
    images, properties = flipped(scenes["image"], scenes["properties"], chosen)
    assert torch.equal(images[chosen], scenes["image"][chosen].flip(-1))
    assert torch.equal(images[~chosen], scenes["image"][~chosen])
    assert torch.equal(properties[~chosen], scenes["properties"][~chosen])
    assert torch.equal(properties[..., 2:], scenes["properties"][..., 2:])
    scene = dataclasses.replace(draw_scene(0, 0, (3, 3)), camera=np.array(CAMERA))
    for row, before in zip(properties[chosen], scenes["properties"][chosen], strict=True):
        inside = (row[:, 18] > 0) & (row[:, :2].min(dim=1)[0] > 0) & (row[:, :2].max(dim=1)[0] < 1)
        here, there = (
            project(scene, 6 * rows[inside, :3].double().numpy() - 3, 64) for rows in (row, before)
        )
        np.testing.assert_allclose(here[:, 0], there[:, 0], atol=1e-4)
        np.testing.assert_allclose(here[:, 1] - 32, 32 - there[:, 1], atol=1e-4)


def test_the_recipe_mirrors_half_of_its_scenes():
    recipe = oh.recipes.FastSetPrediction(
        name="x", data="clevr-like", resolution=32, steps=1, horizontal_flip=True
    )
    seen, model = [], recipe.build_model()
    encode = model.encode
    model.encode = lambda images: (seen.append(images), encode(images))[1]
    scenes = ClevrLike(resolution=32)[range(40)]
    torch.manual_seed(0)
    recipe.loss(model, scenes, 0)
    turned = (seen[0] != scenes["image"]).flatten(1).any(dim=1)
    assert 10 < turned.sum() < 30


def test_what_is_seen_where_is_the_projection_of_the_data():
    properties = ClevrLike(resolution=32)[range(5)]["properties"]
    scene = dataclasses.replace(draw_scene(0, 0, (3, 3)), camera=np.array(CAMERA))
    for row, places in zip(properties, projected_positions(properties), strict=True):
        expected = project(scene, 6 * row[:, :3].double().numpy() - 3, 2)  # rows and columns from 0 to 2
        np.testing.assert_allclose(places.numpy() + 1, expected[:, ::-1], atol=1e-4)


def test_features_learn_what_is_seen_at_their_place():
    """The four features around an object, and no other, get a gradient from the loss at its place."""
    recipe = oh.recipes.FastSetPrediction(name="x", data="clevr-like", resolution=32, steps=1)
    model, properties = recipe.build_model(), torch.zeros(1, 10, 19)
    properties[0, 0, [2, 3, 5, 7, 10, 18]] = torch.tensor([0.6, 1.0, 1.0, 1.0, 1.0, 1.0])
    properties[0, 0, :2] = torch.tensor([0.55, 0.5])
    features = torch.zeros(1, 9, 9, 64, requires_grad=True)
    recipe.position_error(model, features, properties).backward()
    column, row = (
        (projected_positions(properties)[0, 0] + 1) / 2 * 9 - 0.5
    ).tolist()  # between the middles of features
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[math.floor(row) : math.floor(row) + 2, math.floor(column) : math.floor(column) + 2] = True
    assert torch.equal(features.grad[0].abs().sum(dim=-1) > 1e-7, expected)


def test_places_are_not_learned_from_uncut_images():
    with pytest.raises(ValueError, match="set --position-loss 0"):
        dataclasses.replace(oh.RECIPES["set-clevr-like"], data="clevr")
    plain = {"position_loss": 0.0, "attention_loss": 0.0}
    recipe = dataclasses.replace(oh.RECIPES["set-clevr-like"], data="clevr", **plain)
    assert recipe.build_model().feature_head is None


def answer_of(
    properties: torch.Tensor, attention: torch.Tensor | None = None
) -> set_predictor.SetPredictorOutput:
    slots = torch.zeros(*properties.shape[:2], 64)
    if attention is None:
        attention = torch.full((*properties.shape[:2], 8, 8), 0.1)
    return set_predictor.SetPredictorOutput(properties, slots, attention[:, None])


def test_the_error_of_sets_is_the_papers_where_options_are_off():
    target = random_objects(np.random.default_rng(0), 4, 10)
    predicted = torch.rand(4, 10, 19, generator=torch.Generator().manual_seed(0))
    plain = {"attention_loss": 0.0, "coordinate_scale": 1.0, "loss_on_padding": True}
    recipe = dataclasses.replace(oh.RECIPES["set-clevr-like"], **plain)
    expected = oh.losses.matching_loss(predicted, target)
    assert recipe.error(answer_of(predicted), target).item() == pytest.approx(expected.item(), abs=1e-6)


def test_of_padding_only_the_flag_counts():
    target = random_objects(np.random.default_rng(1), 4, 10)
    predicted, real = target.clone(), target[..., 18:]
    predicted[..., :18] += 0.3 * (1 - real)
    recipe = dataclasses.replace(oh.RECIPES["set-clevr-like"], attention_loss=0.0)
    assert recipe.error(answer_of(predicted), target).item() == 0
    predicted[..., 18:] += 0.3 * (1 - real)
    expected = 0.5 * 0.3**2 / 19 * (1 - real).sum() / 4  # Huber below its threshold
    assert recipe.error(answer_of(predicted), target).item() == pytest.approx(expected.item(), rel=1e-4)


def test_slots_are_told_to_look_at_their_objects():
    scenes = ClevrLike(resolution=32)[range(2)]
    target, real = scenes["properties"], scenes["properties"][..., 18] > 0
    places = ((projected_positions(target) + 1) * 4).floor().long().clamp(0, 7)  # cells of 8 x 8
    right, wrong = torch.full((2, 10, 8, 8), 0.05), torch.full((2, 10, 8, 8), 0.05)
    for scene, slot in real.nonzero().tolist():
        column, row = places[scene, slot].tolist()
        right[scene, slot, row, column] = 0.9
        wrong[scene, slot - 1, row, column] = 0.9
    recipe = oh.RECIPES["set-clevr-like"]
    errors = [recipe.error(answer_of(target, attention), target).item() for attention in (right, wrong)]
    assert 0 < errors[0] < errors[1]

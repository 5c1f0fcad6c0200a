"""Verdicts of the leaderboard: what differs by more than noise, what failed, and the page."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import objecthood as oh
from objecthood.analysis.leaderboard import (
    SETS,
    floors_of,
    page,
    paired_difference,
    recipe_of,
    scores_by_scene,
    seconds_per_step,
    verdicts,
)
from objecthood.data.scene import to_device
from objecthood.nn import SLOT_MODULES


def noisy(mean: float, seed: int, scenes: int = 200) -> list[float]:
    return (mean + 0.05 * np.random.default_rng(seed).standard_normal(scenes)).tolist()


def test_clear_differences_are_found_and_noise_is_not():
    easy = np.random.default_rng(9).random(200)
    board = {
        "good": {seed: (0.5 * easy + noisy(0.4, seed)).tolist() for seed in range(3)},
        "as good": {seed: (0.5 * easy + noisy(0.399, 10 + seed)).tolist() for seed in range(3)},
        "bad": {seed: (0.5 * easy + noisy(0.3, 20 + seed)).tolist() for seed in range(3)},
    }
    found = verdicts(board)
    assert {found["good"].split(" (")[0], found["as good"].split(" (")[0]} == {"best", "within noise"}
    assert found["bad"].startswith("worse (-0.1") and "95 %" in found["bad"]


def test_seeds_that_disagree_are_noise_however_many_scenes():
    board = {
        "steady": {seed: noisy(0.7, seed, 2000) for seed in range(3)},
        "wild": {seed: noisy(mean, 9 + seed, 2000) for seed, mean in enumerate((0.9, 0.85, 0.2))},
    }
    assert verdicts(board)["wild"].startswith("within noise")


def test_failed_and_missing_seeds_are_left_out():
    board = {
        "best": {0: noisy(0.9, 0), 1: noisy(0.9, 1)},
        "half": {1: noisy(0.4, 2)},
        "elsewhere": {7: noisy(0.5, 3)},
        "never": {},
    }
    found = verdicts(board)
    assert found["best"] == "best" and found["half"].startswith("worse")
    assert found["elsewhere"] == "no seed in common with the best" and found["never"] == "failed"
    assert verdicts({"never": {}}) == {"never": "failed"}


def test_the_interval_is_that_of_resampled_seeds_and_scenes():
    generator = np.random.default_rng(3)
    first, second = generator.random((4, 60)), generator.random((4, 60))
    first[0, 5] = math.nan
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(np.nanmean(first - second)) and low < difference < high
    spread = []
    for _ in range(3000):
        rows, columns = generator.integers(4, size=4), generator.integers(60, size=60)
        spread.append(np.nanmean((first - second)[rows][:, columns]))
    assert (high - low) == pytest.approx(np.quantile(spread, 0.975) - np.quantile(spread, 0.025), rel=0.1)


@pytest.mark.parametrize("name", SETS)
def test_every_set_takes_every_module(name):
    for module in SLOT_MODULES:
        recipe = recipe_of(name, module, seed=2, steps=7, test_scenes=5)
        assert (recipe.slot_module, recipe.seed, recipe.steps, recipe.test_scenes) == (module, 2, 7, 5)


def test_untrained_floors_are_the_highest_of_all_modules():
    """Whatever their order: hard k-means with initial weights is far above slot attention."""
    modules = ("slot-attention", "k-means")
    recipes = [recipe_of("sprites", module, seed=0, steps=1, test_scenes=8) for module in modules]
    alone = [floors_of([recipe]) for recipe in recipes]
    for board in (floors_of(recipes), floors_of(recipes[::-1])):
        for name, scores in board.items():
            assert scores["fg_ari"] == pytest.approx(max(one[name]["fg_ari"] for one in alone))
    name = "untrained_no_bias"
    assert abs(alone[0][name]["fg_ari"] - alone[1][name]["fg_ari"]) > 0.1


def test_the_cost_of_a_step_leaves_the_generator_alone():
    before = torch.get_rng_state()
    recipe = recipe_of("tetrominoes", "slot-attention", seed=0, steps=1)
    assert seconds_per_step(recipe, torch.device("cpu")) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_the_page_has_modules_floors_and_pictures():
    cell = {
        "seeds": [0, 1],
        "failed": [1],
        "steps": 70,
        "scores": {"fg_ari": {"mean": 0.5, "deviation": None, "values": [0.5]}},
        "cpu_seconds": {"mean": 12.3, "deviation": None, "values": [12.3]},
        "picture": "run/latest.png",
    }
    board = {
        "shown": {"fg_ari": "FG-ARI"},
        "modules": {"one": {"cpu": cell, "steps": cell, "verdict": "best"}},
        "floors": {"blocks": {"fg_ari": 0.25}},
    }
    text = page({"protocol": "How.", "sets": {"sprites": board}})
    assert "| `one` | 0.500 | 0.500 | 1 of 2 | 70 | 12 | best |" in text
    assert "| floor: equal blocks | 0.250 | 0.250 | - | - | - | - |" in text
    assert text.count("](run/latest.png)") == 1, "a run that serves for both columns is shown once"


def test_scenes_are_compared_by_the_score_of_one_restart():
    model = oh.load("sprites")
    recipe = dataclasses.replace(model.recipe, test_scenes=6)
    indices = torch.arange(6)
    scenes = to_device(recipe.dataset("test")[range(6)], torch.device("cpu"))
    assert recipe.restarts == 8
    expected = recipe.scores(model, scenes, indices)["fg_ari"].tolist()
    assert scores_by_scene(model, recipe) == pytest.approx(expected, abs=1e-6)

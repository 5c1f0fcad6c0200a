"""What a recipe will need is told before it runs, and is what it then needs."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import objecthood as oh
from objecthood.cli import costs as told
from objecthood.cli.costs import costs
from objecthood.cli.main import main
from objecthood.recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Plain(Recipe):
    """A layer of 10 x 20 weights and a bias; its backward pass needs its input and what the square needs."""

    def build_model(self):
        return nn.Sequential(nn.Linear(10, 20))

    def dataset(self, split):
        return oh.RECIPES["tetrominoes"].dataset(split)

    def loss(self, model, scenes, step):
        return model(scenes["image"].flatten(1)[:, :10].clone()).square().mean()


def test_of_a_model_that_can_be_counted_by_hand():
    found = costs(Plain(name="plain", steps=1, batch_size=64))
    assert found["parameters"] == {"0": 220, "all": 220} and found["training_scenes"] == "endless"
    assert found["weights_bytes"] == 220 * 4 * 5
    assert found["activations_bytes"] == 64 * (10 + 20) * 4  # input, and output; the weights are not counted


@pytest.mark.parametrize("name", ["sprites", "moving-sprites", "sprites-paper"])
def test_few_scenes_tell_of_a_whole_batch(name, monkeypatch):
    recipe = replace(oh.RECIPES[name], batch_size=16, resolution=32)
    few = costs(recipe)
    monkeypatch.setattr(told, "FEW", 16)
    assert few["activations_bytes"] == pytest.approx(costs(recipe)["activations_bytes"], rel=0.05)


def test_nothing_else_is_changed():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    costs(replace(oh.RECIPES["tetrominoes"], steps=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command(capsys, tmp_path):
    assert main(["show", "tetrominoes", "--costs"]) == 0
    shown = json.loads(capsys.readouterr().out)
    recipe = oh.RECIPES["tetrominoes"]
    assert shown == recipe.to_dict() | {"costs": costs(recipe)}
    parts = shown["costs"]["parameters"]
    assert parts["all"] == parts["encoder"] + parts["grouping"] + parts["decoder"]
    assert parts["all"] == sum(weight.numel() for weight in recipe.build_model().parameters())
    assert main(["show", "folder", "--costs"]) == 1 and "--data-path FOLDER" in capsys.readouterr().err
    assert main(["show", "folder", "--costs", "--data-path", str(tmp_path)]) == 1
    assert main(["show", "moving-sprites", "--costs", "--data-path", "x"]) == 2
    assert main(["show", "sprites", "--data-path", "x"]) == 2

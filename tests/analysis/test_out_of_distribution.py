"""Out-of-distribution images are warned about, others not; weight files hold the calibration."""

import dataclasses

import numpy as np
import pytest
import torch

import objecthood as oh
from objecthood.analysis import out_of_distribution
from objecthood.checkpoint.header import read_description
from objecthood.data.clevr_render.clevr_like import SAMPLES, ClevrLike
from objecthood.data.generated.sprites import Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes


def warned(model, images) -> float:
    """Share of images with a warning."""
    images = torch.nn.functional.interpolate(images, (model.resolution,) * 2, mode="area")
    return float(np.mean([bool(result.warning) for result in oh.predict(model, images)]))


def pictures(kind: str) -> torch.Tensor:
    if kind == "clevr":
        return ClevrLike(SAMPLES, "test", objects=(3, 6))[range(32)]["image"]
    if kind == "noise":
        return torch.rand(8, 3, 64, 64)
    made = {"sprites": Sprites("test", 0, "grey", 64), "tetrominoes": Tetrominoes("test", 0)}
    return made[kind][range(1000, 1032)]["image"]


@pytest.mark.parametrize("name", ["clevr", "sprites", "tetrominoes"])
@pytest.mark.parametrize("kind", ["clevr", "sprites", "tetrominoes", "noise"])
def test_out_of_distribution_images_are_warned_about(name, kind):
    share = warned(oh.load(name), pictures(kind))
    assert share <= 0.1 if name == kind else share >= 0.9, share


def test_a_set_predictor_warns_by_attention():
    model = oh.load("set-clevr")
    assert warned(model, pictures("clevr")) <= 0.1 and warned(model, pictures("tetrominoes")) >= 0.9


def test_the_warning_is_in_every_form_of_the_result(tmp_path, capsys):
    (result,) = oh.predict("clevr", torch.rand(3, 64, 64), tmp_path / "out", animate=False)
    assert result.warning.startswith("likely out of distribution: ")
    assert result.warning in repr(result) and "<b>Warning:</b> likely" in result._repr_html_()
    from objecthood.cli.main import main

    result.plot("overlay").save(tmp_path / "strange.png")
    line = ["predict", str(tmp_path / "strange.png"), "--weights", "clevr", "--out", str(tmp_path / "o")]
    assert main([*line, "--no-animation"]) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "objecthood train folder --data-path" in said.out
    assert line.startswith(f"warning: {tmp_path / 'strange.png'} is likely out of distribution")


def test_training_stores_the_calibration(undrawn, tmp_path):
    recipe = dataclasses.replace(
        oh.RECIPES["tetrominoes"], steps=2, warmup_steps=0, test_scenes=2, validation_scenes=32
    )
    oh.train(recipe, tmp_path / "run")
    known = read_description(tmp_path / "run" / "weights.safetensors")["calibration"]
    assert known["scenes"] == 32 and set(known["quantiles"]) == {
        out_of_distribution.WHOLE,
        out_of_distribution.MOST,
    }
    for quantiles in known["quantiles"].values():
        assert list(quantiles.values()) == sorted(quantiles.values())
    model = oh.load(tmp_path / "run")
    assert model.calibration == known == out_of_distribution.calibration(model, recipe)


def test_there_is_no_warning_without_enough_scenes():
    strange = {out_of_distribution.WHOLE: 1e9}
    known = {"scenes": 20, "quantiles": {out_of_distribution.WHOLE: {"0.95": 1.0}}}
    assert out_of_distribution.warning_for(strange, known)
    assert (
        out_of_distribution.warning_for(strange, known | {"scenes": 19}) == ""
        and out_of_distribution.warning_for(strange, {}) == ""
    )


def test_other_models_have_no_calibration():
    assert out_of_distribution.calibration(torch.nn.Linear(1, 1), oh.RECIPES["sprites"]) == {}


def test_calibration_uses_the_recipes_restarts():
    recipe = dataclasses.replace(oh.RECIPES["sprites"], restarts=3, validation_scenes=8)
    torch.manual_seed(0)
    model = recipe.build_model()
    several, one = (
        out_of_distribution.calibration(model, dataclasses.replace(recipe, restarts=restarts))["quantiles"][
            out_of_distribution.WHOLE
        ]
        for restarts in (3, 1)
    )
    assert all(several[share] <= one[share] for share in one) and several != one

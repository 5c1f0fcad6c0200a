"""Weights by name: there, whole, what they are said to be, and quickly told of."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

import objecthood as oh
from objecthood.checkpoint import described_recipe
from objecthood.checkpoint.header import read_description
from objecthood.cli.main import main
from objecthood.data.clevr_render.clevr_like import SAMPLES
from objecthood.data.io.video_file import VideoFile
from objecthood.hub import pretrained as hub
from objecthood.hub.model_card import REQUIRED, missing_facts, model_card
from objecthood.visualize import figures

sys.path.insert(0, str(ROOT / "runs" / "release"))
import publish_weights


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """All published weights in a folder that may be damaged."""
    shutil.copytree(hub.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(hub, "PRETRAINED", hub.read_all(tmp_path / "weights"))
    return tmp_path / "weights"


def test_names():
    assert {"tetrominoes", "sprites", "clevr", "set-clevr"} <= set(oh.PRETRAINED)
    assert set(oh.PRETRAINED) == set(publish_weights.ENTRIES)
    assert sum(one.facts["bytes"] for one in oh.PRETRAINED.values()) < 8e6


@pytest.mark.parametrize("name", hub.PRETRAINED)
def test_facts_are_whole_and_true(name):
    one = oh.PRETRAINED[name]
    facts, described = one.facts, read_description(one.check())
    assert not missing_facts(facts)
    assert facts["bytes"] == one.file.stat().st_size
    for key in ("scores", "calibration", "parameters"):
        assert facts[key] == described[key]
    recipe = described_recipe(one.file).to_dict()
    assert oh.recipes.from_dict(facts["settings"]).to_dict() == recipe and facts["seed"] == recipe["seed"]
    validation = facts["validation"]["seeds"]
    assert str(facts["seed"]) == max(validation, key=lambda seed: validation[seed])
    assert facts["trained"]["machine"]["commit"]
    assert one.is_video or facts["warnings"]["its own test scenes"] <= 0.05
    model = oh.load(name)
    assert sum(parameter.numel() for parameter in model.state_dict().values()) == facts["parameters"]


@pytest.mark.parametrize("name", hub.PRETRAINED)
def test_cards_are_made_from_the_facts(name):
    card = (ROOT / "docs" / "weights" / f"{name}.md").read_text()
    assert card == publish_weights.card(oh.PRETRAINED[name])
    assert (ROOT / "docs" / "images" / f"weights-{name}.png").exists()
    for said in (oh.PRETRAINED[name].sha256, "## Limits", "## Data", "on validation scenes", "Apache-2.0"):
        assert said in card


def test_a_card_with_a_gap_is_refused():
    for fact in REQUIRED:
        with pytest.raises(ValueError, match=f"the model card needs {fact};"):
            model_card("x", {**oh.PRETRAINED["sprites"].facts, fact: ""}, "x.png", "x")


@pytest.mark.parametrize(
    ("name", "least"),
    [("tetrominoes", 0.95), ("tetrominoes-guided", 0.95), ("tetrominoes-unmodified", 0.93), ("sprites", 0.9)],
)
def test_scores_are_those_of_these_weights(name, least):
    """Of 64 test scenes, made on the spot: they belong to a set whose mean is published."""
    model = oh.load(name)
    scores = oh.evaluate(model, model.recipe, num_scenes=64)
    assert scores["fg_ari"] > least
    assert scores["fg_ari"] == pytest.approx(oh.PRETRAINED[name].scores["fg_ari"], abs=0.03)


def test_clevr_scores_on_the_scenes_of_the_package():
    """With another seed than it was trained on, 3 to 6 objects."""
    model = oh.load("clevr")
    recipe = dataclasses.replace(model.recipe, data_path=str(SAMPLES), test_scenes=64)
    assert oh.evaluate(model, recipe)["fg_ari"] > 0.88


def test_set_clevr_names_what_is_there():
    model = oh.load("set-clevr")
    recipe = dataclasses.replace(model.recipe, data_path=str(SAMPLES), test_scenes=128)
    assert oh.evaluate(model, recipe)["ap"] > 0.75


@pytest.mark.parametrize("name", [name for name, one in hub.PRETRAINED.items() if one.is_video])
def test_examples_of_videos_are_the_first_test_clips(name, tmp_path, capsys):
    """Without loss, as dots that move would blur; and `predict` takes them where no video is named."""
    clip = oh.RECIPES[name].dataset("test")[[0]]["image"][0]
    for frame, image in zip(VideoFile(oh.PRETRAINED[name].example), clip, strict=True):
        assert np.array_equal(frame, figures.to_image(image))
    assert main(["predict", "--weights", name, "--out", str(tmp_path / "found")]) == 0
    assert "12 frames" in capsys.readouterr().out
    assert (tmp_path / "found" / f"{name}-tracks.csv").exists()


def test_damaged_weights_are_not_loaded(copies):
    file = copies / "sprites.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="weights 'sprites' are not the published ones") as caught:
        oh.load("sprites")
    assert "\n" not in str(caught.value) and oh.PRETRAINED["sprites"].sha256 in str(caught.value)
    file.unlink()
    with pytest.raises(ValueError, match="weights 'sprites' are missing"):
        oh.load("sprites")
    assert oh.load("tetrominoes")


def test_names_files_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(hub.PRETRAINED["sprites"].file, tmp_path / "mine.safetensors")
    assert oh.load("mine.safetensors").recipe.name == oh.load("sprites").recipe.name == "sprites"
    (tmp_path / "sprites").mkdir()  # the name goes first, a path is written ./sprites
    assert oh.load("sprites").num_slots == 6
    with pytest.raises(ValueError, match="is not a run folder"):
        oh.load("./sprites")
    with pytest.raises(ValueError, match="did you mean sprites?"):
        oh.load("sprits")
    with pytest.raises(ValueError, match="known names are camouflage, clevr, moving-sprites"):
        oh.load("xyz")


def test_show_reads_no_tensor_and_no_torch(tmp_path):
    file = shutil.copy(hub.PRETRAINED["sprites"].file, tmp_path / "copy.safetensors")
    for what in ("sprites", str(file)):
        code = (
            "import resource, sys; from objecthood.cli.main import main\n"
            f"assert main(['show', {what!r}]) == 0 and 'torch' not in sys.modules\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "assert used.ru_utime + used.ru_stime < 1.0"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert facts["scores"]["fg_ari"] == pytest.approx(oh.PRETRAINED["sprites"].scores["fg_ari"])
        assert facts["parameters"] == oh.PRETRAINED["sprites"].facts["parameters"]


def test_list_weights(capsys):
    assert main(["list", "weights"]) == 0
    said = capsys.readouterr().out
    for name, one in oh.PRETRAINED.items():
        assert name in said and f"{one.facts['bytes']:,}" in said and "Apache-2.0" in said


def test_weights_come_with_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    assert '"weights/*"' in text
    for one in oh.PRETRAINED.values():
        assert (
            one.file.exists()
            and one.example.exists()
            and "/" not in one.facts["settings"].get("data_path", "")
        )


def test_publishing_chooses_by_validation(undrawn, tmp_path, monkeypatch):
    """Three runs of a few steps; the one taken is the best on validation scenes, whatever its test score."""
    runs = []
    for seed in range(2):
        recipe = dataclasses.replace(
            oh.RECIPES["tetrominoes"], seed=seed, steps=2, test_scenes=4, validation_scenes=4, warmup_steps=0
        )
        oh.train(recipe, tmp_path / f"run{seed}")
        runs.append(tmp_path / f"run{seed}")
    shutil.copytree(hub.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(publish_weights, "STRANGE", 4)
    publish_weights.publish("tetrominoes", runs, None)
    facts = json.loads((tmp_path / "weights" / "tetrominoes.json").read_text())
    scores = {
        str(seed): oh.evaluate(oh.load(run), oh.load(run).recipe, "validation", 4)["fg_ari"]
        for seed, run in enumerate(runs)
    }
    assert facts["validation"]["seeds"] == pytest.approx(scores)
    assert facts["seed"] == int(max(scores, key=lambda seed: scores[seed]))
    assert facts["sha256"] == hub.sha256_of(tmp_path / "weights" / "tetrominoes.safetensors")
    assert facts["calibration"]["scenes"] == 4

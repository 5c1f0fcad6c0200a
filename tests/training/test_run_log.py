"""TensorBoard gets the values of metrics.jsonl, also in resumed runs."""

import json
import sys
from dataclasses import replace
from importlib import import_module

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import objecthood as oh
from objecthood.cli.main import main

SMALL = {"steps": 6, "batch_size": 4, "evaluate_every": 2, "validation_scenes": 4, "test_scenes": 4}
RECIPE = replace(oh.RECIPES["tetrominoes"], **SMALL, precision="float32")


def told(folder):
    """Scalars {tag: {step: value}} and steps of the images in event files."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags["scalars"]}
    assert all(len(events.Scalars(tag)) == len(steps) for tag, steps in scalars.items()), "told twice"
    return scalars, {event.step for tag in tags["images"] for event in events.Images(tag)}


def logged(folder):
    """The same of metrics.jsonl."""
    values = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name in line.keys() - {"kind", "step"}:
            values.setdefault(f"{line['kind']}/{name}", {})[line["step"]] = pytest.approx(
                line[name], rel=1e-6
            )
    return values


def test_tensorboard_gets_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("objecthood.train"), "LOG_EVERY", 2)
    oh.train(RECIPE, tmp_path / "run", log=["tensorboard"])
    scalars, pictures = told(tmp_path / "run")
    assert scalars == logged(tmp_path / "run") and pictures == {2, 4, 6}
    assert len(scalars) >= 8 and set(scalars["train/loss"]) == {2, 4, 6}


def test_a_resumed_run_logs_each_step_once(undrawn, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("objecthood.train"), "LOG_EVERY", 1)
    loss = type(RECIPE).loss

    def fall(self, model, scenes, step):
        if step == 5:
            raise RuntimeError("fell")
        return loss(self, model, scenes, step)

    monkeypatch.setattr(type(RECIPE), "loss", fall)
    with pytest.raises(RuntimeError, match="fell"):
        oh.train(RECIPE, tmp_path / "run", log=["tensorboard"])
    monkeypatch.setattr(type(RECIPE), "loss", loss)
    oh.train(RECIPE, tmp_path / "run", resume=True, log=["tensorboard"])
    scalars, _ = told(tmp_path / "run")
    assert scalars == logged(tmp_path / "run") and list(scalars["train/loss"]) == [1, 2, 3, 4, 5, 6]


def test_trackers_are_optional_and_unknown_ones_refused(undrawn, tmp_path, monkeypatch, capsys):
    oh.train(replace(RECIPE, steps=1), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    with pytest.raises(ValueError, match=r"`log` \(='tensorbord'\) must be one of tensorboard"):
        oh.train(RECIPE, tmp_path / "other", log=["tensorbord"])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["train", "tetrominoes", "--log", "tensorboard", "--out", str(tmp_path / "other")]) == 1
    assert "pip install 'objecthood[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

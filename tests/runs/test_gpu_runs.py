"""The script that waits for a GPU, as far as a processor can tell: it resumes, stops, and claims nothing."""

import dataclasses
import importlib
import json
import sys
import time

import pytest
import torch
from places import ROOT

from objecthood.data.on_device import OnDevice
from objecthood.recipes import RECIPES

RUNS = ROOT / "runs" / "gpu"
CPU = torch.device("cpu")
TINY = dataclasses.replace(RECIPES["tetrominoes"], batch_size=2, test_scenes=4, validation_scenes=2)


@pytest.fixture
def gpu(monkeypatch):
    return script("gpu", monkeypatch)


@pytest.fixture
def right(monkeypatch):
    return script("gpu_correctness", monkeypatch)


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(str(RUNS))
    return importlib.import_module(name)


@pytest.fixture
def settings(gpu, tmp_path):
    return gpu.Settings(tmp_path / "results", tmp_path / "runs", None, CPU, seconds=100)


def test_without_a_gpu_nothing_is_run_and_nothing_written(gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    assert gpu.main() == 1
    assert "no CUDA device is at hand; nothing was run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_stages_that_have_results_are_left_alone_and_others_tried_again(gpu, monkeypatch, settings):
    tries = []

    def flaky(_):
        tries.append("flaky")
        return {"rows": [1]} if len(tries) > 2 else None

    monkeypatch.setattr(
        gpu, "STAGES", {"steady": lambda _: tries.append("steady") or {"rows": []}, "flaky": flaky}
    )
    monkeypatch.setattr(gpu, "call", lambda command, _: gpu.publish(command[2], settings))
    assert gpu.run_stages(["steady", "flaky"], settings, []) == 1
    assert not gpu.result_file("flaky", settings).exists()
    assert gpu.run_stages(["steady", "flaky"], settings, []) == 0
    assert gpu.run_stages(["steady", "flaky"], settings, []) == 0
    assert tries == ["steady", "flaky", "flaky"]
    found = json.loads(gpu.result_file("flaky", settings).read_text())
    assert found["rows"] == [1] and found["machine"]["torch"] == torch.__version__


def test_a_process_is_asked_to_stop_before_its_time_is_up(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "GRACE", 20)
    code = "import pathlib, sys, time\ntry:\n time.sleep(50)\nexcept KeyboardInterrupt:\n"
    code += " pathlib.Path(sys.argv[1]).touch()"
    begin = time.monotonic()
    assert gpu.call([sys.executable, "-c", code, str(tmp_path / "saved")], seconds=23) == 0
    assert time.monotonic() - begin < 23 and (tmp_path / "saved").exists()


def test_a_process_that_does_not_stop_is_ended(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 1)
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    assert gpu.call([sys.executable, "-c", code], seconds=4) < 0


def test_correctness_passes_where_the_device_is_the_processor(right, monkeypatch):
    monkeypatch.setattr(right, "MODELS", {"tetrominoes": {"float32": 1e-5, "bfloat16": 0.2}})
    found = right.correctness(CPU)
    assert found["passed"] and len(found["rows"]) == 6
    monkeypatch.setattr(right, "distance", lambda one, other: float("nan"))
    assert not right.correctness(CPU)["passed"]


def test_trainings_resume_and_keep_finite_scenes_on_the_device(gpu, monkeypatch, settings):
    monkeypatch.setitem(gpu.oh.RECIPES, "tetrominoes", TINY)
    stage = gpu.train_seeds("tetrominoes", 2, steps=3)
    first = stage(settings)
    assert [result["seed"] for result in first["results"]] == [0, 1]
    assert stage(settings) == first  # nothing is trained twice
    assert gpu.train_seeds("clevr6-like", 1)(settings) is None  # no scenes were named

    from objecthood.data.clevr_render.clevr_like import SAMPLES

    fields = {"data_path": str(SAMPLES), "resolution": 16}
    recipe = gpu.on_device(dataclasses.replace(RECIPES["clevr6-like"], **fields), CPU)
    assert isinstance(recipe.dataset("test"), OnDevice) and recipe.dataset("test") is recipe.dataset("test")
    assert recipe.to_dict()["task"] == "SlotFrameDiscovery"

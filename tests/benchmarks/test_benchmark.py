"""The reference implementation equals our model; timing, counting and learning curves."""

import dataclasses
import importlib
import json
import math
import sys

import pytest
import torch
from places import ROOT
from torch import nn

from objecthood.benchmarks import memory, peers
from objecthood.benchmarks.contestants import (
    EXACT,
    FAST,
    LITERAL,
    RecipeStep,
    ReferenceStep,
    inference,
    settings,
    training_step,
)
from objecthood.benchmarks.reference_implementation import ReferenceAutoencoder
from objecthood.benchmarks.roofline import distance, peaks, work
from objecthood.benchmarks.stages import share_of_time
from objecthood.benchmarks.timing import LEAST_ROUNDS, Spread, Turns, take_turns
from objecthood.cli.main import main
from objecthood.losses import reconstruction_error

CPU = torch.device("cpu")


@pytest.fixture
def in_float64():
    """Grids and weights are born in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def exact_and_literal(resolution):
    """Both models with the same weights, images and noise."""
    setting = settings()[resolution]
    exact = setting.exact.build_model()
    for parameter in exact.parameters():  # biases are born 0, which would hide a missing one
        if parameter.ndim == 1:
            nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    literal = ReferenceAutoencoder(resolution, setting.num_slots)
    literal.load_state_dict(exact.state_dict())
    images, noise = torch.rand(1, 3, resolution, resolution), torch.randn(1, setting.num_slots, 64)
    return exact, literal, images, noise


@pytest.mark.parametrize("resolution", [35, 64, pytest.param(128, marks=pytest.mark.long)])
@torch.no_grad()
def test_the_reference_implementation_equals_the_exact_model(resolution, in_float64):
    exact, literal, images, noise = exact_and_literal(resolution)
    scene = exact(images, noise=noise)
    reconstruction, masks = literal(images, noise)
    close = dict(rtol=1e-5, atol=1e-6)  # the exact model decodes in float64 but mixes in float32
    torch.testing.assert_close(scene.reconstruction.double() * 2 - 1, reconstruction, **close)
    torch.testing.assert_close(scene.masks.double(), masks, **close)


def test_the_reference_implementation_trains_as_the_exact_model(in_float64):
    exact, literal, images, noise = exact_and_literal(35)
    reconstruction_error(exact(images, noise=noise).reconstruction, images).backward()
    ((literal(images, noise)[0] - (2 * images - 1)) ** 2).mean().backward()
    weights = dict(literal.named_parameters())
    for name, mine in exact.named_parameters():
        torch.testing.assert_close(mine.grad, weights[name].grad, rtol=1e-5, atol=1e-7)


def test_calls_are_timed_in_rounds():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    turns = take_turns(calls, 0.0)
    assert len(turns["a"].cpu) == len(turns["b"].wall) == LEAST_ROUNDS
    changes = sum(before != after for before, after in zip(order[:-1], order[1:], strict=True))
    assert changes == 2 * LEAST_ROUNDS + 1, "warm-up of each, then one turn each in every round"


def test_ratios_are_taken_per_round():
    """A neighbour that slows two rounds tenfold changes no ratio."""
    literal, ours = Turns([1.0, 10.0, 1.0, 10.0], [1.0] * 4), Turns([0.5, 5.0, 0.5, 5.0], [2.0] * 4)
    assert ours.ratio(literal, "wall") == Spread(0.5, 0.5, 0.5, 4)
    assert ours.ratio(literal).median == 2.0
    assert Spread.of([3.0, 1.0, 2.0]).to_dict() == {"median": 2.0, "low": 1.5, "high": 2.5, "count": 3}


def test_arithmetic_and_traffic_are_counted():
    x, w = torch.rand(2, 3, 8, 8), torch.rand(4, 3, 3, 3)
    flops, _ = work(lambda: torch.conv2d(x, w, padding=1))
    assert flops == 2 * 2 * 8 * 8 * 4 * 3 * 9
    _, traffic = work(lambda: x.view(6, 64).add(1))
    assert traffic == 2 * x.numel() * 4, "read once and written once; the view is free"


def test_the_floor_is_the_slower_of_arithmetic_and_memory():
    a = torch.rand(16, 16)
    peak = {"float32": 1e9, "copy": 1e6}
    found = distance(lambda: a @ a, seconds=1.0, dtype="float32", peak=peak)
    assert found["operations"] == 2 * 16**3 and found["bytes"] == 3 * 16 * 16 * 4
    assert found["times_floor"] == pytest.approx(1.0 / (found["bytes"] / 1e6))
    found = distance(lambda: a @ a, seconds=1.0, dtype="float32", peak=peak | {"copy": 1e12})
    assert found["times_floor"] == pytest.approx(1.0 / (found["operations"] / 1e9))


def test_peaks_are_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr("objecthood.benchmarks.roofline._SIDES", {"cpu": 128})
    found = peaks(CPU, 0.0)
    assert found.keys() == {"float32", "bfloat16", "copy"}
    assert found["float32"] > 1e8 and found["copy"] > 1e8


@pytest.mark.parametrize("name", [LITERAL, EXACT, FAST])
def test_steps_train(name):
    """Each contestant's step changes its weights and lowers its own loss."""
    setting = settings()[35]
    step = training_step(setting, name, 2, CPU)
    before = [parameter.clone() for parameter in step.model.parameters()]
    step()
    assert any((old != new).any() for old, new in zip(before, step.model.parameters(), strict=True))
    assert inference(setting, name, 1, CPU)() is not None


def test_the_reference_step_equals_that_of_the_exact_recipe():
    """Same weights, noise, images: Adam moves both to the same place in float32."""
    setting = settings()[35]
    setting = dataclasses.replace(setting, exact=dataclasses.replace(setting.exact, precision="float32"))
    literal = ReferenceStep(setting, 2, CPU)
    ours = RecipeStep(setting.exact, 2, CPU)
    literal.model.load_state_dict(ours.model.state_dict())
    for step in (literal, ours):
        for optimizer in getattr(step, "optimizers", [getattr(step, "optimizer", None)]):
            optimizer.param_groups[0]["eps"] = 1e-3  # makes Adam's first step follow the gradient's size
        torch.manual_seed(1)
        step()
    weights = dict(literal.model.named_parameters())
    for name, mine in ours.model.named_parameters():
        torch.testing.assert_close(mine, weights[name], rtol=0, atol=5e-6)


def test_shares_of_time_sum_to_one():
    step = RecipeStep(settings()[35].fast, 2, CPU)
    shares = share_of_time(step, 0.0)
    assert shares.keys() == {"data", "encoder", "slot attention", "decoder", "optimiser"}
    assert sum(room["share"] for room in shares.values()) == pytest.approx(1, abs=1e-3)
    assert all(room["seconds"] > 0 for room in shares.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_peak_memory_grows_with_the_batch():
    small, large = (memory.peak_memory(35, FAST, size, CPU) for size in (2, 32))
    assert 1e6 < small < large < 4e9


@pytest.mark.skipif(not peers.is_there(), reason=peers.MISSING)
def test_the_compared_package_runs_on_the_same_inputs():
    calls = peers.grouping_calls(num_slots=4, num_inputs=9, batch_size=2, device=CPU)
    assert calls.keys() == {peers.OURS, peers.THEIRS}
    for call in calls.values():
        call()


def test_time_to_quality_is_the_first_evaluation_that_shows_it(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "runs" / "experiments"))
    script = importlib.import_module("time_to_quality")
    scores = [(10, 0.5), (20, 0.92), (30, 0.89), (40, 0.97)]
    curve = [{"cpu_seconds": cost, "fg_ari": score} for cost, score in scores]
    assert script.time_to_quality(curve, [0.4, 0.9, 0.97, 0.99]) == [10, 20, 40, math.inf]
    rows = script.over_seeds([curve, curve[:1], curve[:2]], [0.9, 0.97])
    assert rows[0] == {"threshold": 0.9, "median": 20, "least": 20, "most": None, "reached": 2, "seeds": 3}
    assert rows[1]["median"] is None and rows[1]["reached"] == 1


def test_the_command_measures_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("objecthood.benchmarks.run.peak_memory", lambda *arguments: 10**6)
    monkeypatch.setattr("objecthood.benchmarks.roofline._SIDES", {"cpu": 64})
    monkeypatch.setattr("objecthood.benchmarks.timing.LEAST_ROUNDS", 2)
    small = dataclasses.replace(settings()[35], batch_size=4, inference_sizes=(1,))
    monkeypatch.setattr("objecthood.benchmarks.run.settings", lambda: {35: small})
    out = tmp_path / "results" / "benchmark.json"
    typed = f"benchmark --resolutions 35 --seconds 0.01 --device cpu --out {out}".split()
    assert main(typed) == 0, capsys.readouterr().err
    found = json.loads(out.read_text())
    steps = found["resolutions"]["35"]["training_step"]
    assert steps[LITERAL]["ratio"]["median"] == 1 and steps[FAST]["ratio"]["median"] < 0.6
    assert steps[FAST]["floor"]["times_floor"] > 0 and found["machine"]["torch"] == torch.__version__
    said = capsys.readouterr().out
    assert "training step" in said and "quartiles" in said and "time of fast: data" in said


@pytest.mark.parametrize(
    "typed, code",
    [("--resolutions 36", 1), ("--resolutions big", 2), ("--seconds 0", 2), ("--threads 0", 2)],
)
def test_impossible_measurements_are_refused_in_one_line(typed, code, capsys):
    assert main(["benchmark", "--device", "cpu", *typed.split()]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and typed.split()[1] in said

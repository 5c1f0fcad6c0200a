"""A sweep trains every combination once, goes on where it was stopped, and counts what fails."""

import csv
import importlib
import json
import os
import signal
import statistics
import threading
import time

import dying
import pytest

from objecthood.cli.main import main
from objecthood.cli.sweep import Member, combinations, separate, trained
from objecthood.runtime.signals import Preempted

SMALL = (
    "--steps",
    "2",
    "--batch-size",
    "2",
    "--warmup-steps",
    "0",
    "--validation-scenes",
    "2",
    "--test-scenes",
    "4",
)
pytestmark = pytest.mark.usefixtures("undrawn")
train_module = importlib.import_module("objecthood.train")


def sweep(out, *words: str) -> int:
    return main(["sweep", "tetrominoes", *SMALL, "--out", str(out), "--device", "cpu", *words])


def test_every_combination_is_trained_once_and_summed_up(tmp_path, capsys):
    words = ("--seed", "0..1", "--muon-learning-rate=0.01,0.02")
    assert sweep(tmp_path / "s", *words) == 0
    said = capsys.readouterr().out
    runs = sorted(folder.name for folder in (tmp_path / "s").iterdir() if folder.is_dir())
    assert runs == [f"muon-learning-rate={rate},seed={seed}" for rate in ("0.01", "0.02") for seed in (0, 1)]
    assert "4 of 4: muon-learning-rate=0.02,seed=1" in said and "±" in said and "held out" in said
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [row["setting"] for row in found["rows"]] == [
        "muon-learning-rate 0.01",
        "muon-learning-rate 0.02",
    ]
    lines = list(csv.DictReader((tmp_path / "s" / "sweep.csv").read_text().splitlines()))
    for row, rate in zip(found["rows"], ("0.01", "0.02"), strict=True):
        own = [
            json.loads(
                (tmp_path / "s" / f"muon-learning-rate={rate},seed={seed}" / "result.json").read_text()
            )
            for seed in (0, 1)
        ]
        values = [result["scores"]["fg_ari"] for result in own]
        assert [result["settings"]["muon_learning_rate"] for result in own] == [float(rate)] * 2
        assert row["scores"]["fg_ari"]["values"] == values and row["seeds"] == [0, 1] and row["failed"] == []
        assert row["scores"]["fg_ari"]["mean"] == statistics.mean(values)
        assert row["scores"]["fg_ari"]["deviation"] == statistics.stdev(values)
        kept = [line for line in lines if line["setting"] == row["setting"] and line["score"] == "fg_ari"]
        assert [(int(line["seed"]), float(line["value"])) for line in kept] == list(enumerate(values))
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "s").rglob("weights.safetensors")}
    assert len(times) == 4 and sweep(tmp_path / "s", *words) == 0
    assert times == {file: file.stat().st_mtime_ns for file in times}, "nothing is trained twice"


def test_a_stopped_sweep_goes_on(tmp_path, monkeypatch):
    finish = train_module.finish

    def stopped(*arguments, **named):
        if arguments[0].seed == 1:
            raise KeyboardInterrupt
        return finish(*arguments, **named)

    monkeypatch.setattr(train_module, "finish", stopped)
    assert sweep(tmp_path / "s", "--seed", "0,1") == 130
    assert not (tmp_path / "s" / "seed=1" / "result.json").exists()
    monkeypatch.setattr(train_module, "finish", finish)
    assert sweep(tmp_path / "s", "--seed", "0,1") == 0
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"][0]["seeds"] == [0, 1]


def test_failed_trainings_are_counted(tmp_path, monkeypatch, capsys):
    train = train_module.train

    def failing(recipe, out, **named):
        if recipe.seed == 1:
            raise FloatingPointError("three steps in a row without a finite gradient")
        return train(recipe, out, **named)

    monkeypatch.setattr(train_module, "train", failing)
    assert sweep(tmp_path / "s", "--seed", "0..2") == 1
    assert "failed: three steps" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"]
    assert row["seeds"] == [0, 1, 2] and row["failed"] == [1] and len(row["scores"]["fg_ari"]["values"]) == 2


def test_five_seeds_unless_named_and_folders_with_commas():
    assert [changes["seed"] for changes, _ in combinations([])] == ["0", "1", "2", "3", "4"]
    (((changes, words)),) = combinations(["--seed", "3", "--data-path", "a,b"])
    assert changes == {"seed": "3"} and words == ["--data-path=a,b", "--seed=3"]
    assert [changes for changes, _ in combinations(["--seed", "2,02,2"])] == [{"seed": "2"}], "counted once"
    assert separate("-1") == ["-1"] and separate("2..2") == ["2"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["sweep"], "sweep needs a recipe"),
        (["sweep", "tetrominos"], "did you mean tetrominoes?"),
        (["sweep", "tetrominoes", "--sed", "0..2"], "did you mean --seed?"),
        (["sweep", "tetrominoes", "--seed", "4..0"], "range 4..0 must be ascending; write 0..4"),
        (["sweep", "tetrominoes", "--seed", "0..99999999999"], "100000000000 values; at most 10000"),
        (["sweep", "tetrominoes", "--seed", "0..999", "--steps", "1..99"], "99000 runs; at most 10000"),
        (["sweep", "tetrominoes", "--seed", f"0..{'9' * 5000}"], "must be a whole number"),
        (["sweep", "tetrominoes", "--steps", "5,many"], "--steps (='many') must be a whole number"),
        (["sweep", "tetrominoes", "--steps", "5,0"], "`steps` (=0) must be at least 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and not list(tmp_path.iterdir())


def test_no_run_is_written_through_a_link(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "seed=0").symlink_to(tmp_path / "mine")
    assert sweep(tmp_path / "s", "--seed", "0") == 1
    assert "seed=0 is a symbolic link" in capsys.readouterr().err and not list((tmp_path / "mine").iterdir())


def test_processes_of_a_stopped_sweep_end(tmp_path, monkeypatch):
    """None of them trains on, waits for ever, or begins the next run."""
    monkeypatch.setattr("objecthood.cli.sweep.train_in_pool", dying.sleep_in_pool)
    monkeypatch.setattr("objecthood.cli.sweep.one_thread", None)
    members = [Member({"seed": str(seed)}, None) for seed in range(6)]

    def stop_when_both_run():
        while len([*tmp_path.iterdir()]) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_both_run, daemon=True).start()
    with pytest.raises(Preempted):
        [*trained(members, tmp_path, "cpu", processes=2)]
    pids = [int(file.read_text()) for file in tmp_path.iterdir()]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

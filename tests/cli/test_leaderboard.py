"""The leaderboard trains every cell once, says before how long it takes, and goes on where it was stopped."""

import importlib
import json

import pytest

from objecthood.analysis import leaderboard as analysis
from objecthood.cli.main import main
from objecthood.data.clevr_render.clevr_like import SAMPLES

train_module = importlib.import_module("objecthood.train")
pytestmark = pytest.mark.usefixtures("undrawn")
SMALL = (
    *("--modules", "slot-attention,soft-k-means", "--sets", "tetrominoes"),
    *("--cpu-seconds", "1", "--test-scenes", "4", "--device", "cpu"),
)


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Steps of known cost: two and one are affordable."""
    costs = {"slot-attention": 0.5, "soft-k-means": 1.0}
    monkeypatch.setattr(analysis, "seconds_per_step", lambda recipe, device: costs[recipe.slot_module])


def board(out, *words: str) -> int:
    return main(["leaderboard", *SMALL, "--out", str(out), *words])


def test_every_cell_is_trained_once_and_compared(tmp_path, monkeypatch, capsys):
    out = tmp_path / "board"
    assert board(out, "--seeds", "0..1") == 0
    said = capsys.readouterr().out
    assert said.index("6 of 6 runs are left: about 8 seconds of training") < said.index("1 of 6: set=")
    facts = json.loads((out / "leaderboard.json").read_text())
    modules = facts["sets"]["tetrominoes"]["modules"]
    assert [modules["slot-attention"][at]["steps"] for at in ("cpu", "steps")] == [2, 2]
    assert [modules["soft-k-means"][at]["steps"] for at in ("cpu", "steps")] == [1, 2]
    verdicts = [cells["verdict"].split(" (")[0] for cells in modules.values()]
    assert "best" in verdicts and set(verdicts) <= {"best", "within noise", "worse"}
    for cells in modules.values():
        for at in ("cpu", "steps"):
            assert cells[at]["seeds"] == [0, 1] and cells[at]["failed"] == []
            scores = cells[at]["scores"]["fg_ari"]
            assert len(scores["values"]) == 2 and scores["deviation"] is not None
    assert {"components", "kmeans", "blocks", "untrained"} <= set(facts["sets"]["tetrominoes"]["floors"])
    text = (out / "leaderboard.md").read_text()
    assert "| `soft-k-means` |" in text and "floor: colour components" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (out / line.partition("](")[2].rstrip(")")).exists()
    scenes = json.loads(next(out.glob("*module=soft*at=cpu,seed=1/scenes.json")).read_text())
    assert len(scenes["fg_ari"]) == 4
    mean = modules["soft-k-means"]["cpu"]["scores"]["fg_ari"]["values"][1]
    assert sum(scenes["fg_ari"]) / 4 == pytest.approx(mean, abs=1e-6)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("weights.safetensors")}
    assert len(times) == 6 and board(out, "--seeds", "0..1") == 0
    assert times == {file: file.stat().st_mtime_ns for file in times}, "nothing is trained twice"
    assert "0 of 6 runs are left" in capsys.readouterr().out


def test_a_stopped_leaderboard_goes_on_with_its_plan(tmp_path, monkeypatch, capsys):
    finish = train_module.finish

    def stopped(*arguments, **named):
        if arguments[0].slot_module == "soft-k-means":
            raise KeyboardInterrupt
        return finish(*arguments, **named)

    monkeypatch.setattr(train_module, "finish", stopped)
    assert board(tmp_path / "b", "--seeds", "0") == 130
    monkeypatch.setattr(train_module, "finish", finish)
    monkeypatch.setattr(analysis, "seconds_per_step", lambda recipe, device: 1 / 0)
    capsys.readouterr()
    assert board(tmp_path / "b", "--seeds", "0") == 0
    assert "2 of 3 runs are left" in capsys.readouterr().out
    assert board(tmp_path / "b", "--cpu-seconds", "2") == 2
    assert "holds a leaderboard with --cpu-seconds 1.0, not 2.0" in capsys.readouterr().err


def test_failed_seeds_are_counted(tmp_path, monkeypatch, capsys):
    train = train_module.train

    def failing(recipe, out, **named):
        if recipe.seed == 1 and recipe.slot_module == "soft-k-means":
            raise FloatingPointError("three steps in a row without a finite gradient")
        return train(recipe, out, **named)

    monkeypatch.setattr(train_module, "train", failing)
    assert board(tmp_path / "b", "--seeds", "0,1") == 1
    facts = json.loads((tmp_path / "b" / "leaderboard.json").read_text())
    cells = facts["sets"]["tetrominoes"]["modules"]["soft-k-means"]
    assert cells["cpu"]["failed"] == cells["steps"]["failed"] == [1]
    assert "1 of 2" in (tmp_path / "b" / "leaderboard.md").read_text()


def test_a_plan_trains_nothing(tmp_path, capsys):
    assert board(tmp_path / "b", "--plan", "--processes", "2") == 0
    said = capsys.readouterr().out
    assert "9 of 9 runs are left: about 12 seconds of training, 6 seconds with --processes 2" in said
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["plan.json"]


@pytest.mark.long
def test_several_processes_train_the_same_weights(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert board(one, "--seeds", "0") == 0 and board(two, "--seeds", "0", "--processes", "2") == 0
    files = sorted(file.relative_to(one) for file in one.rglob("weights.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes()


def test_rendered_scenes_come_from_a_folder(tmp_path, capsys):
    words = ("--modules", "slot-attention", "--seeds", "0", "--sets")
    assert board(tmp_path / "b", *words, f"clevr6-like={SAMPLES}", "--plan") == 0
    assert "1 of 1 runs are left" in capsys.readouterr().out
    recipe = analysis.recipe_of("clevr6-like", "mesh", seed=0, steps=1, folder=str(SAMPLES))
    assert recipe.dataset("test")[0]["image"].shape == (3, 64, 64)
    assert board(tmp_path / "c", *words, f"clevr6-like={tmp_path / 'nowhere'}") == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--modules", "slot-atention"],
            "--modules (='slot-atention') is unknown; did you mean slot-attention?",
        ),
        (["--sets", "texture-hard"], "--sets (='texture-hard') is unknown"),
        (["--sets", ""], "--sets (='') must name at least one"),
        (["--sets", "clevr6-like"], "clevr --background plain --out FOLDER`, one for each --split"),
        (["--sets", "clevr6-textured="], "needs a folder of scenes: clevr6-textured=FOLDER"),
        (["--sets", "sprites=scenes"], "--sets (=sprites='scenes') is generated and has no folder; omit it"),
        (["--sets", "scenes=clevr6-like"], "--sets (='scenes') is unknown"),
        (["--seeds", "a"], "--seeds (='a') must be numbers such as 0..2 or 0,1,2"),
        (["--seeds", "2..0"], "range 2..0 must be ascending"),
        (["--seeds", "0..99999999999"], "has 100000000000 values; at most 10000 are allowed"),
        (["--seeds", "9" * 5000], "must be numbers of at most 18 digits"),
        (["--cpu-seconds", "0"], "--cpu-seconds (=0.0) must be above 0"),
        (["--processes", "0"], "--processes (=0) must be at least 1"),
        (["--test-scenes", "0"], "--test-scenes (=0) must be at least 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("cost", ["0", "-1", '"fast"', "NaN", "[1]"])
def test_a_damaged_plan_is_told(tmp_path, capsys, cost):
    plan = tmp_path / "plan.json"
    plan.write_text(
        f'{{"cpu_seconds": 5.0, "test_scenes": 2, "seconds_per_step": {{"sprites mesh": {cost}}}}}'
    )
    words = ("--modules", "mesh", "--sets", "sprites", "--cpu-seconds", "5", "--test-scenes", "2")
    assert main(["leaderboard", *words, "--out", str(tmp_path), "--plan"]) == 1
    assert "plan.json is damaged; remove it" in capsys.readouterr().err

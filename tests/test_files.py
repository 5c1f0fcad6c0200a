"""Folders, names and weight files of others: nothing is written elsewhere, and limits hold."""

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from places import ROOT
from safetensors.torch import load_file, save_file
from torch import nn

import objecthood as oh
from objecthood.checkpoint.run import described_recipe, read_description, restore, save_checkpoint
from objecthood.demo.shown import Shown
from objecthood.inference.result_folder import ResultFolder
from objecthood.recipes import RECIPES, Discovery, from_dict
from objecthood.runtime import files, limits
from objecthood.runtime.signals import PREEMPTED, nobody_else
from objecthood.train import check_state, digest, prepare_folder
from objecthood.training.report import write_report

SPRITES = RECIPES["sprites"]
MODEL = SPRITES.build_model()
BAD_NAMES = ["/elsewhere/abs", "../../esc", "..", ".", "", "a/b", "a\\b", "a b", "\x1b[2J", "a" * 101]


@dataclasses.dataclass(frozen=True)
class Undrawn(Discovery):
    """Without figures, which take longer than all else."""

    def figures(self, model, scenes):
        return {"one": Image.new("RGB", (1, 1))}

    def preview(self, model, scenes):
        return Image.new("RGB", (1, 1))


SMALL = Undrawn(
    name="small", data="sprites", resolution=16, num_slots=2, steps=4, batch_size=2, evaluate_every=2,
    validation_scenes=2, test_scenes=2, warmup_steps=2, precision="float32",
)  # fmt: skip


def with_recipe(folder: Path, **changes: object) -> Path:
    """Published weights with another recipe in their header."""
    source = oh.PRETRAINED["sprites"].file
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in read_description(source).items()
        if key != "parameters"
    }
    metadata["recipe"] = json.dumps(described_recipe(source).to_dict() | changes)
    save_file(load_file(source), folder / "w.safetensors", metadata)
    return folder / "w.safetensors"


def one_line(call, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said and len(said) < 400 and all(word in said for word in words), said
    return said


@pytest.fixture
def elsewhere(tmp_path):
    """A file and a folder that belong to somebody else; checked to be untouched."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret.png").write_bytes(b"secret")
    yield folder
    assert [file.name for file in folder.iterdir()] == ["secret.png"]
    assert (folder / "secret.png").read_bytes() == b"secret"


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    one_line(lambda: from_dict(SPRITES.to_dict() | {"name": name}), "`name`")
    one_line(lambda: oh.load(with_recipe(tmp_path, name=name)), "`name`")
    one_line(lambda: Shown(name, MODEL, ""), "`name`")


def test_plain_names_stay():
    for name in ("sprites", "my.recipe-2_b", "..a", "Größe"):
        assert dataclasses.replace(SPRITES, name=name).name == name


def test_fields_of_another_type_are_refused_in_one_line():
    """Around `__init__`, whose types the tests' own import hook checks, and nobody else's."""
    wrong = {"int": [{"a": 1}, "7", 2.5, True, None, [3]], "float": ["1", {}, True], "str": [5, {}, None]}
    wrong["bool"] = [1, "yes"]
    tried = 0
    for field in dataclasses.fields(SPRITES):
        for value in wrong.get(str(field.type), [{"a": "b"}]):
            made = object.__new__(type(SPRITES))
            vars(made).update(dataclasses.asdict(SPRITES) | {field.name: value})
            one_line(made.__post_init__, f"`{field.name}`")
            tried += 1
    assert tried > 60


@pytest.mark.parametrize("name", RECIPES)
def test_counts_have_a_largest_value(name):
    recipe, fields = RECIPES[name], {field.name for field in dataclasses.fields(RECIPES[name])}
    counts = {"resolution", "num_slots", "test_iterations"}
    assert "resolution" in fields and counts & fields <= recipe.maximums.keys()
    for field in fields & recipe.maximums.keys():
        one_line(
            lambda field=field: dataclasses.replace(recipe, **{field: recipe.maximums[field] + 1}),
            f"`{field}`",
            f"at most {recipe.maximums[field]}",
        )


LOAD_ALL = """
import json, resource, sys, objecthood as oh
import torch._refs  # what the meta device imports
oh.load("sprites")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try: print(oh.load(path))
    except ValueError as error: print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
CRAFTED = [
    {"resolution": 640}, {"resolution": 2000}, {"resolution": 10**9}, {"test_iterations": 10**9},
    {"restarts": 10**7}, {"num_slots": 10**9}, {"test_scenes": 10**12}, {"name": {"a": "b"}},
    {"name": "../x"},    {"name": ["x"]}, {"seed": "{}"}, {"second_kernel": None}, {"split_slots": 3},
]  # fmt: skip


def test_a_crafted_recipe_is_refused_before_it_takes_memory(tmp_path):
    paths = []
    for number, changes in enumerate(CRAFTED):
        (tmp_path / str(number)).mkdir()
        paths.append(with_recipe(tmp_path / str(number), **changes))
    command = [sys.executable, "-c", LOAD_ALL, *paths]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    *said, grown = run.stdout.splitlines()
    assert len(said) == len(CRAFTED) and not run.stderr
    for changes, line in zip(CRAFTED, said, strict=True):
        assert f"`{next(iter(changes))}`" in line
    assert int(grown) < 100_000, "kilobytes"


def test_a_larger_resolution_within_limits_still_loads(tmp_path):
    assert oh.load(with_recipe(tmp_path, resolution=264)).resolution == 264


def test_long_settings_are_not_repeated_in_messages(tmp_path):
    """Of any field, its name too; the length that is allowed is."""
    for changes in ({"task": "x" * 5000}, {"data": "x" * 5000}, {"background": ["x"] * 900}, {"y" * 5000: 1}):
        with pytest.raises(ValueError, match="has [0-9]+ characters; at most 1000 are allowed") as caught:
            oh.load(with_recipe(tmp_path, **changes))
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    assert oh.load(with_recipe(tmp_path, description="x" * 900)).recipe.description == "x" * 900


def test_doctor_prints_every_limit():
    from objecthood.cli.doctor import examine

    facts, _ = examine()
    assert limits.TABLE.items() <= facts.items()
    said = " ".join(limits.TABLE.values())
    numbers = [value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)]
    assert len(numbers) > 15 and all(f"{number:,}" in said for number in numbers)


def test_a_writer_replaces_a_link_and_not_what_it_points_to(tmp_path, elsewhere):
    target = tmp_path / "recipe.json"
    target.symlink_to(elsewhere / "secret.png")
    files.write_json(target, {"a": 1})
    assert not target.is_symlink() and json.loads(target.read_text()) == {"a": 1}
    with pytest.raises(RuntimeError), files.replacing(target) as file:
        file.write(b"half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["elsewhere", "recipe.json"]


def test_files_of_a_folder_appear_together_or_not_at_all(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for fails in (True, False):
        with contextlib.suppress(KeyError), files.staged_files(folder) as place:
            (place / "0.png").write_text("new")
            assert not (folder / "0.png").exists()
            if fails:
                raise KeyError
        assert [one.name for one in tmp_path.iterdir()] == ["masks"]
        assert (folder / "0.png").exists() != fails and (folder / "notes.txt").read_text() == "mine"


def test_what_a_killed_process_left_is_removed(tmp_path, elsewhere):
    left = files.staged_name(tmp_path / "masks")
    left.mkdir()
    (left / "0.png").write_text("half")
    files.staged_name(tmp_path / "tracks.csv").write_text("half")
    files.staged_name(tmp_path / "masks").symlink_to(elsewhere, target_is_directory=True)
    (tmp_path / ".notes.part").write_text("mine")
    files.remove_staged(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".notes.part", "elsewhere"]
    assert (elsewhere / "secret.png").exists()


def test_a_staged_name_that_exists_is_not_opened(tmp_path, elsewhere, monkeypatch):
    planted = tmp_path / ".planted.part"
    planted.symlink_to(elsewhere / "secret.png")
    monkeypatch.setattr(files, "staged_name", lambda path: planted)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "a", "text")


def test_a_run_folder_full_of_links_changes_nothing_elsewhere(tmp_path, elsewhere):
    run = tmp_path / "run"
    run.mkdir()
    names = (".recipe.json", ".latest.png", ".metrics.jsonl", "latest.png", "result.json", "metrics.jsonl")
    for name in (*names, "weights.safetensors", "index.html", "index.html.part", "figures/one.png"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).symlink_to(elsewhere / "secret.png")
    (run / "metrics.jsonl").unlink()  # else it holds a run already
    oh.train(SMALL, run)
    written = ("latest.png", "result.json", "metrics.jsonl", "weights.safetensors", "figures/one.png")
    assert not [name for name in written if (run / name).is_symlink()]
    assert oh.load(run, SMALL).num_slots == 2


@pytest.mark.parametrize("name", ["checkpoints", "figures", "tensorboard", "recipe.json"])
def test_linked_parts_of_a_run_folder_are_refused(tmp_path, elsewhere, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(elsewhere / "secret.png" if name == "recipe.json" else elsewhere)
    one_line(lambda: oh.train(SMALL, run), name, "symbolic link")
    if name == "checkpoints":
        one_line(lambda: save_checkpoint(run / name, 1, nn.Linear(1, 1), [], {}), "symbolic link")
        one_line(lambda: restore(run / name, nn.Linear(1, 1), []), "symbolic link")


def test_the_report_embeds_no_linked_file(tmp_path, elsewhere):
    for name in ("recipe.json", "result.json", "metrics.jsonl"):
        (elsewhere.parent / f"own-{name}").write_text('{"name": "told-elsewhere", "step": 1}')
        (tmp_path / "run" / "figures").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).symlink_to(elsewhere.parent / f"own-{name}")
    for name in ("latest.png", "figures/a.png"):
        (tmp_path / "run" / name).symlink_to(elsewhere / "secret.png")
    (tmp_path / "run" / "figures" / "b.png").write_bytes(b"ours")
    page = write_report(tmp_path / "run").read_text()
    assert "c2VjcmV0" not in page and "told-elsewhere" not in page and "b3Vycw==" in page
    shutil.rmtree(tmp_path / "run" / "figures")
    (tmp_path / "run" / "figures").symlink_to(elsewhere)
    assert "c2VjcmV0" not in write_report(tmp_path / "run").read_text()


def test_predictions_are_not_written_through_links(tmp_path, elsewhere):
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (40, 40)).save(picture)
    oh.predict("tetrominoes", picture, out, animate=False)
    for ending in ("-overlay.png", "-masks.png", "-masks.json"):
        file = next(out.glob(f"*{ending}"))
        file.unlink()
        file.symlink_to(elsewhere / "secret.png")
    oh.predict("tetrominoes", picture, out, animate=False)
    assert not [file for file in out.iterdir() if file.is_symlink()]
    (out / "sub").symlink_to(elsewhere)
    one_line(lambda: ResultFolder(out).place("sub/x"), "symbolic link")


@pytest.mark.parametrize("name", ["..png", "...png", "..jpg"])
def test_an_image_without_a_stem_is_written_inside(tmp_path, name):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "p" / name, "PNG")
    oh.predict("tetrominoes", tmp_path / "p" / name, tmp_path / "o" / "o", animate=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o", "p"]
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["o"]
    assert len(list((tmp_path / "o" / "o").glob("*-overlay.png"))) == 1


def test_names_of_results_stay_in_their_folder(tmp_path):
    pictures = {Path(f"{number}"): Path(name) for number, name in enumerate(("..png", "s/...png", "x.y.png"))}
    chosen = list(ResultFolder(tmp_path / "none").choose(pictures).values())
    assert chosen == ["unnamed", "s/unnamed", "x.y"]


def test_a_folder_of_frames_without_a_name_is_written_inside(tmp_path, monkeypatch):
    from objecthood.inference.predict_video import plain_part

    assert [plain_part(name) for name in ("", ".", "..", "clip.d")] == ["unnamed"] * 3 + ["clip.d"]


def test_a_second_training_is_refused_before_it_writes(tmp_path):
    prepare_folder(tmp_path, SMALL, resume=False)  # before its first step: no metrics.jsonl yet
    before = (tmp_path / "recipe.json").read_bytes()
    with nobody_else(tmp_path):
        one_line(lambda: oh.train(dataclasses.replace(SMALL, seed=7), tmp_path), "is trained into by")
        one_line(lambda: oh.train(SMALL, tmp_path, resume=True), "is trained into by")
    assert (tmp_path / "recipe.json").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.json"]


def test_a_checkpoint_of_other_settings_or_beyond_the_end_is_refused(undrawn, tmp_path):
    run = tmp_path / "run"
    oh.train(SMALL, run, checkpoint_every=2)
    state = json.loads((run / "checkpoints" / "step_00000004" / "state.json").read_text())
    assert state["recipe_sha256"] == digest(SMALL.to_dict())
    (run / "result.json").unlink()
    for changes, words in (({"seed": 7}, "other settings"), ({"steps": 3}, "other settings")):
        other = dataclasses.replace(SMALL, **changes)
        files.write_json(run / "recipe.json", other.to_dict())
        one_line(lambda other=other: oh.train(other, run, resume=True), words)
    files.write_json(run / "recipe.json", SMALL.to_dict())
    assert oh.train(SMALL, run, resume=True)["recipe"] == "small"


def test_the_state_of_a_checkpoint_is_checked(tmp_path):
    good = {"step": 4, "wall_seconds": 1.0, "cpu_seconds": 2, "skipped_steps": 0}
    check_state(good, "a", 4, tmp_path)  # no hash: written by an earlier version
    one_line(lambda: check_state(good, "a", 3, tmp_path), "step 4", "`steps` (=3)")
    for name, value in (("wall_seconds", "1"), ("cpu_seconds", float("nan")), ("skipped_steps", -1)):
        one_line(lambda state=good | {name: value}: check_state(state, "a", 4, tmp_path), f"`{name}`")


def test_only_whole_checkpoints_count_as_kept(tmp_path, elsewhere):
    model, folder = nn.Linear(2, 2), tmp_path / "c"
    for step in (1, 2):
        save_checkpoint(folder, step, model, [], {})
    (folder / "step_00000009").write_text("a file")
    (folder / "step_00000008").symlink_to(elsewhere)
    (folder / "step_00000007").mkdir()
    save_checkpoint(folder, 3, model, [], {})
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"step_0000000{step}" for step in (2, 3, 7, 8, 9)], "of the whole ones two are kept"
    (folder / "step_00000003" / "state.json").write_text("{}")
    assert restore(folder, model, [], say=lambda line: None) == {"step": 2}
    save_checkpoint(folder, 9, model, [], {})  # the file in its place goes
    assert restore(folder, model, [], say=lambda line: None) == {"step": 9}
    save_checkpoint(folder, 10, model, [], {})
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["step_00000008", "step_00000009", "step_00000010"], "damaged older folders go, links stay"


def test_a_linked_checkpoint_is_not_read(tmp_path):
    save_checkpoint(tmp_path / "other", 5, nn.Linear(2, 2), [], {})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "step_00000005").symlink_to(tmp_path / "other" / "step_00000005")
    said = []
    assert restore(tmp_path / "c", nn.Linear(2, 2), [], say=said.append) is None
    assert len(said) == 1 and "symbolic link" in said[0]


START_UP = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):  # ignored below nohup
    signal.signal(number, signal.SIG_DFL)
import objecthood.cli.main as cli
def train(arguments):
    print("begun", flush=True)
    import torch
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
cli.COMMANDS["train"] = train
sys.exit(cli.main(["train"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_at_start_up_ends_with_a_line(name):
    command = [sys.executable, "-c", START_UP]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.Signals[name])
        said = process.communicate(timeout=60)[1]
    assert process.returncode == PREEMPTED and said.count("\n") == 1 and f"stopped by {name}" in said


def test_signals_are_as_before_after_a_command():
    from objecthood.cli.main import main

    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", "no-such-recipe"]) == 2
    assert signal.getsignal(signal.SIGTERM) == before

"""Weight files and run checkpoints: bit for bit, and nothing torn, flipped or foreign goes unnoticed."""

import hashlib
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import afresh
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import objecthood as oh
from objecthood.checkpoint import run as checkpoint
from objecthood.checkpoint.run import KEPT, read_description, restore, save_checkpoint
from objecthood.nn.muon import Muon

RECIPE = oh.RECIPES["tetrominoes"]
USUAL = {"scenes": 32, "quantiles": {"reconstruction error": {"0.5": 0.25, "0.95": 0.5}}}


def test_weights_come_back_bit_for_bit(tmp_path):
    model = RECIPE.build_model()
    path = oh.save(model, RECIPE, tmp_path / "w.safetensors", {"fg_ari": 0.5})
    again = oh.load(path)
    assert again.recipe == RECIPE and not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


SAVE_OFTEN = """
import sys, torch, objecthood as oh
torch.set_num_threads(1)  # the orthogonal start values of the GRU depend on it
torch.manual_seed(0)
recipe = oh.RECIPES["tetrominoes"]
model = recipe.build_model()
for number in range(6):
    oh.save(model, recipe, f"{sys.argv[1]}-{number}", {"fg_ari": 0.5}, {"ü": 1, "scenes": 20})
"""


def test_the_same_weights_are_the_same_file(tmp_path, monkeypatch, scoreboard):
    """In any process: safetensors lists the facts in an order that changes from one to the next."""
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "one")])
    exec(SAVE_OFTEN, {})
    afresh.run(SAVE_OFTEN, tmp_path.parent, {}, (str(tmp_path / "other"),))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 12 and len({file.read_bytes() for file in files}) == 1
    assert read_description(files[0])["calibration"] == {"ü": 1, "scenes": 20} and oh.load(files[0])
    scoreboard("The same again", "the same weights, saved by other processes: the same bytes", len(files))


def test_test_iterations_travel_with_the_weights(tmp_path):
    recipe = replace(RECIPE, test_iterations=9)
    model = oh.load(oh.save(recipe.build_model(), recipe, tmp_path / "w.safetensors"))
    assert model(torch.rand(1, 3, 35, 35)).attention.shape[1] == 9


def test_channels_last_weights_are_saved_as_they_are(tmp_path):
    model = RECIPE.build_model().to(memory_format=torch.channels_last)
    again = oh.load(oh.save(model, RECIPE, tmp_path / "w.safetensors"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_is_usual_travels_with_the_weights(tmp_path):
    model = RECIPE.build_model()
    told = oh.save(model, RECIPE, tmp_path / "told.safetensors", calibration=USUAL)
    assert read_description(told)["calibration"] == USUAL and oh.load(told).calibration == USUAL
    silent = oh.save(model, RECIPE, tmp_path / "silent.safetensors")
    assert read_description(silent)["calibration"] == {} and oh.load(silent).calibration == {}


def test_description_is_read_without_tensors(tmp_path, monkeypatch):
    path = oh.save(RECIPE.build_model(), RECIPE, tmp_path / "w.safetensors", {"fg_ari": 0.5})
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:header] + bytes(len(content) - header))  # every tensor wiped out
    monkeypatch.setattr(checkpoint, "load_file", None)
    description = read_description(path)
    assert description["recipe"] == RECIPE.to_dict() and description["scores"] == {"fg_ari": 0.5}
    assert description["version"] == oh.__version__ and "commit" in description


def wrong_files(folder):
    """Files that are not ours, each with what its error must say."""
    (folder / "text.safetensors").write_text("hello")
    (folder / "empty.safetensors").write_bytes(b"")
    save_file({"weight": torch.zeros(2)}, folder / "foreign.safetensors")
    save_file({"weight": torch.zeros(2)}, folder / "half.safetensors", {"format": "objecthood-weights-1"})
    whole = oh.save(RECIPE.build_model(), RECIPE, folder / "whole.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "header.safetensors").write_bytes(whole[:100])
    (folder / "folder.safetensors").mkdir()
    wrong = dict.fromkeys(("text", "empty", "foreign", "half", "cut", "header"), "is not a weight file")
    return wrong | {"folder": "no weight file at|is not a run folder", "missing": "no weight file at"}


def test_wrong_files_are_told_in_one_line(tmp_path):
    for name, message in wrong_files(tmp_path).items():
        for read in (oh.load, read_description):
            with pytest.raises(ValueError, match=message) as caught:
                read(tmp_path / f"{name}.safetensors")
            assert "\n" not in str(caught.value) and f"{name}.safetensors" in str(caught.value)


def test_a_named_recipe_does_not_make_wrong_files_right(tmp_path):
    for name in wrong_files(tmp_path):
        with pytest.raises(ValueError) as caught:
            oh.load(tmp_path / f"{name}.safetensors", RECIPE)
        assert "\n" not in str(caught.value)


def test_weights_of_another_recipe_are_refused(tmp_path):
    path = oh.save(RECIPE.build_model(), RECIPE, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="does not fit recipe 'sprites'") as caught:
        oh.load(path, oh.RECIPES["sprites"])
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = oh.save(RECIPE.build_model(), RECIPE, tmp_path / "w.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint, "sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        oh.save(RECIPE.build_model(), RECIPE, path)
    assert path.read_bytes() == before


def trained(steps: int = 3, width: int = 16):
    """A small model and optimizers that have taken a few steps."""
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width))
    optimizers = [torch.optim.Adam([model[0].weight, model[0].bias, model[2].bias]), Muon([model[2].weight])]
    for _ in range(steps):
        model(torch.randn(5, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizers


def states(model, optimizers) -> dict[str, torch.Tensor]:
    """Every tensor of a training."""
    found = dict(model.state_dict())
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"{number}.{index}.{name}": tensor for name, tensor in state.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_checkpoint_restores_everything(tmp_path):
    training = trained()
    save_checkpoint(tmp_path / "c", 7, *training, {"wall_seconds": 1.5})
    fresh = trained(steps=0)
    assert restore(tmp_path / "c", *fresh) == {"step": 7, "wall_seconds": 1.5}
    assert_same(states(*training), states(*fresh))
    for optimizer, other in zip(training[1], fresh[1], strict=True):
        assert optimizer.state_dict()["param_groups"] == other.state_dict()["param_groups"]


def test_there_may_be_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "nowhere", *trained(0)) is None


def test_the_newest_stay(tmp_path):
    training = trained()
    for step in (9, 10, 99, 100, 1000):
        save_checkpoint(tmp_path, step, *training, {})
    assert len(list(tmp_path.iterdir())) == KEPT
    assert restore(tmp_path, *training)["step"] == 1000


def test_the_same_step_may_be_saved_again(tmp_path):
    save_checkpoint(tmp_path, 5, *trained(), {})
    training = trained()
    save_checkpoint(tmp_path, 5, *training, {})
    fresh = trained(0)
    restore(tmp_path, *fresh)
    assert_same(states(*training), states(*fresh))


FILES = ("model.safetensors", "optimizers.safetensors", "state.json", "manifest.json")


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints 1 and 2, what is in the first, and a pristine copy of the second."""
    first = trained(1)
    save_checkpoint(tmp_path / "c", 1, *first, {})
    second = trained(2)
    newest = save_checkpoint(tmp_path / "c", 2, *second, {})
    shutil.copytree(newest, tmp_path / "pristine")
    return tmp_path / "c", states(*first), newest, tmp_path / "pristine"


def check_older_is_used(folder, older) -> None:
    said = []
    fresh = trained(0)
    assert restore(folder, *fresh, say=said.append) == {"step": 1}
    assert_same(states(*fresh), older)
    assert len(said) == 1 and said[0].startswith(f"skipped checkpoint {folder}") and "\n" not in said[0]


@pytest.mark.parametrize("name", FILES)
def test_a_torn_file_is_noticed_and_the_older_checkpoint_used(two, name, scoreboard):
    folder, older, newest, pristine = two
    content = (pristine / name).read_bytes()
    lengths = {0, 1, 7, 8, 9, *range(0, len(content), max(1, len(content) // 30)), len(content) - 1}
    for length in sorted(lengths):
        (newest / name).write_bytes(content[:length])
        check_older_is_used(folder, older)
    (newest / name).unlink()
    check_older_is_used(folder, older)
    scoreboard("Checkpoints", "cut short anywhere: noticed, the one before used and said", len(lengths) + 1)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_and_the_older_checkpoint_used(two, name, scoreboard):
    folder, older, newest, pristine = two
    content = (pristine / name).read_bytes()
    random = torch.Generator().manual_seed(0)
    for place in torch.randint(len(content) * 8, (125,), generator=random).tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        (newest / name).write_bytes(damaged)
        check_older_is_used(folder, older)
    scoreboard("Checkpoints", "one flipped bit anywhere: noticed, the one before used and said", 125)


def test_without_a_whole_checkpoint_none_is_used(two):
    folder, *_ = two
    for checkpoint_folder in folder.iterdir():
        (checkpoint_folder / "model.safetensors").write_bytes(b"")
    said = []
    assert restore(folder, *trained(0), say=said.append) is None
    assert len(said) == 2


def test_a_checkpoint_in_the_making_is_not_looked_at(two):
    folder, _, newest, _ = two
    newest.rename(folder / ".tmp-of-a-crashed-run")
    said = []
    assert restore(folder, *trained(0), say=said.append) == {"step": 1} and not said


def test_a_failed_save_leaves_no_trace(two, monkeypatch):
    folder, _, newest, _ = two
    monkeypatch.setattr(checkpoint, "sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(folder, 3, *trained(), {})
    assert sorted(file.name for file in folder.iterdir()) == ["step_00000001", newest.name]


def test_another_architecture_is_refused(tmp_path):
    save_checkpoint(tmp_path, 1, *trained(), {})
    with pytest.raises(
        ValueError, match=r"another architecture: 0.bias is \[16\], expected \[20\]"
    ) as caught:
        restore(tmp_path, *trained(0, width=20))
    assert "\n" not in str(caught.value)


@pytest.fixture
def on_disk(monkeypatch):
    """What is written to disk for good and what is given another name, in order; paths as they were then."""
    done: list[tuple[str, Path]] = []
    plain = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

    def fsync(descriptor):
        done.append(("synced", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        plain["fsync"](descriptor)

    def named(how):
        def name(old, new):
            done.append(("named", Path(new)))
            plain[how](old, new)

        return name

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", named("rename"))
    monkeypatch.setattr(os, "replace", named("replace"))
    return done


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="reads Linux's /proc")


@needs_proc
def test_all_is_on_disk_before_a_checkpoint_has_its_name(tmp_path, on_disk):
    """A power cut may come at any moment: files first, the manifest, their folder; the name; its folder."""
    training, descriptors = trained(), len(os.listdir("/proc/self/fd"))
    for _ in range(2):  # the second time the name is taken
        on_disk.clear()
        final = save_checkpoint(tmp_path, 7, *training, {})
        (staged,) = {path.parent for how, path in on_disk if path.name == "manifest.json"}
        assert staged.name.startswith(".tmp-") and not staged.exists()
        *first, manifest, folder, named, parent = [step for step in on_disk if "-before" not in step[1].name]
        assert sorted(first) == [
            ("synced", staged / name) for name in sorted(FILES) if name != "manifest.json"
        ]
        assert [manifest, folder] == [("synced", staged / "manifest.json"), ("synced", staged)]
        assert [named, parent] == [("named", final), ("synced", tmp_path)]
    assert len(os.listdir("/proc/self/fd")) == descriptors, "files are left open"


@needs_proc
def test_weights_are_on_disk_before_they_have_their_name(tmp_path, on_disk):
    path = oh.save(RECIPE.build_model(), RECIPE, tmp_path / "w.safetensors")
    (first, staged), *rest = on_disk
    assert first == "synced" and staged.parent == tmp_path and staged != path
    assert rest == [("named", path), ("synced", tmp_path)]


def test_what_a_crash_left_is_cleared_away(two):
    folder, *_ = two
    (folder / ".tmp-of-a-crashed-run").mkdir()
    save_checkpoint(folder, 3, *trained(), {})
    assert sorted(file.name for file in folder.iterdir()) == ["step_00000002", "step_00000003"]


def test_a_checkpoint_of_a_crash_in_the_middle_of_a_save_is_found(two):
    """Between its two renames, the checkpoint that is replaced has another name."""
    folder, _, newest, _ = two
    newest.rename(folder / f"{newest.name}-before")
    assert restore(folder, *trained(0))["step"] == 2
    save_checkpoint(folder, 2, *trained(), {})
    save_checkpoint(folder, 3, *trained(), {})
    assert len(list(folder.iterdir())) == KEPT


def test_a_checkpoint_of_a_crash_at_the_end_of_a_save_is_replaced(two):
    """After its two renames, and before the replaced one is gone."""
    folder, _, newest, pristine = two
    shutil.copytree(pristine, folder / f"{newest.name}-before")
    training = trained(4)
    save_checkpoint(folder, 2, *training, {})
    fresh = trained(0)
    assert restore(folder, *fresh)["step"] == 2
    assert_same(states(*training), states(*fresh))
    assert sorted(file.name for file in folder.iterdir()) == ["step_00000001", "step_00000002"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("state.json", content) for content in (b"[]", b"{}", b'{"step": "1"}')),
        *((f"{name}.safetensors", b"x") for name in ("model", "optimizers")),
    ],
)
def test_a_whole_checkpoint_of_something_else_is_refused(two, name, content):
    folder, _, newest, _ = two
    (newest / name).write_bytes(content)
    sums = json.loads((newest / "manifest.json").read_text()) | {name: hashlib.sha256(content).hexdigest()}
    (newest / "manifest.json").write_text(json.dumps(sums))
    with pytest.raises(ValueError, match="step_00000002 is not of this run") as caught:
        restore(folder, *trained(0))
    assert "\n" not in str(caught.value)
    if content == b'{"step": "1"}':
        assert str(caught.value).endswith("step_00000002 is not of this run (its step is '1')")


def test_optimisers_of_something_else_are_refused(tmp_path):
    model, optimizers = trained()
    save_checkpoint(tmp_path, 1, model, optimizers, {})
    with pytest.raises(ValueError, match="is not of this run"):
        restore(tmp_path, model, optimizers[:1])


def test_a_pipe_is_no_file_of_a_checkpoint(two):
    folder, older, newest, _ = two
    (newest / "state.json").unlink()
    os.mkfifo(newest / "state.json")
    check_older_is_used(folder, older)


def test_a_checkpoint_is_plain_tensors_and_json(tmp_path):
    newest = save_checkpoint(tmp_path, 1, *trained(), {"wall_seconds": 1.0})
    assert sorted(file.name for file in newest.iterdir()) == sorted(FILES)
    assert json.loads((newest / "state.json").read_text()) == {"step": 1, "wall_seconds": 1.0}

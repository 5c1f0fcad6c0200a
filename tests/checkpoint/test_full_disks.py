"""Disks that are full, cannot be written to, or go away: nothing saved is lost, and one line says so."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from dying import begin, ended, fork_is_fine, needs_fork
from torch import nn

import objecthood as oh
from objecthood.checkpoint import run as checkpoint
from objecthood.checkpoint.run import NotSaved, check_space, restore, save_checkpoint
from objecthood.cli.main import main
from objecthood.runtime.signals import nobody_else

AREA = "Disks and folders"
TRAIN = ["train", "tetrominoes", "--steps", "3", "--validation-scenes", "2", "--test-scenes", "2"]
pytestmark = [fork_is_fine, needs_fork]


def small_training(steps: int):
    """A model and an optimiser, the same for the same number of steps."""
    torch.manual_seed(0)
    model = nn.Linear(60, 50)
    optimizers = [torch.optim.Adam(model.parameters())]
    for _ in range(steps):
        model(torch.randn(3, 60)).square().sum().backward()
        optimizers[0].step()
    return model, optimizers


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, *small_training(step), {})


def check_last(folder: Path, step: int) -> None:
    """The newest whole checkpoint is that of a step, and nothing half written lies beside it."""
    model, optimizers = small_training(0)
    assert restore(folder, model, optimizers) == {"step": step}
    assert torch.equal(model.weight, small_training(step)[0].weight)
    assert not list(folder.glob(".tmp-*"))


def limit_files(size: int) -> None:
    """No file of this process may be larger: what comes is the error of a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_no_room_at_any_point_of_a_save(tmp_path, scoreboard):
    sizes = [0, 1, 7, 8, 100, 1000, *range(2000, 14_000, 1000), 24_000]
    save(tmp_path, 1)

    def work(size):
        limit_files(size)
        with pytest.raises(
            NotSaved, match=r"step 2 could not be .* MB needed, .* free\); step_00000001 is intact"
        ):
            save(tmp_path, 2)

    for size in sizes:
        assert ended(begin(lambda size=size: work(size))) == 0, size
        check_last(tmp_path, 1)
    scoreboard(AREA, "file too large at some point of a save: one line with path, need and free", len(sizes))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which needs root")
@pytest.mark.long
def test_a_disk_that_fills_up(tmp_path, scoreboard):
    disk, full = tmp_path / "disk", 0
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        save(disk / "c", 1)
        for filled in range(0, 256, 8):
            (disk / "ballast").write_bytes(b"")
            free = shutil.disk_usage(disk).free
            (disk / "ballast").write_bytes(bytes(max(0, free - filled * 512)))
            try:
                save(disk / "c", 2)
            except NotSaved as error:
                assert "No space left on device" in str(error) and "\n" not in str(error)
                full += 1
                check_last(disk / "c", 1)
            else:
                check_last(disk / "c", 2)
                shutil.rmtree(disk / "c" / "step_00000002")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert full > 10
    scoreboard(AREA, "a disk that is really full (tmpfs): one line, the checkpoint before it whole", full)


def test_too_little_room_is_told_before_the_first_step(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'run'} has no space for checkpoints: 8.2 MB needed, 1.0 MB free" in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    check_space(tmp_path, nn.Linear(2, 2))


def test_a_folder_that_goes_away(tmp_path, monkeypatch, capsys):
    """Removed while the run goes on."""
    plain, run = oh.recipes.FastTetrominoes.loss, tmp_path / "run"

    def loss(self, model, scenes, step):
        if step == 2:
            shutil.rmtree(run)
        return plain(self, model, scenes, step)

    monkeypatch.setattr(oh.recipes.FastTetrominoes, "loss", loss)
    assert main([*TRAIN, "--out", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.jsonl: No such file or directory" in line


def refusing(name: str, error: OSError):
    """`checkpoint`'s own name for a function, replaced by one that fails."""

    def fail(*arguments, **settings):
        raise error

    return name, fail


@pytest.mark.parametrize("error", [OSError(30, "Read-only file system"), OSError(122, "Disk quota exceeded")])
@pytest.mark.parametrize("name", ["save_file", "sync", "_publish"])
def test_a_place_that_cannot_be_written_to(tmp_path, monkeypatch, error, name, scoreboard):
    save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, *refusing(name, error))
        with pytest.raises(NotSaved, match=f"{error.strerror}; .*step_00000001 is intact") as caught:
            save(tmp_path, 2)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    check_last(tmp_path, 1)
    scoreboard(AREA, "read-only, or beyond the quota: one line, the checkpoint before it whole", 1)


def test_the_first_checkpoint_fails_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotSaved, match=r"file/checkpoints \(Not a directory\); there is none yet"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_weights_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    recipe = oh.RECIPES["tetrominoes"]
    monkeypatch.setattr(checkpoint, *refusing("sync", OSError(28, "No space left on device")))
    with pytest.raises(NotSaved, match="w.safetensors .No space left on device; .* or use another folder"):
        oh.save(recipe.build_model(), recipe, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_share_a_folder(tmp_path, scoreboard):
    """In the same process and in another; the one that holds it is named; when it ends, so does its hold."""
    with nobody_else(tmp_path):
        with pytest.raises(ValueError, match=f"by process {os.getpid()}; wait"), nobody_else(tmp_path):
            pass
        code = (
            f"from objecthood.runtime.signals import nobody_else\nwith nobody_else({str(tmp_path)!r}): pass"
        )
        environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert f"process {os.getpid()}" in done.stderr
    with nobody_else(tmp_path):
        pass
    scoreboard(AREA, "a second run in the same folder: refused, the first one's process named", 2)


def test_where_folders_cannot_be_locked_nothing_is(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(fcntl, *refusing("flock", OSError(37, "No locks available")))
    with nobody_else(tmp_path):
        pass
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with nobody_else(tmp_path):
        pass


def test_who_holds_a_folder_may_not_be_known(tmp_path, monkeypatch):
    with nobody_else(tmp_path):
        monkeypatch.setattr(Path, "read_text", refusing("", OSError(2, "No such file"))[1])
        with pytest.raises(ValueError, match="trained into by another process"), nobody_else(tmp_path):
            pass


def test_clocks_do_not_choose_a_checkpoint(tmp_path, scoreboard):
    """The newest is the one of the highest step, whatever the times of the files say."""
    save(tmp_path, 9), save(tmp_path, 10)
    found = Counter()
    for seconds in (0, 1e9, 4e9):
        for file in [*(tmp_path / "step_00000010").iterdir(), tmp_path / "step_00000010"]:
            os.utime(file, (seconds, seconds))
        found[restore(tmp_path, *small_training(0))["step"]] += 1
    scoreboard(AREA, "clock set back or forward: the right checkpoint chosen", 3, found[10])

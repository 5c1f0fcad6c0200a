"""Places that cannot be written to: one line with the place, before the work, and nothing half written."""

import importlib
import os
import subprocess
from pathlib import Path

import pytest

from objecthood.cli.main import main
from objecthood.data.clevr_render import clevr_like
from objecthood.runtime.files import replacing, staged, write_named

COMMANDS = {
    "train": ["train", "tetrominoes", "--steps", "1", "--out", "{}/run"],
    "predict": ["predict", "--weights", "tetrominoes", "--out", "{}/out"],
    "evaluate --json": ["evaluate", "tetrominoes", "--num-scenes", "2", "--json", "{}/scores.json"],
    "evaluate --csv": ["evaluate", "tetrominoes", "--num-scenes", "2", "--csv", "{}/scores.csv"],
    "evaluate --figure": ["evaluate", "tetrominoes", "--diagnose", "--figure", "{}/worst.png"],
    "export": ["export", "tetrominoes", "--out", "{}/graph.onnx"],
    "export --parts": ["export", "tetrominoes", "--parts", "--out", "{}/parts"],
    "demo --site": ["demo", "tetrominoes", "--site", "{}/site", "--runtime", "{}/../runtime"],
    "benchmark": ["benchmark", "--resolutions", "35", "--out", "{}/costs.json"],
}
KINDS = {"read-only": ",ro", "full": "", "under a file": ""}


@pytest.fixture
def place(request, tmp_path):
    """A folder on a disk that is read-only or full, or a file where a folder is wanted."""
    where = tmp_path / "place"
    if request.param == "under a file":
        where.write_text("text")
        yield where
        return
    where.mkdir()
    options = "size=64k" + KINDS[request.param]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounts a small disk, which needs root")
    try:
        if request.param == "full":
            (where / "ballast").write_bytes(bytes(os.statvfs(where).f_bavail * os.statvfs(where).f_bsize))
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_takes_no_file(name, place, tmp_path, monkeypatch, capsys, scoreboard):
    for module in ("train", "analysis.floors", "export"):  # hold workers under names of their own
        importlib.import_module(f"objecthood.{module}")
    for module, worker in (
        ("evaluate", "evaluate"),
        ("export.export", "whole_graph"),
        ("export.export", "part_graphs"),
        ("benchmarks.run", "benchmark"),
    ):
        early = lambda *rest, **more: pytest.fail("worked before it looked")  # noqa: E731
        monkeypatch.setattr(importlib.import_module(f"objecthood.{module}"), worker, early)
    (tmp_path / "runtime").mkdir()
    for file in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / "runtime" / file).touch()
    before = sorted(place.rglob("*")) if place.is_dir() else []
    words = [word.replace("{}/../", f"{tmp_path}/").replace("{}", str(place)) for word in COMMANDS[name]]
    assert main(words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and str(place) in lines[0], lines
    if place.is_dir():
        left = [file for file in place.rglob("*") if file.is_file() and file not in before]
        assert not left
    scoreboard(
        "Disks and folders", "an output place that takes no file: one line with its name, before work", 1
    )


def test_what_fails_while_it_is_written_names_the_file(tmp_path):
    for write in (replacing, staged):
        with pytest.raises(OSError) as told, write(tmp_path / "x.txt"):
            raise OSError(28, "No space left on device")
        assert told.value.filename == str(tmp_path / "x.txt") and not list(tmp_path.iterdir())


def test_a_named_file_is_written_whole_and_through_links(tmp_path, monkeypatch):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    write_named(str(link), "after")
    assert link.is_symlink() and target.read_text() == "after"
    monkeypatch.setattr(Path, "write_text", lambda *rest: pytest.fail("not whole at any moment"))
    write_named(str(target), "later")
    assert target.read_text() == "later"
    monkeypatch.undo()
    write_named("/dev/null", "into a device")


def test_shards_of_a_full_disk_leave_nothing(tmp_path, monkeypatch):
    def full(*rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="00000.npz"):
        clevr_like._write(tmp_path / "00000.npz", b"scenes")
    assert not list(tmp_path.iterdir())

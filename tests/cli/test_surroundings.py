"""Odd surroundings: no home, no folder for temporary files, no working directory, nobody who reads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import objecthood as oh

COMMANDS = {
    "doctor": ["doctor"],
    "list": ["list", "recipes"],
    "predict": ["predict", "image.png", "--weights", "tetrominoes", "--out", "out"],
    "train": ["train", "tetrominoes", "--steps", "2", "--validation-scenes", "2", "--test-scenes", "2"],
    "evaluate": ["evaluate", "tetrominoes", "--num-scenes", "2"],
    "export": ["export", "tetrominoes", "--out", "graph.onnx"],
}


def others_long(names, short):
    """All of `names`, of which only `short` run in `make test`: what they meet is the same for all."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.long) for name in names]


def ran(folder: Path, name: str, shell: str = "exec", drop=(), **changes: str) -> tuple[int, str, list[str]]:
    """Exit code, stdout and lines of stderr of a command, which begins a line of `shell`."""
    Image.new("RGB", (40, 30), "navy").save(folder / "image.png")
    environment = {key: value for key, value in os.environ.items() if key not in drop} | changes
    environment |= {"PYTHONPATH": str(Path(oh.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    line = shell if "{}" in shell else shell + " {}"
    words = " ".join([f"'{sys.executable}' -m objecthood", *COMMANDS[name]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("{}", words)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("name", others_long(COMMANDS, ["predict"]))
def test_without_home_and_odd_folders(name, tmp_path):
    (tmp_path / "file").touch()
    odd = str(tmp_path / "file")
    code, said, told = ran(tmp_path, name, drop=["HOME"], TMPDIR=odd, XDG_CACHE_HOME=odd, LC_ALL="C")
    assert code == 0 and said and not [line for line in told if line.startswith(("error", "Trace"))], told


@pytest.mark.parametrize("name", others_long(COMMANDS, ["doctor"]))
def test_a_working_directory_that_was_removed(name, tmp_path):
    code, said, told = ran(tmp_path, name, "mkdir gone; cd gone; rmdir ../gone; exec {}")
    assert code == 1 and not said
    assert told[-1] == "error: the working directory was removed; change into another"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("list", 0), pytest.param("doctor", 0, marks=pytest.mark.long), ("predict", 1)],
)
def test_nobody_reads_what_is_printed(name, wanted, tmp_path):
    """A short answer that is cut off is no failure; work that is not finished is one, with a line."""
    code, _, told = ran(tmp_path, name, "{} | true")
    assert code == wanted and len(told) == (1 if wanted else 0), told
    assert not wanted or told[0].startswith("error: nobody reads the output any more; type the command again")


@pytest.mark.parametrize("closed", others_long([">&-", "2>&-", ">&- 2>&- <&-"], [">&- 2>&- <&-"]))
def test_closed_streams(closed, tmp_path):
    assert ran(tmp_path, "predict", "{} " + closed)[0] == 0
    assert (tmp_path / "out" / "image-masks.json").exists()

"""10,000 images: flat memory, progress with the time left, every result there, names in a moment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import objecthood as oh
from objecthood.data.folder import Folder
from objecthood.data.io import cache
from objecthood.data.io.user_images import find_inputs
from objecthood.inference.result_folder import ResultFolder


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for number in range(count):
        pixels = numbers.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
    return folder


START = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, code, used = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(code)
print(used.ru_maxrss)
sys.exit(process.returncode)
"""
"""Runs a command and prints the kB it used at most. A process inherits the peak of the one that starts it, so
a small one must, not pytest."""


def predicted(folder: Path, out: Path) -> tuple[float, str]:
    """Megabytes at most, and what was printed."""
    words = [
        sys.executable,
        "-m",
        "objecthood",
        "predict",
        str(folder),
        "--weights",
        "tetrominoes",
        "--out",
        str(out),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START, *words]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout) / 1024, ended.stderr


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's memory of a process")
def test_predict_takes_no_more_memory_for_ten_times_as_many(tmp_path, scoreboard):
    few, _ = predicted(images(tmp_path / "few", 1000), tmp_path / "few-out")
    many, said = predicted(images(tmp_path / "many", 10_000), tmp_path / "many-out")
    assert many < few + 40, (few, many)
    assert "s left" in said and "10000 of 10000 images" in said
    names = json.loads((tmp_path / "many-out" / "predictions.json").read_text())["names"]
    assert len(names) == 10_000
    for name in names:
        for ending in ("-overlay.png", "-masks.png", "-masks.json"):
            assert (tmp_path / "many-out" / f"{name}{ending}").stat().st_size
    measured = f"{few:.0f} MB at most for 1,000 images, {many:.0f} MB for 10,000"
    scoreboard(
        "Disks and folders", "10,000 images: memory flat, every result there", 10_000, measured=measured
    )


@pytest.mark.timed
def test_names_of_many_images_of_one_stem(tmp_path, scoreboard):
    """The time grows with the number of images, not with its square; a second call gives the same names."""

    def chosen(count: int) -> tuple[float, dict[Path, str]]:
        found = {tmp_path / str(n) / "image.png": Path("image.png") for n in range(count)}
        folder, start = ResultFolder(tmp_path / f"out-{count}"), time.perf_counter()
        folder.open()
        names = folder.choose(found)
        folder.close()
        seconds = time.perf_counter() - start
        again = ResultFolder(tmp_path / f"out-{count}")
        assert again.choose(dict(reversed(found.items()))) == names
        return seconds, names

    few, _ = chosen(500)
    many, names = chosen(5000)
    assert len(set(names.values())) == 5000 and many < 40 * few, (few, many)
    scoreboard("Disks and folders", "names of 5,000 images of one stem: in linear time", 5000)


def test_images_beyond_the_cache_are_not_kept(tmp_path, monkeypatch):
    folder = images(tmp_path / "in", 200)
    monkeypatch.setattr(cache, "CACHE_BYTES", 10 * 3 * 16 * 16)
    scenes = Folder(folder, 16)
    assert len(scenes) > 150 and len(scenes._cache._scenes) == 10
    assert len(find_inputs([str(folder)])) == 200

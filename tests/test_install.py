"""The wheel: the same bytes when it is built again, and with nothing but what it says it needs, every command
works or names the extra it lacks.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
AREA = "The package"
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.name != "posix", reason="links files"),
]


def build(folder: Path) -> Path:
    """A wheel of a copy of the sources, which gets a time of its own."""
    shutil.copytree(ROOT / "objecthood", folder / "source" / "objecthood")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": folder.name}
    subprocess.run(
        [*command, "--wheel-dir", folder, folder / "source"], check=True, env=environment, cwd=folder
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("builds") / "1")


def test_the_wheel_is_the_same_when_built_again(wheel, scoreboard):
    other = build(wheel.parents[1] / "2")
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    names = zipfile.ZipFile(wheel).namelist()
    written = {str(file.relative_to(ROOT)) for file in (ROOT / "objecthood").rglob("*.*") if file.is_file()}
    written = {name for name in written if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == written
    scoreboard(AREA, "the wheel built twice, elsewhere and later: the same SHA-256", 2)


def needed(name: str, found: dict[str, Distribution]) -> None:
    """Gather a distribution and all that it needs, extras left away."""
    try:
        one = distribution(name)
    except PackageNotFoundError:
        assert name != "objecthood"
        return  # what another platform needs
    if one.name in found:
        return
    found[one.name] = one
    for text in one.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed(requirement.name, found)


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """A folder with the wheel, and links to what it needs: as after `pip install objecthood`."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site, [n for n in zipfile.ZipFile(wheel).namelist() if ".." not in n])
    metadata = next(site.glob("*.dist-info/METADATA")).read_text()
    found: dict[str, Distribution] = {}
    for text in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE):
        if "extra ==" not in text:
            needed(Requirement(text).name, found)
    for one in found.values():
        for place in {Path(file).parts[0] for file in one.files or () if not str(file).startswith("..")}:
            if not (site / place).exists():
                (site / place).symlink_to(one.locate_file(place))
    return site


EXTRAS = {
    ("export", "sprites", "--format", "onnx", "--out", "m.onnx"): "export",
    ("demo", "sprites", "--no-browser"): "demo",
    ("predict", "clip.mp4", "--weights", "sprites", "--out", "o"): "video",
    ("predict", "camera", "--weights", "sprites", "--out", "camera"): "video",
    ("data", "render", "clevr", "--out", "d"): "render",
}
WORK = [
    ("--help",),
    ("--version",),
    ("list",),
    ("list", "weights"),
    ("show", "sprites"),
    ("doctor",),
    ("predict", "--weights", "sprites", "--out", "seen"),
    (
        "train",
        "tetrominoes",
        "--steps",
        "2",
        "--validation-scenes",
        "2",
        "--test-scenes",
        "2",
        "--out",
        "run",
    ),
    ("evaluate", "run", "--num-scenes", "2"),
    *((name, "--help") for name in ("train", "predict", "data", "export", "demo", "benchmark", "evaluate")),
]


def test_every_command_works_or_names_its_extra(bare, tmp_path, scoreboard):
    (tmp_path / "clip.mp4").write_bytes(b"no video, which nobody looks at")

    def say(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-S", "-s", "-m", "objecthood", *words]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bare), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stderr

    for words in WORK:
        code, complaints = say(*words)
        assert code == 0, (words, complaints)
    for words, extra in EXTRAS.items():
        code, complaints = say(*words)
        assert code == 1 and f"pip install 'objecthood[{extra}]'" in complaints, (words, complaints)
        assert len(complaints.splitlines()) == 1
    scoreboard(AREA, "commands with nothing but what the wheel needs: they work, or name their extra",
               len(WORK) + len(EXTRAS))  # fmt: skip

"""The wheel: the same bytes when it is built again, and with nothing but what it says it needs, every command
works or names the extra it lacks.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

AREA = "The package"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="links files")


def slow(test):
    """Builds a package."""
    return pytest.mark.long(pytest.mark.timeout(600)(test))


def build(folder: Path) -> Path:
    """A wheel of a copy of the sources, which gets a time of its own."""
    shutil.copytree(ROOT / "objecthood", folder / "source" / "objecthood")
    shutil.copytree(ROOT / "build_backend", folder / "source" / "build_backend")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environment = os.environ | {"PYTHONHASHSEED": folder.name}
    environment.pop("SOURCE_DATE_EPOCH", None)
    subprocess.run(
        [*command, "--wheel-dir", folder, folder / "source"], check=True, env=environment, cwd=folder
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("builds") / "1")


@slow
def test_the_wheel_is_the_same_when_built_again(wheel, scoreboard):
    other = build(wheel.parents[1] / "2")
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.rpartition("/")[2] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
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
    ("predict", "photo.heic", "--weights", "sprites", "--out", "o"): "heic",
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


@slow
def test_every_command_works_or_names_its_extra(bare, tmp_path, scoreboard):
    (tmp_path / "clip.mp4").write_bytes(b"no video, which nobody looks at")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")

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


PRIVATE = {".ci", ".gitignore"}
"""What a checkout holds and no archive of the sources needs."""


@slow
def test_the_archive_of_sources_is_whole(tmp_path):
    """It holds what the repository holds, and a wheel built from it is that of a checkout."""
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no checkout")
    source = tmp_path / "source"
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    code = "import reproducible, sys; print(reproducible.build_sdist(sys.argv[1]))"
    path = os.environ | {"PYTHONPATH": str(source / "build_backend")}
    built = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=source, env=path, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {member.name.partition("/")[2] for member in content.getmembers() if member.isfile()}
    missing = set(tracked.stdout.splitlines()) - names
    assert {name for name in missing if name.split("/")[0] not in PRIVATE} == set()


def needed_by_development() -> dict[str, Distribution]:
    """All that `pip install '.[dev]'` brings, by normalised name, on this machine; extras of extras too."""
    found: dict[str, Distribution] = {}

    def visit(name: str, extras: set[str]) -> None:
        try:
            one = distribution(name)
        except PackageNotFoundError:
            return  # what another platform needs
        if not extras and canonicalize_name(one.name) in found:
            return
        found[canonicalize_name(one.name)] = one
        for requirement in map(Requirement, one.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                visit(requirement.name, set(requirement.extras))

    visit("objecthood", {"dev"})
    return found


CUDA = re.compile("nvidia-|cuda-|triton")
"""Belong to the build of PyTorch."""


def test_the_lock_names_all_that_is_installed():
    lines = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"
    ]
    locked = {line.name: line for line in lines if line.marker is None or line.marker.evaluate()}
    assert len({(line.name, str(line.marker)) for line in lines}) == len(lines)
    found = needed_by_development()
    missing = {name for name in found if name not in locked and not CUDA.match(name)} - {"objecthood"}
    assert not missing and len(found) > 20, f"add to constraints.txt: {missing}"


def test_every_bundled_file_has_a_licence():
    """NOTICE names the folder of each file that is no code of the package."""
    told = (ROOT / "NOTICE").read_text()
    code = (".py", ".pyc", ".typed")
    for file in (ROOT / "objecthood").rglob("*"):
        if file.is_file() and file.suffix not in code:
            name = file.relative_to(ROOT)
            parents = [f"{parent.as_posix()}/" for parent in list(name.parents)[:-2]]
            assert any(parent in told for parent in parents), f"{name} is not in NOTICE"

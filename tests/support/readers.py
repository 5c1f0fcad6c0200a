"""Every way in which the package reads a file that may be a stranger's, tried in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peak import peak

import objecthood as oh
from objecthood.checkpoint import run as checkpoint
from objecthood.checkpoint.header import read_description
from objecthood.checkpoint.reference import load_reference
from objecthood.cli.lookup import read_json
from objecthood.cli.main import main
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.folder import Folder
from objecthood.data.io import rle
from objecthood.data.io.archives import read_arrays
from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import read_image
from objecthood.data.io.video_file import VideoFile
from objecthood.data.published.coco import Coco
from objecthood.data.published.davis import Davis2016
from objecthood.data.published.multi_object import read as read_scenes
from objecthood.data.published.multi_object_packed import FORMAT, Packed

LARGE = 10_000_000
"""Bytes above which readers of JSON are left out: they have no limit, for COCO's own file has 450 million."""


def command(*words: object) -> None:
    """The command, which must say in one line why it cannot."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(word) for word in words])
    if code == 0:
        return
    assert code in (1, 2) and len(told.getvalue().splitlines()) == 1, (code, told.getvalue()[-300:])
    raise ValueError(told.getvalue())


def restore(path: Path) -> None:
    """As each file of a checkpoint in turn, with a manifest that fits."""
    model = torch.nn.Linear(2, 2)
    optimizers = [torch.optim.Adam(model.parameters())]
    folder, names = path.parent / "work", ("model.safetensors", "optimizers.safetensors", "state.json")
    newest = checkpoint.save_checkpoint(folder, 1, model, optimizers, {})
    honest = {name: (newest / name).read_bytes() for name in names}
    foreign = path.read_bytes()
    for name in names:
        files = honest | {name: foreign}
        for file, content in files.items():
            (newest / file).write_bytes(content)
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        (newest / "manifest.json").write_text(json.dumps(sums))
        with contextlib.suppress(ValueError):
            checkpoint.restore(folder, model, optimizers)
            raise AssertionError(f"restored with a foreign {name}")
    (newest / "manifest.json").write_bytes(foreign)
    if checkpoint.restore(folder, model, optimizers, say=lambda line: None) is None:
        raise ValueError("skipped")


def placed(path: Path, *places: str) -> Path:
    """A folder in which the file lies under other names."""
    for place in places:
        target = path.parent / "work" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return path.parent / "work"


def packed(path: Path) -> None:
    names = ("images", "masks", "num_objects")
    work = placed(path, *(f"{name}.npy" for name in names))
    manifest = {"format": FORMAT, "num_scenes": 1, "variant": "tetrominoes", "crop": False}
    (work / "manifest.json").write_text(json.dumps(manifest | {"resolution": None}))
    Packed(work, "train")


def shard(path: Path) -> None:
    work = placed(path, "test/0.npz")
    manifest = {"format": "clevr-like 1", "shards": {"0.npz": ""}, "objects": [3, 6]}
    (work / "test" / "manifest.json").write_text(json.dumps(manifest))
    ClevrLike(work, "test")


def run_folder(path: Path) -> None:
    command("train", "--resume", placed(path, "recipe.json", "metrics.jsonl"))


READERS: dict[str, Callable[[Path], object]] = {
    "weights": oh.load,
    "weights of a recipe": lambda path: oh.load(path, oh.RECIPES["tetrominoes"]),
    "weights described": read_description,
    "weights shown": lambda path: command("show", path),
    "weights scored": lambda path: command("evaluate", path),
    "reference weights": load_reference,
    "archive": read_arrays,
    "checkpoint": restore,
    "run folder": run_folder,
    "run folder's JSON": lambda path: read_json(placed(path, "recipe.json") / "recipe.json"),
    "picture": read_image,
    "folder of images": lambda path: Folder(placed(path, "a.png"), 16),
    "folder of frames": lambda path: list(FrameFolder(placed(path, "a.png"))),
    "video": lambda path: list(VideoFile(path)),
    "COCO": lambda path: Coco(path.parent, path),
    "TFRecord": lambda path: list(read_scenes(path)),
    "packed scenes": packed,
    "packed manifest": lambda path: Packed(placed(path, "manifest.json")),
    "rendered shard": shard,
    "rendered manifest": lambda path: ClevrLike(placed(path, "test/manifest.json"), "test"),
    "DAVIS": lambda path: Davis2016(
        placed(path, "JPEGImages/480p/a/0.png", "Annotations/480p/a/0.png")
    ).truth("a"),
    "mask": lambda path: rle.decode({"size": [9, 9], "counts": path.read_bytes()}),
    "predicted": lambda path: command(
        "predict", path, "--weights", "tetrominoes", "--out", path.parent / "work" / "out"
    ),
}
OF_JSON = (
    "COCO",
    "run folder",
    "run folder's JSON",
    "packed manifest",
    "rendered manifest",
    "mask",
    "checkpoint",
)
# A header that is read, or arrays that are, do nothing by themselves.
HARMLESS = ("weights described", "weights shown", "archive")
HARMFUL = {
    "os.system",
    "subprocess.Popen",
    "pickle.find_class",
    "os.exec",
    "os.posix_spawn",
    "os.symlink",
    "os.link",
}
HARMFUL |= {"socket.connect", "ctypes.dlopen"}
SEEN: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    if event in HARMFUL:
        SEEN.append(f"{event} {str(arguments)[:80]}")


def prepare() -> None:
    """Once in the process that tries."""
    torch.set_num_threads(1)
    sys.addaudithook(watch)


def try_all(folder: Path) -> dict[str, object]:
    """Every file of a folder through every reader: how many tries, what went wrong, seconds of the slowest,
    MB that the peak of memory grew by."""
    (folder / "work").mkdir()
    files = sorted(file for file in folder.iterdir() if file.is_file())
    attempt("warm up", files[-1], READERS)
    SEEN.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is from now on
    before, tries, wrong, slowest, by = peak(), 0, [], 0.0, ""
    for file in files:
        chosen = {name: reader for name, reader in READERS.items()
                  if file.stat().st_size < LARGE or name not in OF_JSON}  # fmt: skip
        seconds, told = attempt(file.name, file, chosen)
        tries, wrong = tries + len(chosen), wrong + told
        if seconds > slowest:
            slowest, by = seconds, file.name
    return {"tries": tries, "wrong": wrong + SEEN, "seconds": slowest, "by": by, "growth": peak() - before}


def attempt(name: str, file: Path, readers: dict[str, Callable[[Path], object]]) -> tuple[float, list[str]]:
    """Seconds of the slowest reader, and what went wrong."""
    slowest, wrong = 0.0, []
    for reader, read in readers.items():
        shutil.rmtree(file.parent / "work")
        (file.parent / "work").mkdir()
        start = time.perf_counter()
        try:
            read(file)
            if reader not in HARMLESS:
                wrong.append(f"{name}: taken as {reader}")
        except ValueError as error:
            if len(str(error).strip().splitlines()) != 1:
                wrong.append(f"{name} as {reader}: not one line: {str(error)[:200]!r}")
        except BaseException as error:
            wrong.append(f"{name} as {reader}: {type(error).__name__}: {str(error)[:200]}")
        slowest = max(slowest, time.perf_counter() - start)
    shutil.rmtree(file.parent / "work")
    (file.parent / "work").mkdir()
    return slowest, wrong

"""A user's pictures -> what a model sees in them: masks of a discovery model, objects in words of a set
predictor.

Pictures are only read; what is written lies in one folder of its own, which `predictions.json` marks as ours.
What the two kinds of model write is told in `predicted_masks.py` and `predicted_objects.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from objecthood import predicted_masks, predicted_objects
from objecthood.animate import attention_frames, save_animation
from objecthood.data.images import MAX_PIXELS, ImageError, find_images, read_image, resize_image
from objecthood.data.randomness import start_noise
from objecthood.models import SlotAutoencoder
from objecthood.models.set_predictor import SetPredictor

MAX_SLOTS = 256
"""An index of the label picture is one byte."""
_ANIMATION = {"animation": "-attention.gif"}
_OURS = tuple({**predicted_masks.ENDINGS, **predicted_objects.ENDINGS, **_ANIMATION}.values())
_RECORD, _FORMAT = "predictions.json", "objecthood-predictions-1"


class Result(NamedTuple):
    """What became of one picture."""

    path: Path
    """The picture, as it was found."""
    files: dict[str, Path]
    """What was written: "overlay", "masks" and "coco", or "drawing" and "objects"; and "animation". Empty
    where the picture was skipped."""
    error: str = ""
    """Why it was skipped, or ""."""

    @property
    def labels(self) -> UInt8[np.ndarray, "height width"]:
        """The slot of every pixel at the picture's own size, 0 to slots - 1, read from the label picture."""
        with Image.open(self.files["masks"]) as picture:
            return np.array(picture)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What a set predictor saw, surest first, read from the JSON (`predicted_objects.describe`)."""
        return json.loads(self.files["objects"].read_text())["objects"]


def predict(
    model: SlotAutoencoder | SetPredictor,
    paths: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    batch_size: int = 16,
    skip_bad: bool = False,
    animate: bool = True,
    report: Callable[[Result, int], None] | None = None,
) -> list[Result]:
    """Find the objects of pictures and write what a model sees into the folder `out`.

    Of a picture NAME a discovery model gives `NAME-overlay.png`, `NAME-masks.png` (a palette picture of
    labels: slot k is index k) and `NAME-masks.json` (COCO, one annotation for each slot that is seen, with
    its index as "slot"), all at the picture's own size; a set predictor `NAME-objects.png` (names written on
    the picture) and `NAME-objects.json`. Both give `NAME-attention.gif`.

    Below a folder the sub-folders are kept; where two pictures would share a NAME, the later one gets a
    number. A picture is resized whole to the square that the model sees, so one that is not square is
    squeezed; weights trained on CLEVR-like scenes saw the paper's square cut (of CLEVR's 320 x 240 pixels
    rows 29 to 221, columns 64 to 256): cut such pictures first. Start noise is the same for every picture, so
    that its result does not depend on its company, but for rounding.

    Args:
        model: such as `oh.load` gives.
        paths: pictures, folders and patterns.
        out: a new or empty folder, or one that an earlier call wrote; names it gave are kept, files replaced.
        iterations, num_slots: the model's own unless given; at least 1, slots at most 256.
        batch_size: pictures that go through the model at once.
        skip_bad: go on after a picture that cannot be read; its result carries the `error`.
        animate: whether to write animations, which take most of the time.
        report: called with each result and the number of all pictures.

    Returns: the results, in the order of the pictures.

    Raises:
        ImageError: no picture, or, without `skip_bad`, one that cannot be read.
        ValueError: a model of another kind, a number out of range, or a folder `out` that holds other files.

    Example:
        >>> import tempfile
        >>> import objecthood as oh
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (64, 48), "red").save(folder / "red.png")
        >>> model = oh.RECIPES["tetrominoes"].build_model()
        >>> oh.predict(model, folder, folder / "out", animate=False)[0].labels.shape
        (48, 64)
    """
    if isinstance(model, SlotAutoencoder):
        endings, write = predicted_masks.ENDINGS, predicted_masks.write_masks
    elif isinstance(model, SetPredictor):
        endings, write = predicted_objects.ENDINGS, predicted_objects.write_objects
    else:
        raise ValueError(
            f"a {type(model).__name__} is no model to predict with; take weights of a recipe of `objecthood "
            "list`"
        )
    num_slots = model.num_slots if num_slots is None else num_slots
    iterations = model.grouping.slot_attention.iterations if iterations is None else iterations
    _check_range("num_slots", num_slots, MAX_SLOTS)
    _check_range("iterations", iterations)
    _check_range("batch_size", batch_size)
    out = Path(out)
    record = _read_record(out)
    pictures = _find_pictures([paths] if isinstance(paths, str | Path) else paths, out)
    names = _choose_names(pictures, record["names"])
    out.mkdir(parents=True, exist_ok=True)
    (out / _RECORD).write_text(json.dumps(record, indent=1) + "\n")

    results = []
    was_training = model.training
    model.eval()
    try:
        for group in _groups(list(pictures), batch_size, skip_bad):
            read = [picture for _, picture, _ in group if picture is not None]
            views = iter(_look(model, read, iterations, num_slots) if read else ())
            for path, picture, error in group:
                files = {}
                if picture is not None:
                    stem = out / names[path]
                    files = {kind: Path(f"{stem}{ending}") for kind, ending in endings.items()}
                    stem.parent.mkdir(parents=True, exist_ok=True)
                    image, seen = next(views)
                    write(picture, seen, files, pictures[path])
                    if animate:
                        files |= _animate(image, seen["attention"], stem)
                results.append(Result(path, files, error))
                if report:
                    report(results[-1], len(pictures))
    finally:
        model.train(was_training)
    return results


def _look(
    model: SlotAutoencoder | SetPredictor,
    pictures: list[UInt8[np.ndarray, "_ _ 3"]],
    iterations: int,
    num_slots: int,
) -> Iterator[tuple[Float[Tensor, "3 side side"], dict[str, Tensor]]]:
    """What the model saw, and what it made of it (its output by field), for one picture after the other."""
    side = model.resolution
    small = np.stack([resize_image(picture, (side, side)) for picture in pictures])
    device = next(model.parameters()).device
    images = torch.from_numpy(small).permute(0, 3, 1, 2).to(device, torch.float32).div(255)
    noise = torch.from_numpy(start_noise(np.zeros(len(small), np.int64), num_slots, model.slot_dim))
    with torch.no_grad():
        answer = model(images, num_slots=num_slots, iterations=iterations, noise=noise.to(device))
    parts = {name: values.float().cpu() for name, values in answer._asdict().items()}
    for index, image in enumerate(images.cpu()):
        yield image, {name: values[index] for name, values in parts.items()}


def _animate(
    image: Float[Tensor, "3 side side"], attention: Float[Tensor, "iterations slots rows columns"], stem: Path
) -> dict[str, Path]:
    """Write the animation of attention."""
    files = {kind: Path(f"{stem}{ending}") for kind, ending in _ANIMATION.items()}
    frames = attention_frames(image, attention, hold=6, between=5)
    save_animation(frames, files["animation"], milliseconds=100)
    return files


def _groups(
    paths: list[Path], batch_size: int, skip_bad: bool
) -> Iterator[list[tuple[Path, UInt8[np.ndarray, "_ _ 3"] | None, str]]]:
    """Pictures, or why one cannot be read, `batch_size` at a time; fewer where they are large."""
    group: list[tuple[Path, UInt8[np.ndarray, "_ _ 3"] | None, str]] = []
    pixels = 0
    for path in paths:
        picture, error = None, ""
        try:
            picture = read_image(path)
        except ImageError as problem:
            if not skip_bad:
                raise
            error = str(problem)
        size = 0 if picture is None else picture.shape[0] * picture.shape[1]
        if group and (len(group) == batch_size or pixels + size > MAX_PIXELS):
            yield group
            group, pixels = [], 0
        group.append((path, picture, error))
        pixels += size
    yield group


def _find_pictures(paths: Iterable[str | Path], out: Path) -> dict[Path, Path]:
    """Pictures, each with its path below the folder that was named, or its file name; without our results."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in paths:
        for picture in find_images([path]):
            relative = picture.relative_to(path) if os.path.isdir(path) else Path(picture.name)
            found.setdefault(os.path.realpath(picture), (picture, relative))
    inside = os.path.join(os.path.realpath(out), "")
    for place, (picture, _) in list(found.items()):
        if place.startswith(inside):
            if not place.endswith(_OURS):
                raise ValueError(f"{picture} lies in the folder to write to, {out}; name another folder")
            del found[place]
    if not found:
        raise ImageError("no picture to look at; name pictures, folders or patterns")
    return dict(found.values())


def _choose_names(pictures: dict[Path, Path], known: dict[str, str]) -> dict[Path, str]:
    """A name for the results of each picture: its own without suffix, with a number where another has it.

    `known` says whose names are taken, and is added to. Capitals make no difference, as on some systems.
    """
    names = {}
    taken = {name.casefold(): source for name, source in known.items()}
    for path, relative in pictures.items():
        source, plain = os.path.realpath(path), relative.with_suffix("").as_posix()
        name, number = plain, 1
        while taken.get(name.casefold(), source) != source:
            number += 1
            name = f"{plain}-{number}"
        taken[name.casefold()] = known[name] = source
        names[path] = name
    return names


def _read_record(out: Path) -> dict[str, Any]:
    """What earlier calls wrote into `out`; ValueError where it holds files of others."""
    file = out / _RECORD
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {"format": _FORMAT, "names": {}}
    try:
        record = json.loads(file.read_text())
        if record["format"] == _FORMAT:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{out} holds files that are not predictions; name a new or an empty folder to write to")


def _check_range(name: str, value: int, most: int | None = None) -> None:
    if value < 1 or (most and value > most):
        raise ValueError(f"`{name}` (={value}) must be at least 1" + (f" and at most {most}" if most else ""))

"""`objecthood predict`: find objects in images or videos, write results and print a summary."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import typing
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from objecthood.cli.lookup import choose_device, find_recipe, load_model
from objecthood.cli.options import UsageError, parse, several
from objecthood.runtime import limits
from objecthood.runtime.signals import StopRequest
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from objecthood.inference.result import Result
    from objecthood.models import SlotModel


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """What to predict, and how."""

    images: tuple[str, ...] = dataclasses.field(default=(), metadata={"metavar": "IMAGE"})
    """Images, videos, folders or glob patterns; "camera" for a camera, - for an image from stdin. The example
    bundled with the weights by default."""
    weights: str = ""
    """Name (photos, video, or see objecthood list weights), weights file or run folder. By default photos for
    images, video for videos, and clevr if no input is given."""
    out: str = dataclasses.field(default="predictions", metadata={"metavar": "FOLDER"})
    """Output folder: new, empty, or with earlier predictions."""
    iterations: int | None = None
    """Iterations of slot attention; set by the weights by default."""
    slots: int | None = None
    """Number of slots; set by the weights by default."""
    restarts: int | None = None
    """Number of restarts; the one with the lowest reconstruction error is kept. Set by the weights by
    default."""
    merge_background: bool = False
    """Merge slots that extend across the whole image into one background."""
    fit: typing.Literal["pad", "crop", "squash"] | None = None
    """How to fit images that are not square: pad the border, crop the central square, or squash (changes the
    aspect ratio). Set by the weights by default."""
    fine: bool = False
    """Also find small objects, on a finer grid; photos only, four times slower."""
    skip_bad: bool = False
    """Skip images that cannot be read."""
    animation: bool = False
    """Also write an animation of the attention, which takes most of the time."""
    also: str = dataclasses.field(default="", metadata={"metavar": "KINDS"})
    """Also write arrays (NPZ), cutouts (one transparent PNG per slot), or arrays,cutouts."""
    recipe: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """Python file of the recipe, for weights of a custom recipe."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


def predict(arguments: list[str]) -> int:
    """Find objects in images or videos: [IMAGE ...] --weights WEIGHTS --out FOLDER.

    For each image, a discovery model writes an overlay, a label map (palette PNG) and COCO masks (JSON); a
    set predictor prints the objects and writes an annotated image and JSON. With --animation, both also write
    an animation of the attention. For a video, or a folder of frames with a video model, it writes an overlay
    video, label maps, and the tracks of all slots as CSV, JSON and text of MOTChallenge; this needs the extra
    "video". Input files are not changed.
    """
    options = parse(PredictOptions, arguments, "predict", predict)
    from objecthood.data.io.frames import is_video
    from objecthood.hub.pretrained import DEFAULT, PRETRAINED

    if not options.weights:
        kind = "video" if any(map(is_video, options.images)) else "photos"
        options = dataclasses.replace(options, weights=kind if options.images else DEFAULT)
    if not options.images:
        if options.weights not in PRETRAINED:
            raise UsageError(
                f"IMAGE is missing; only {', '.join(PRETRAINED)} have a bundled example; see objecthood "
                "predict --help"
            )
        options = dataclasses.replace(options, images=(str(PRETRAINED[options.weights].example),))
    for name, value, most in (
        ("slots", options.slots, limits.SLOTS),
        ("iterations", options.iterations, limits.ITERATIONS),
        ("restarts", options.restarts, limits.RESTARTS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name} (={value}) must be at least 1 and at most {most}")
    model = load_model(options.weights, find_recipe(options.recipe) if options.recipe else None)
    model = model.to(choose_device(options.device))
    from objecthood.inference.predict_video import are_videos

    # A signal ends it at once: written files are whole, and those of the image or video at hand are removed.
    with warnings_in_lines(), StopRequest() as stop, stop.at_once():
        if are_videos(options.images, model):
            if options.also:
                raise UsageError(f"--also (={options.also}) works for images only, not for videos; omit it")
            return predict_videos(model, options)
        return _predict_images(model, options)


def _predict_images(model: SlotModel, options: PredictOptions) -> int:
    """Predict every image of `options` and print a summary; returns the exit code."""
    from objecthood.inference.predict import RESULTS

    also = several("also", options.also, RESULTS[model.result_kind].extras)
    done = skipped = warned = 0
    last: Result | None = None
    for last in _predict_with_progress(model, options, also):
        done += 1
        if last.error:
            skipped += 1
            echo(f"skipped: {last.error}", file=sys.stderr)
        elif "objects" in last.files:
            _print_objects(last)
        if last.warning:
            warned += 1
            if warned == 1:  # further ones are counted
                echo(f"warning: {last.path} is {last.warning}", file=sys.stderr)
    if last is not None and done == 1 and not last.error:
        if "objects" not in last.files:
            echo(f"{last.path}: {last.summary}")
        for what, file in last.files.items():
            echo(f"{what:<10}{file}")
    if warned > 1:
        echo(f"warning: {warned} of {done} images are likely out of distribution", file=sys.stderr)
    if warned:
        echo("to train on your own images: objecthood train folder --data-path FOLDER")
    missing = f", {skipped} skipped" if skipped else ""
    echo(f"{done - skipped} of {done} images{missing}; written to {options.out}")
    return 1 if skipped else 0


def _predict_with_progress(model: SlotModel, options: PredictOptions, also: list[str]) -> Iterator[Result]:
    """Yield results one at a time, so that memory does not grow with the number of images."""
    from objecthood.data.io.frames import is_video
    from objecthood.data.io.images import ImageError
    from objecthood.inference.predict import stream
    from objecthood.runtime.progress import RunProgress

    images: Any = [sys.stdin.buffer.read() if name == "-" else name for name in options.images]
    done = 0
    with RunProgress("predict", 0) as progress:

        def report(result: Result, total: int) -> None:
            nonlocal done
            done += 1
            progress.update(done, result.path.name, total)

        results = stream(
            model,
            images,
            options.out,
            iterations=options.iterations,
            num_slots=options.slots,
            restarts=options.restarts,
            merge_background=options.merge_background,
            fit=options.fit,
            fine=options.fine,
            skip_bad=options.skip_bad,
            animate=options.animation,
            also=also,
            report=report,
        )
        try:
            yield from results
        except ImageError as error:
            if len(images) == 1 and isinstance(images[0], bytes):
                raise
            if len(images) == 1 and os.path.isfile(images[0]) and not is_video(images[0]):
                raise  # nothing else to predict
            raise ImageError(f"{error}; add --skip-bad to skip such images") from error


def _print_objects(result: Result) -> None:
    """Print the objects of one image (set prediction), one per line."""
    from objecthood.inference.objects import sentence

    objects = json.loads(result.files["objects"].read_text())["objects"]
    echo(f"{result.path}:" + ("" if objects else " nothing"))
    for found in objects:
        echo(f"  {sentence(found)}")


def predict_videos(model: SlotModel, options: PredictOptions) -> int:
    """Predict every video of `options` into the folder --out; returns the exit code."""
    from objecthood.data.io.images import ImageError
    from objecthood.inference.predict_video import predict_video, sees_video
    from objecthood.runtime.progress import RunProgress

    if options.restarts is not None:
        raise UsageError("--restarts works for images only, not for videos; omit it")
    if options.merge_background:
        raise UsageError("--merge-background works for images only, not for videos; omit it")
    for switch in ("fine", "animation"):
        if getattr(options, switch):
            raise UsageError(f"--{switch} works for images only, not for videos; omit it")
    if not sees_video(model):
        echo("weights of an image model: frames are independent, slots may switch objects")
    paths, skipped = _without_results(options.images, options.out), 0
    for path in paths:
        with RunProgress(Path(path).name, 0) as progress:

            def report(done: int, total: int, progress: RunProgress = progress) -> None:
                progress.update(done, "frames", total)

            try:
                result = predict_video(
                    model,
                    path,
                    options.out,
                    iterations=options.iterations,
                    num_slots=options.slots,
                    fit=options.fit,
                    report=report,
                )
            except ImageError as error:
                if not options.skip_bad:
                    hint = "; add --skip-bad to skip such videos" if len(paths) > 1 else ""
                    raise ImageError(f"{error}{hint}") from error
                skipped += 1
                echo(f"skipped: {error}", file=sys.stderr)
                continue
        echo(f"{path}: {result.frames} frames")
        for what, file in result.files.items():
            echo(f"{what:<9}{file}")
    if skipped:
        echo(f"{len(paths) - skipped} of {len(paths)} videos, {skipped} skipped; written to {options.out}")
    return 1 if skipped else 0


def _without_results(paths: Iterable[str], out: str) -> list[str]:
    """Videos except results of an earlier call in `out`; ValueError for any other video in that folder."""
    inside, kept = os.path.join(os.path.realpath(out), ""), []
    for path in paths:
        place = os.path.realpath(path)
        if not place.startswith(inside):
            kept.append(path)
        elif not place.endswith(("-overlay.mp4", "-masks")):
            raise ValueError(f"{path} is in the output folder {out}; use another output folder")
    if not kept:
        raise ValueError(f"there are only results in {out}; name input videos")
    return kept


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Print the first `ImageWarning` of a kind on stderr, and at the end the number of further files."""
    from objecthood.data.io.images import ImageWarning

    shown: dict[str, set[str]] = {}

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        if not isinstance(message, ImageWarning):
            return others(message, *rest, **more)
        name, problem = map(str, message.args)
        if problem not in shown:
            echo(f"warning: {message}", file=sys.stderr)
        shown.setdefault(problem, set()).add(name)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ImageWarning)
        others = warnings.showwarning
        warnings.showwarning = show
        try:
            yield
        finally:
            for problem, names in shown.items():
                if len(names) > 1:
                    echo(f"warning: {len(names) - 1} more: {problem}", file=sys.stderr)

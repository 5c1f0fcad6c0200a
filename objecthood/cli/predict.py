"""`objecthood predict`: what a model sees in pictures, written into a folder and said in a few lines."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
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
    """What is looked at."""

    pictures: tuple[str, ...] = dataclasses.field(default=(), metadata={"metavar": "IMAGE"})
    """Pictures, folders, patterns, videos, "camera", or - for a picture from stdin; the weights' own picture
    unless named."""
    weights: str = ""
    """Name (photos, or of objecthood list weights), weights file, or run folder; photos unless named, clevr
    where no image is named or one is a video."""
    out: str = "predictions"
    """Folder to write to: a new or empty one, or one of earlier predictions."""
    iterations: int | None = None
    """Iterations of slot attention; those of the weights unless named."""
    slots: int | None = None
    """Number of slots; that of the weights unless named."""
    starts: int | None = None
    """How often slots begin anew; what paints the picture best is kept. That of the weights unless named."""
    one_ground: bool = False
    """Unite slots that reach across the whole picture, as one ground of several colours."""
    fit: typing.Literal["pad", "crop", "squash"] | None = None
    """Of pictures that are not square: pad keeps the whole, crop the central square, squash distorts. As the
    weights say unless named."""
    skip_bad: bool = False
    """Go on after a picture that cannot be read."""
    animation: bool = False
    """Write the animation of attention as well, which takes as long as all else."""
    also: str = ""
    """What is written as well: arrays (NPZ), cutouts (each slot on transparent ground), or arrays,cutouts."""
    recipe: str = ""
    """Python file of the recipe, where the weights come from one of your own."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""


def predict(arguments: list[str]) -> int:
    """Find the objects of your pictures or videos: [PICTURE or VIDEO...] --weights NAME_OR_RUN --out FOLDER.

    Writes for each picture an overlay, a palette picture of labels and COCO masks (JSON), or, with weights of
    a set prediction, says what it sees and writes it on the picture and as JSON; with --animation also where
    each slot looks. Nothing else is changed. Folders and patterns are taken with all their pictures. Of a
    video (with weights of a video model also of a folder of frames) it writes the video with its objects in
    stable colours, label pictures, and the way of every slot as CSV and JSON; videos need the extra "video".
    Without pictures, weights that come with the package look at a picture that comes with them.
    """
    options = parse(PredictOptions, arguments, "predict", inspect.getdoc(predict) or "")
    from objecthood.data.io.frames import is_video
    from objecthood.hub.pretrained import DEFAULT, PRETRAINED

    if not options.weights:
        still = options.pictures and not any(map(is_video, options.pictures))
        options = dataclasses.replace(options, weights="photos" if still else DEFAULT)
    if not options.pictures and options.weights not in PRETRAINED:
        raise UsageError(
            f"PICTURES is missing; only {', '.join(PRETRAINED)} come with one; see objecthood predict --help"
        )
    for name, value, most in (
        ("slots", options.slots, limits.SLOTS),
        ("iterations", options.iterations, limits.ITERATIONS),
        ("starts", options.starts, limits.RESTARTS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name} (={value}) must be at least 1 and at most {most}")
    model = load_model(options.weights, find_recipe(options.recipe) if options.recipe else None)
    model = model.to(choose_device(options.device))
    from objecthood.inference.predict_video import are_videos

    # A signal ends it at once: each file that was written is whole, and the one in hand is taken away.
    with warnings_in_lines(), StopRequest() as stop, stop.at_once():
        if options.pictures and are_videos(options.pictures, model):
            if options.also:
                raise UsageError(f"--also (={options.also}) is for pictures, not for videos; leave it away")
            return predict_videos(model, options)
        return _predict_pictures(model, options)


def _predict_pictures(model: SlotModel, options: PredictOptions) -> int:
    """Look at every picture of `options`, and say what became of it; the exit code."""
    from objecthood.inference.predict import RESULTS

    also = several("also", options.also, RESULTS[model.result_kind].extras)
    done = skipped = strange = 0
    last: Result | None = None
    for last in _predict_with_progress(model, options, also):
        done += 1
        if last.error:
            skipped += 1
            echo(f"skipped: {last.error}", file=sys.stderr)
        elif "objects" in last.files:
            _print_objects(last)
        if last.warning:
            strange += 1
            if strange == 1:  # the others are counted
                echo(f"warning: {last.path} is {last.warning}", file=sys.stderr)
    if last is not None and done == 1 and not last.error:
        if "objects" not in last.files:
            echo(f"{last.path}: {last.summary}")
        for what, file in last.files.items():
            echo(f"{what:<10}{file}")
    if strange > 1:
        echo(f"warning: {strange} of {done} pictures are unlike the training data", file=sys.stderr)
    if strange:
        echo("for pictures of another kind: objecthood train folder --data-path FOLDER")
    missing = f", {skipped} skipped" if skipped else ""
    echo(f"{done - skipped} of {done} pictures{missing}; written to {options.out}")
    return 1 if skipped else 0


def _predict_with_progress(model: SlotModel, options: PredictOptions, also: list[str]) -> Iterator[Result]:
    """Result after result, with none kept, so that any number of pictures finds room."""
    from objecthood.data.io.frames import is_video
    from objecthood.data.io.images import ImageError
    from objecthood.hub.pretrained import PRETRAINED
    from objecthood.inference.predict import stream
    from objecthood.runtime.progress import RunProgress

    pictures: Any = [sys.stdin.buffer.read() if name == "-" else name for name in options.pictures]
    done = 0
    with RunProgress("predict", 0) as progress:

        def report(result: Result, total: int) -> None:
            nonlocal done
            done += 1
            progress.num_steps = total
            progress.bar.update(progress.task, total=total)
            progress.update(done, result.path.name)

        results = stream(
            model,
            pictures or PRETRAINED[options.weights].picture,
            options.out,
            iterations=options.iterations,
            num_slots=options.slots,
            starts=options.starts,
            one_ground=options.one_ground,
            fit=options.fit,
            skip_bad=options.skip_bad,
            animate=options.animation,
            also=also,
            report=report,
        )
        try:
            yield from results
        except ImageError as error:
            if len(pictures) == 1 and isinstance(pictures[0], bytes):
                raise
            if len(pictures) == 1 and os.path.isfile(pictures[0]) and not is_video(pictures[0]):
                raise  # there is nothing to go on with
            raise ImageError(f"{error}; to go on after such a picture, add --skip-bad") from error


def _print_objects(result: Result) -> None:
    """What a set predictor saw in one picture, one line an object."""
    from objecthood.inference.objects import sentence

    objects = json.loads(result.files["objects"].read_text())["objects"]
    echo(f"{result.path}:" + ("" if objects else " nothing"))
    for thing in objects:
        echo(f"  {sentence(thing)}")


def predict_videos(model: SlotModel, options: PredictOptions) -> int:
    """Look at every video of `options`, each into the folder --out; the exit code."""
    from objecthood.inference.predict_video import predict_video, sees_video
    from objecthood.runtime.progress import RunProgress

    if options.starts is not None:
        raise UsageError("--starts begins pictures anew, not videos, where slots go on; leave it away")
    if options.one_ground:
        raise UsageError("--one-ground unites slots of pictures, not of videos; leave it away")
    if not sees_video(model):
        echo("weights of a picture model: every frame is taken for itself, slots may change objects")
    for path in _without_results(options.pictures, options.out):
        with RunProgress(Path(path).name, 0) as progress:

            def report(done: int, total: int, progress: RunProgress = progress) -> None:
                progress.num_steps = total
                progress.bar.update(progress.task, total=total or None)
                progress.update(done, "frames")

            result = predict_video(
                model,
                path,
                options.out,
                iterations=options.iterations,
                num_slots=options.slots,
                fit=options.fit,
                report=report,
            )
        echo(f"{path}: {result.frames} frames")
        for what, file in result.files.items():
            echo(f"{what:<9}{file}")
    return 0


def _without_results(paths: Iterable[str], out: str) -> list[str]:
    """Videos without those that an earlier call wrote into `out`; ValueError where another lies there."""
    inside, kept = os.path.join(os.path.realpath(out), ""), []
    for path in paths:
        place = os.path.realpath(path)
        if not place.startswith(inside):
            kept.append(path)
        elif not place.endswith(("-overlay.mp4", "-masks")):
            raise ValueError(f"{path} lies in the folder to write to, {out}; name another folder")
    if not kept:
        raise ValueError(f"no video to look at but results in {out}; name videos")
    return kept


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """The first `ImageWarning` of a kind as a line on stderr; at the end, how many more files it was given
    of."""
    from objecthood.data.io.images import ImageWarning

    told: dict[str, set[str]] = {}

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        if not isinstance(message, ImageWarning):
            return others(message, *rest, **more)
        name, problem = map(str, message.args)
        if problem not in told:
            echo(f"warning: {message}", file=sys.stderr)
        told.setdefault(problem, set()).add(name)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ImageWarning)
        others = warnings.showwarning
        warnings.showwarning = show
        try:
            yield
        finally:
            for problem, names in told.items():
                if len(names) > 1:
                    echo(f"warning: {len(names) - 1} more: {problem}", file=sys.stderr)

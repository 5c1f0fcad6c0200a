"""What each word after `objecthood` does. Heavy imports (torch, tyro, rich) lie within the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from objecthood.benchmark_command import benchmark
from objecthood.data_commands import data
from objecthood.lookup import choose_device, find_recipe, load_model, read_json, recipe_to_train, split_name
from objecthood.options import UsageError, did_you_mean, parse

if typing.TYPE_CHECKING:
    from rich.console import Console

    from objecthood.predict import Result
    from objecthood.recipes.base import Model

PLAIN_WIDTH = 140
"""Characters of a table where there is no terminal to fit it into."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Where and how a recipe is trained."""

    out: str = ""
    """Run folder; runs/NAME-sSEED unless named."""
    resume: str = ""
    """Run folder of a training that was stopped, to go on with; its recipe is the folder's own."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    processes: int = 1
    """Processes of this machine that share every batch, one a GPU; more machines: docs/many-machines.md."""
    compile: bool = False
    """Compile the loss with torch.compile: a minute at the start, quicker steps on a GPU."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What is scored."""

    weights: str
    """Weights file, or run folder."""
    recipe: str = ""
    """Recipe whose scenes and scores are used, or a Python file with one; the weights' own unless named."""
    split: str = "test"
    """train, validation or test."""
    num_scenes: int | None = None
    """How many scenes; the recipe's test_scenes unless named."""
    iterations: int | None = None
    """Iterations of slot attention; the recipe's test_iterations unless named."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    json: str = ""
    """File to write scores and protocol to as well."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """What is looked at."""

    pictures: tuple[str, ...]
    """Pictures, folders and patterns, or videos."""
    weights: str = ""
    """Weights file, or run folder."""
    out: str = "predictions"
    """Folder to write to: a new or empty one, or one of earlier predictions."""
    iterations: int | None = None
    """Iterations of slot attention; those of the weights unless named."""
    slots: int | None = None
    """Number of slots; that of the weights unless named."""
    skip_bad: bool = False
    """Go on after a picture that cannot be read."""
    animation: bool = True
    """Write the animation of attention, which takes most of the time."""
    recipe: str = ""
    """Python file of the recipe, where the weights come from one of your own."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """What is shown."""

    what: str
    """Recipe, Python file with one, weights file, or run folder."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to choose."""


def train(arguments: list[str]) -> int:
    """Train a recipe into a run folder: NAME or my_recipe.py, or --resume RUN.

    NAME is a recipe of `objecthood list`, trained with other numbers where fields are named (--steps 500),
    or a Python file with a module-level `recipe`. With --resume a stopped training goes on; then NAME is
    not needed. Fields and defaults are those of the recipe: objecthood train NAME --help.
    """
    name, rest = split_name(arguments)
    base = recipe_to_train(name, rest)
    kinds = [("recipe", type(base), base), ("run", TrainOptions, TrainOptions())]
    both: Any = dataclasses.make_dataclass("Options", kinds, frozen=True)
    options = parse(both, rest, f"train {base.name}", _about("train"), flags=False)
    recipe, chosen = options.recipe, options.run
    if chosen.out and chosen.resume:
        raise UsageError("--out and --resume name two run folders; leave one away")
    if chosen.processes < 1 or recipe.batch_size % chosen.processes:
        raise UsageError(
            f"--processes (={chosen.processes}) must be at least 1 and divide a batch of {recipe.batch_size}"
        )
    out = Path(chosen.resume or chosen.out or f"runs/{recipe.name}-s{recipe.seed}")

    from objecthood import distributed

    if chosen.processes > 1 and not distributed.started():
        distributed.launch(["train", *arguments], chosen.processes)
        return 0
    with contextlib.nullcontext() if distributed.is_first() else distributed.silence():
        device = choose_device(chosen.device, recipe)

    from objecthood.train import train as train_recipe

    settings: dict[str, Any] = {"resume": bool(chosen.resume), "compile": chosen.compile}
    result = distributed.reporting(train_recipe)(recipe, out, device=str(device), **settings)
    if not distributed.is_first():
        return 0
    _print_scores(
        f"{recipe.name}, seed {recipe.seed}, {recipe.steps} steps", result["scores"], result["protocol"]
    )
    for what, file in (
        ("report", "index.html"),
        ("picture", "latest.png"),
        ("weights", "weights.safetensors"),
    ):
        print(f"{what:<9}{out / file}")
    return 0


def evaluate(arguments: list[str]) -> int:
    """Score weights on held-out scenes: WEIGHTS_OR_RUN.

    Scores are those of the Python function oh.evaluate, with noise fixed by the index of the scene.
    """
    options = parse(EvaluateOptions, arguments, "evaluate", _about("evaluate"))
    from objecthood.data.randomness import SPLITS
    from objecthood.recipes import TASKS

    if options.split not in SPLITS:
        raise UsageError(f"--split (={options.split!r}) is not one; {did_you_mean(options.split, SPLITS)}")
    for name, value in (("num-scenes", options.num_scenes), ("iterations", options.iterations)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} (={value}) must be at least 1")
    named = find_recipe(options.recipe) if options.recipe else None
    model = load_model(options.weights, named)
    # Weights of a recipe of one's own bring its numbers; the Python file then gave no more than its class.
    recipe = named if named and type(model.recipe) in TASKS.values() else model.recipe
    changes = {"test_scenes": options.num_scenes, "test_iterations": options.iterations}
    changes["num_slots"] = model.num_slots  # what the protocol speaks of
    recipe = dataclasses.replace(
        recipe, **{name: value for name, value in changes.items() if value is not None}
    )
    model = model.to(choose_device(options.device))

    from objecthood.evaluate import evaluate as score

    scores = score(model, recipe, options.split)
    protocol = f"{recipe.protocol}; split {options.split}"
    _print_scores(f"{options.weights} on {recipe.name}", scores, protocol)
    if options.json:
        facts = {
            "weights": options.weights,
            "recipe": recipe.to_dict(),
            "split": options.split,
            "protocol": protocol,
        }
        # JSON has no nan: a score that no picture defines is null.
        facts["scores"] = {name: None if value != value else value for name, value in scores.items()}
        Path(options.json).write_text(json.dumps(facts, indent=1) + "\n")
        print(f"written to {options.json}")
    return 0


def predict(arguments: list[str]) -> int:
    """Find the objects of your pictures or videos: PICTURE... or VIDEO... --weights WEIGHTS_OR_RUN.

    Writes for each picture an overlay, a palette picture of labels and COCO masks (JSON), or, with weights of
    a set prediction, says what it sees and writes it on the picture and as JSON; and an animation of
    attention. Nothing else is changed. Folders and patterns are taken with all their pictures. Of a video
    (with weights of a video model also of a folder of frames) it writes the video with its objects in stable
    colours, label pictures, and the way of every slot as CSV and JSON; videos need the extra "video".
    """
    options = parse(PredictOptions, arguments, "predict", _about("predict"))
    if not options.weights:
        raise UsageError(
            "--weights is missing; train some with objecthood train sprites, then --weights runs/sprites-s0"
        )
    for name, value, most in (("slots", options.slots, 256), ("iterations", options.iterations, sys.maxsize)):
        if value is not None and not 1 <= value <= most:
            raise UsageError(
                f"--{name} (={value}) must be at least 1" + (f" and at most {most}" if most < 999 else "")
            )
    model = load_model(options.weights, find_recipe(options.recipe) if options.recipe else None)
    model = model.to(choose_device(options.device))
    from objecthood.predict_video import are_videos

    if are_videos(options.pictures, model):
        from objecthood.video_command import predict_videos

        return predict_videos(model, options)
    results = _predict_with_progress(model, options)
    for result in results:
        if "objects" in result.files:
            _print_objects(result)
    skipped = [result for result in results if result.error]
    for result in skipped:
        print(f"skipped: {result.error}", file=sys.stderr)
    missing = f", {len(skipped)} skipped" if skipped else ""
    print(f"{len(results) - len(skipped)} of {len(results)} pictures{missing}; written to {options.out}")
    return 1 if skipped else 0


def list_recipes(arguments: list[str]) -> int:
    """List the recipes.

    Name, data, size, training and expected score of everything that objecthood train knows.
    """
    parse(NoOptions, arguments, "list", _about("list"))
    from rich.table import Table

    from objecthood.recipes import RECIPES

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "data", "pixels", "steps", "what it is", "expected"):
        numbers = heading in ("pixels", "steps")
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for name, recipe in RECIPES.items():
        fields = recipe.to_dict()
        side, what = f"{fields['resolution']} x {fields['resolution']}", recipe.description
        table.add_row(name, fields["data"], side, f"{recipe.steps:,}", what, recipe.expected or "-")
    _console().print(table)
    return 0


def show(arguments: list[str]) -> int:
    """Show a recipe, weights or a run as JSON: NAME, WEIGHTS or RUN."""
    what = parse(ShowOptions, arguments, "show", _about("show")).what
    path = Path(what)
    if path.is_dir():
        facts = {"recipe": read_json(path / "recipe.json")}
        if (path / "result.json").exists():
            facts["result"] = read_json(path / "result.json")
    elif path.is_file() and path.suffix != ".py":
        from objecthood.checkpoint import read_description

        facts = read_description(path)
    else:
        facts = find_recipe(what).to_dict()
    print(json.dumps(facts, indent=1))
    return 0


def doctor(arguments: list[str]) -> int:
    """Check this installation; a block to paste into a bug report."""
    parse(NoOptions, arguments, "doctor", _about("doctor"))
    from objecthood.doctor import examine

    facts, problems = examine()
    width = max(map(len, facts)) + 2
    print("```")
    for name, fact in facts.items():
        print(f"{name:<{width}}{fact}".rstrip())
    for problem in problems:
        print(f"{'PROBLEM':<{width}}{problem}")
    print("```")
    if not problems:
        print("all in place")
    return 1 if problems else 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "data": data,
    "list": list_recipes,
    "show": show,
    "benchmark": benchmark,
    "doctor": doctor,
}


def _about(name: str) -> str:
    """A command's docstring, without its indentation."""
    return inspect.getdoc(COMMANDS[name]) or ""


def _predict_with_progress(model: Model, options: PredictOptions) -> list[Result]:
    from objecthood.predict import predict as predict_pictures
    from objecthood.progress import RunProgress

    done = 0
    with RunProgress("predict", 0) as progress:

        def report(result: Result, total: int) -> None:
            nonlocal done
            done += 1
            progress.num_steps = total
            progress.bar.update(progress.task, total=total)
            progress.update(done, result.path.name)

        return predict_pictures(
            model,
            options.pictures,
            options.out,
            iterations=options.iterations,
            num_slots=options.slots,
            skip_bad=options.skip_bad,
            animate=options.animation,
            report=report,
        )


def _print_objects(result: Result) -> None:
    """What a set predictor saw in one picture, one line an object."""
    from objecthood.predicted_objects import sentence

    print(f"{result.path}:" + ("" if result.objects else " nothing"))
    for thing in result.objects:
        print(f"  {sentence(thing)}")


def _print_scores(title: str, scores: dict[str, float], protocol: str) -> None:
    """A table of scores, and how they were taken."""
    from rich.table import Table

    from objecthood.report import TITLES

    table = Table(box=None, pad_edge=False)
    for name in scores:
        table.add_column(TITLES.get(name, name), justify="right")
    table.add_row(*(f"{value:.4f}" for value in scores.values()))
    console = _console()
    console.print(title, soft_wrap=True)
    console.print(table)
    console.print(protocol, soft_wrap=True)


def _console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for pipes and files."""
    from rich.console import Console

    plain = Console(highlight=False, markup=False, emoji=False)
    return (
        plain if plain.is_terminal else Console(highlight=False, markup=False, emoji=False, width=PLAIN_WIDTH)
    )

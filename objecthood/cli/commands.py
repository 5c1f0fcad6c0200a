"""What each word after `objecthood` does. Heavy imports (torch, tyro, rich) lie within the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from objecthood.cli.benchmark import benchmark
from objecthood.cli.completion import completion as print_completion
from objecthood.cli.data import data
from objecthood.cli.demo import demo
from objecthood.cli.export import export
from objecthood.cli.listing import console, list_names, show
from objecthood.cli.lookup import (
    choose_device,
    find_recipe,
    load_model,
    recipe_to_train,
    split_name,
    with_newest_run,
)
from objecthood.cli.options import UsageError, parse, several
from objecthood.cli.predict import predict
from objecthood.cli.sweep import sweep
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from objecthood.analysis.diagnosis import Diagnosis
    from objecthood.recipes import Recipe
    from objecthood.recipes.base import Model


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Where and how a recipe is trained."""

    out: str = ""
    """Run folder; runs/NAME-sSEED unless named."""
    resume: str = ""
    """Run folder of a training that was stopped, to go on with; its recipe is the folder's own. Without a
    folder, the newest unfinished one below runs/."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    processes: int = 1
    """Processes of this machine that share every batch, one a GPU; more machines: docs/many-machines.md."""
    compile: bool = False
    """Compile the loss with torch.compile: a minute at the start, quicker steps on a GPU."""
    log: str = ""
    """tensorboard: event files in the run folder, beside metrics.jsonl."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What is scored."""

    weights: str
    """Name (objecthood list weights), weights file, or run folder."""
    recipe: str = ""
    """Recipe whose scenes and scores are used, or a Python file with one; the weights' own unless named."""
    split: str = "test"
    """train, validation or test."""
    num_scenes: int | None = None
    """How many scenes; the recipe's test_scenes unless named."""
    iterations: int | None = None
    """Iterations of slot attention; the recipe's test_iterations unless named."""
    starts: int | None = None
    """Starts of each picture, of which the best painted counts; the recipe's unless named."""
    data_path: str = ""
    """Where the recipe's scenes lie; its own data_path unless named."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    json: str = ""
    """File to write scores and protocol (and the diagnosis) to as well."""
    csv: str = ""
    """File to write the scores to as a table: score, value."""
    diagnose: bool = False
    """Say what is wrong as well: slots shared, objects and background in pieces, and where to read on."""
    floors: bool = False
    """Score what needs no learning as well: colour components, colour k-means, blocks, an untrained model."""
    picture: str = ""
    """With --diagnose: file (.png, .webp) to draw the worst scenes in."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Nothing to choose."""


def train(arguments: list[str]) -> int:
    """Train a recipe into a run folder: NAME or my_recipe.py, or --resume RUN.

    NAME is a recipe of `objecthood list`, trained with other numbers where fields are named (--steps 500),
    or a Python file with a module-level `recipe`. With --resume a stopped training goes on (alone: the
    newest below runs/); then NAME is not needed. Fields and defaults are those of the recipe: objecthood
    train NAME --help.
    """
    arguments = with_newest_run(arguments)
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

    from objecthood.runtime import distributed

    if chosen.processes > 1 and not distributed.started():
        from objecthood.train import told_how_to_go_on

        with told_how_to_go_on(out):
            distributed.launch(["train", *arguments], chosen.processes)
        return 0
    with contextlib.nullcontext() if distributed.is_first() else distributed.silence():
        device = choose_device(chosen.device, recipe)

    from objecthood.cli.predict import warnings_in_lines
    from objecthood.train import train as train_recipe
    from objecthood.training.run_log import TRACKERS

    settings: dict[str, Any] = {"resume": bool(chosen.resume), "compile": chosen.compile}
    settings["log"] = several("log", chosen.log, TRACKERS)
    with warnings_in_lines():
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
        echo(f"{what:<9}{out / file}")
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
    counted = {"num-scenes": options.num_scenes, "iterations": options.iterations, "starts": options.starts}
    for name, value in counted.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} (={value}) must be at least 1")
    if options.picture and not options.diagnose:
        raise UsageError("--picture draws what --diagnose finds; add --diagnose")
    if options.picture and Path(options.picture).suffix not in (".png", ".webp"):
        raise UsageError(f"--picture (={options.picture!r}) must end in .png or .webp")
    named = find_recipe(options.recipe) if options.recipe else None
    model = load_model(options.weights, named)
    # Weights of a recipe of one's own bring its numbers; the Python file then gave no more than its class.
    recipe = named if named and type(model.recipe) in TASKS.values() else model.recipe
    if options.data_path and not hasattr(recipe, "data_path"):
        raise UsageError(f"--data-path (={options.data_path}) means nothing to {recipe.name}; leave it away")
    changes: dict[str, Any] = {"test_scenes": options.num_scenes, "test_iterations": options.iterations}
    changes["data_path"] = options.data_path or None
    if options.starts is not None:
        if not hasattr(recipe, "starts"):
            raise UsageError(f"--starts (={options.starts}) means nothing to {recipe.name}; leave it away")
        if options.starts > 1 and not model.restarts_differ:
            raise UsageError(
                f"--starts (={options.starts}) must be 1 here: the slots of these weights begin the same "
                "every time; leave it away"
            )
        changes["starts"] = options.starts
    changes["num_slots"] = model.num_slots  # what the protocol speaks of
    recipe = dataclasses.replace(
        recipe, **{name: value for name, value in changes.items() if value is not None}
    )
    if options.diagnose:
        from objecthood.analysis.diagnosis import check

        check(model, recipe, options.split)
    model = model.to(choose_device(options.device))

    from objecthood.evaluate import evaluate as score

    scores = score(model, recipe, options.split)
    protocol = f"{recipe.protocol}; split {options.split}"
    found: dict[str, dict[str, float]] = {}
    if options.floors:
        from objecthood.analysis.floors import floors

        found = floors(recipe, options.split)
    _print_scores(f"{options.weights} on {recipe.name}", scores, protocol, found)
    diagnosis = _diagnose(model, recipe, options) if options.diagnose else None
    if options.json:
        facts = {
            "weights": options.weights,
            "recipe": recipe.to_dict(),
            "split": options.split,
            "protocol": protocol,
        }
        # JSON has no nan: a score that no picture defines is null.
        facts["scores"] = {name: None if value != value else value for name, value in scores.items()}
        facts |= {"floors": found} if found else {}
        facts |= {"diagnosis": diagnosis.to_dict()} if diagnosis else {}
        Path(options.json).write_text(json.dumps(facts, indent=1) + "\n")
        echo(f"written to {options.json}")
    if options.csv:
        lines = ["score,value", *(f"{name},{value}" for name, value in scores.items())]
        lines += [f"{floor}/{name},{value}" for floor, own in found.items() for name, value in own.items()]
        Path(options.csv).write_text("\n".join(lines) + "\n")
        echo(f"written to {options.csv}")
    return 0


def doctor(arguments: list[str]) -> int:
    """Check this installation; a block to paste into a bug report."""
    parse(NoOptions, arguments, "doctor", _about("doctor"))
    from objecthood.cli.doctor import examine

    facts, problems = examine()
    width = max(map(len, facts)) + 2
    echo("```")
    for name, fact in facts.items():
        echo(f"{name:<{width}}{fact}".rstrip())
    for problem in problems:
        echo(f"{'PROBLEM':<{width}}{problem}")
    echo("```")
    if not problems:
        echo("all in place")
    return 1 if problems else 0


def completion(arguments: list[str]) -> int:
    """Print what makes Tab complete commands, names and options: bash | zsh | tcsh.

    bash: eval "$(objecthood completion bash)" in ~/.bashrc. zsh: objecthood completion zsh, written to a file
    _objecthood in a folder of $fpath. tcsh: objecthood completion tcsh, written to a file that ~/.tcshrc
    sources.
    """
    return print_completion(arguments, COMMANDS, {"train": TrainOptions, "evaluate": EvaluateOptions})


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sweep": sweep,
    "evaluate": evaluate,
    "predict": predict,
    "data": data,
    "list": list_names,
    "show": show,
    "export": export,
    "demo": demo,
    "benchmark": benchmark,
    "doctor": doctor,
    "completion": completion,
}


def _about(name: str) -> str:
    """A command's docstring, without its indentation."""
    return inspect.getdoc(COMMANDS[name]) or ""


def _diagnose(model: Model, recipe: Recipe, options: EvaluateOptions) -> Diagnosis:
    """Signs of trouble, printed, and drawn where a file is named."""
    from objecthood.analysis.diagnosis import diagnose
    from objecthood.cli.diagnose import print_diagnosis

    diagnosis = diagnose(model, recipe, options.split)
    print_diagnosis(diagnosis, console(), options.picture)
    return diagnosis


def _print_scores(
    title: str, scores: dict[str, float], protocol: str, floors: dict[str, dict[str, float]] | None = None
) -> None:
    """A table of scores, floors below them, and how they were taken."""
    from rich.table import Table

    from objecthood.recipes.score_names import by_restarts
    from objecthood.recipes.score_names import title as title_of

    rows = by_restarts(scores)
    if len(rows) == 1 and not floors:
        rows = {"": scores}
    first = next(iter(rows.values()))
    if floors:
        from objecthood.analysis.floors import TITLES

        rows |= {f"floor: {TITLES[floor]}": own for floor, own in floors.items()}
    table = Table(box=None, pad_edge=False)
    for name in ("", *map(title_of, first)):
        table.add_column(name, justify="right" if name else "left")
    for row, values in rows.items():
        table.add_row(row, *(f"{values[name]:.4f}" if name in values else "-" for name in first))
    plain = console()
    plain.print(title, soft_wrap=True)
    plain.print(table)
    for floor, own in (floors or {}).items():
        for name in ("fg_ari", "video_fg_ari", "attention_fg_ari"):
            if name in first and own.get(name, -1.0) >= first[name]:
                said = f"{TITLES[floor]} reach {own[name]:.3f} {title_of(name)} without training, the model"
                plain.print(
                    f"{said} {first[name]:.3f}: these scenes show that a method works, not that it is needed",
                    soft_wrap=True,
                )
                break
    plain.print(protocol, soft_wrap=True)

"""The subcommands of `objecthood`. Commands import heavy packages (torch, tyro, rich) themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from objecthood.cli.benchmark import benchmark
from objecthood.cli.completion import completion as print_completion
from objecthood.cli.convert import convert
from objecthood.cli.data import data
from objecthood.cli.demo import demo
from objecthood.cli.export import export
from objecthood.cli.leaderboard import leaderboard
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
from objecthood.runtime.files import check_named, write_named
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from objecthood.analysis.diagnosis import Diagnosis
    from objecthood.recipes import Recipe
    from objecthood.recipes.base import Model


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Settings of the run."""

    out: str = dataclasses.field(default="", metadata={"metavar": "FOLDER"})
    """Run folder; runs/NAME-sSEED by default."""
    resume: str = dataclasses.field(default="", metadata={"metavar": "RUN"})
    """Continue the stopped run in this folder with its own recipe; without a folder, the newest unfinished
    run in runs/."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    processes: int = 1
    """Number of processes on this machine that share each batch, one per GPU; for several machines see
    docs/many-machines.md."""
    compile: bool = False
    """Compile the loss with torch.compile: about a minute at startup, faster steps on a GPU."""
    log: str = dataclasses.field(default="", metadata={"metavar": "TRACKER"})
    """tensorboard: also write event files into the run folder."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What to score."""

    weights: str
    """Name (objecthood list weights), weights file or run folder."""
    recipe: str = dataclasses.field(default="", metadata={"metavar": "NAME_OR_FILE"})
    """Recipe, or Python file with one, that defines scenes and scores; by default the recipe of the
    weights."""
    split: str = "test"
    """train, validation or test."""
    num_scenes: int | None = None
    """Number of scenes; the recipe's test_scenes by default."""
    iterations: int | None = None
    """Iterations of slot attention; the recipe's test_iterations by default."""
    restarts: int | None = None
    """Restarts of each image; the one with the lowest reconstruction error is also scored."""
    data_path: str = dataclasses.field(default="", metadata={"metavar": "PATH"})
    """Location of the scenes; the recipe's data_path by default."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    json: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """Also write scores, protocol and diagnosis to this JSON file."""
    csv: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """Also write the scores to this CSV file, with columns score and value."""
    diagnose: bool = False
    """Also report failures: objects that share a slot, split objects, split background."""
    protocol: str = dataclasses.field(default="", metadata={"metavar": "NAMES"})
    """Also score by these protocols of the literature, with standard errors, one restart: discovery,
    dinosaur, covering, localization, panoptic, boundaries, video, properties; several as A,B."""
    floors: bool = False
    """Also score baselines (floors) without learning: colour components, colour k-means, equal blocks, an
    untrained model, and for frozen features k-means and a normalised cut; the default for photographs with
    true masks."""
    skip_floors: bool = False
    """Do not score baselines on photographs."""
    figure: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """With --diagnose, draw the worst scenes into this file (.png or .webp)."""


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """No options."""


def train(arguments: list[str]) -> int:
    """Train a recipe: NAME or FILE.py, or --resume RUN.

    NAME is a recipe of `objecthood list`; FILE.py defines a module-level `recipe`. Options such as --steps
    500 change fields of the recipe; `objecthood train NAME --help` lists its fields and defaults. --resume
    continues a stopped run and needs no NAME.
    """
    arguments = with_newest_run(arguments)
    name, rest = split_name(arguments)
    base = recipe_to_train(name, rest)
    kinds = [("recipe", type(base), base), ("run", TrainOptions, TrainOptions())]
    both: Any = dataclasses.make_dataclass("Options", kinds, frozen=True)
    title = "NAME" if not name and {"-h", "--help"} & set(rest) else base.name
    options = parse(both, rest, f"train {title}", train, flags=False)
    recipe, chosen = options.recipe, options.run
    if chosen.out and chosen.resume:
        raise UsageError("--out and --resume both name a run folder; omit one")
    if chosen.processes < 1 or recipe.batch_size % chosen.processes:
        raise UsageError(
            f"--processes (={chosen.processes}) must be at least 1 and divide a batch of {recipe.batch_size}"
        )
    out = Path(chosen.resume or chosen.out or f"runs/{recipe.name}-s{recipe.seed}")

    from objecthood.runtime import distributed

    if chosen.processes > 1 and not distributed.started():
        from objecthood.train import resume_hint

        with resume_hint(out):
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
    """Score weights on held-out scenes: WEIGHTS or RUN.

    The scores equal those of oh.evaluate in Python. The initial noise depends only on the index of the scene.
    """
    options = parse(EvaluateOptions, arguments, "evaluate", evaluate)
    _check_options(options)
    named = find_recipe(options.recipe) if options.recipe else None
    model = load_model(options.weights, named)
    recipe = _recipe_to_score(options, model, named)
    ruled: list[str] = []
    if options.protocol:
        from objecthood.analysis.protocols import PROTOCOLS, check_protocol

        ruled = list(dict.fromkeys(several("protocol", options.protocol, list(PROTOCOLS))))
        for name in ruled:
            check_protocol(model, recipe, name, options.split)
    if options.diagnose:
        from objecthood.analysis.diagnosis import check

        check(model, recipe, options.split)
    model = model.to(choose_device(options.device))

    from objecthood.evaluate import evaluate as score

    scores = score(model, recipe, options.split)
    protocol = f"{recipe.protocol}; split {options.split}"
    found: dict[str, dict[str, float]] = {}
    has_masks = any(name in scores for name in ("fg_ari", "mbo_i"))
    by_default = recipe.floors_by_default and has_masks and not options.skip_floors
    if options.floors or by_default:
        from objecthood.analysis.floors import floors

        found = floors(recipe, options.split)
    _print_scores(f"{options.weights} on {recipe.name}", scores, protocol, found)
    by_protocol = _score_by_protocols(model, recipe, ruled, options.split) if ruled else {}
    diagnosis = _diagnose(model, recipe, options) if options.diagnose else None
    if options.json:
        facts = {"weights": options.weights, "recipe": recipe.to_dict(), "split": options.split}
        facts |= {"protocol": protocol, "scores": _without_nan(scores)}
        facts |= {"floors": found} if found else {}
        facts |= {"protocols": by_protocol} if by_protocol else {}
        facts |= {"diagnosis": diagnosis.to_dict()} if diagnosis else {}
        write_named(options.json, json.dumps(facts, indent=1) + "\n")
        echo(f"written to {options.json}")
    if options.csv:
        lines = ["score,value", *(f"{name},{value}" for name, value in scores.items())]
        lines += [f"{floor}/{name},{value}" for floor, own in found.items() for name, value in own.items()]
        lines += [
            f"{name}/{score},{facts['mean']}"
            for name, own in by_protocol.items()
            for score, facts in own["scores"].items()
        ]
        write_named(options.csv, "\n".join(lines) + "\n")
        echo(f"written to {options.csv}")
    return 0


def doctor(arguments: list[str]) -> int:
    """Check this installation and print a report to paste into an issue."""
    parse(NoOptions, arguments, "doctor", doctor)
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
        echo("no problems found")
    return 1 if problems else 0


def completion(arguments: list[str]) -> int:
    """Print a shell completion script: bash, zsh or tcsh.

    bash: add eval "$(objecthood completion bash)" to ~/.bashrc. zsh: write the output to a file _objecthood
    in a folder of $fpath. tcsh: write the output to a file and source it in ~/.tcshrc.
    """
    return print_completion(arguments, COMMANDS, {"train": TrainOptions, "evaluate": EvaluateOptions})


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sweep": sweep,
    "leaderboard": leaderboard,
    "evaluate": evaluate,
    "predict": predict,
    "data": data,
    "list": list_names,
    "show": show,
    "export": export,
    "convert": convert,
    "demo": demo,
    "benchmark": benchmark,
    "doctor": doctor,
    "completion": completion,
}


def _check_options(options: EvaluateOptions) -> None:
    """UsageError for options that are out of range, exclude each other, or name one file twice (two results,
    or a result and the weights); OSError where a result could not be written."""
    from objecthood.data.randomness import SPLITS

    if options.split not in SPLITS:
        raise UsageError(f"--split (={options.split!r}) is unknown; {did_you_mean(options.split, SPLITS)}")
    for name in ("num_scenes", "iterations", "restarts"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} (={value}) must be at least 1")
    if options.figure and not options.diagnose:
        raise UsageError("--figure needs --diagnose; add --diagnose")
    if options.figure and Path(options.figure).suffix not in (".png", ".webp"):
        raise UsageError(f"--figure (={options.figure!r}) must end in .png or .webp")
    if options.floors and options.skip_floors:
        raise UsageError("--floors and --skip-floors exclude each other; omit one")
    taken = {os.path.realpath(options.weights): "the weights"}
    taken |= {os.path.realpath(options.recipe): "--recipe"} if options.recipe else {}
    for name in ("json", "csv", "figure"):
        file = getattr(options, name)
        if not file:
            continue
        check_named(file)
        other = taken.setdefault(os.path.realpath(file), f"--{name}")
        if other != f"--{name}" and (os.path.isfile(file) or not os.path.exists(file)):
            raise UsageError(f"--{name} (={file!r}) is the file of {other}; name another")


def _recipe_to_score(options: EvaluateOptions, model: Model, named: Recipe | None) -> Recipe:
    """The recipe of the weights, or the `named` one, with what the options change; UsageError where it cannot
    be changed."""
    from objecthood.recipes import TASKS

    # Weights of a custom recipe hold its numbers; the Python file only gives its class.
    recipe = named if named and type(model.recipe) in TASKS.values() else model.recipe
    if recipe is None:
        raise UsageError(
            f"{options.weights} cannot be evaluated: no recipe names its test scenes; use weights of "
            "`objecthood list weights`"
        )
    if options.data_path and not hasattr(recipe, "data_path"):
        raise UsageError(f"{recipe.name} has no --data-path (={options.data_path}); omit it")
    if options.restarts is not None and not hasattr(recipe, "restarts"):
        raise UsageError(f"{recipe.name} has no --restarts (={options.restarts}); omit it")
    if (options.restarts or 1) > 1 and not model.restarts_differ:
        raise UsageError(
            f"--restarts (={options.restarts}) must be 1 for these weights: their initial slots are fixed; "
            "omit it"
        )
    place = "" if getattr(recipe, "data", "") == "shards" else getattr(recipe, "data_path", "")
    if place and not options.data_path and not Path(place).exists():
        raise UsageError(f"the images of these weights, {place!r}, are not here; add --data-path PATH")
    changes: dict[str, Any] = {
        "test_scenes": options.num_scenes,
        "test_iterations": options.iterations,
        "data_path": options.data_path or None,
        "restarts": options.restarts,
        "num_slots": model.num_slots,  # stated by the protocol
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(recipe, **changes)


def _diagnose(model: Model, recipe: Recipe, options: EvaluateOptions) -> Diagnosis:
    """Print the diagnosis, and draw it if `--figure` names a file."""
    from objecthood.analysis.diagnosis import diagnose
    from objecthood.cli.diagnose import print_diagnosis

    diagnosis = diagnose(model, recipe, options.split)
    print_diagnosis(diagnosis, console(), options.figure)
    return diagnosis


def _score_by_protocols(model: Model, recipe: Recipe, names: list[str], split: str) -> dict[str, Any]:
    """Print scores and standard errors of each protocol, and return them as JSON values."""
    from rich.table import Table

    from objecthood.analysis.protocols import PROTOCOLS, protocol_scores
    from objecthood.recipes.score_names import title as title_of

    plain, found = console(), {}
    for name in names:
        scores = protocol_scores(model, recipe, name, split)
        table = Table(box=None, pad_edge=False)
        for column in (name, "mean", "standard error", "defined for"):
            table.add_column(column, justify="left" if column == name else "right")
        for score, (mean, error, defined) in scores.items():
            table.add_row(title_of(score), f"{mean:.4f}", f"{error:.4f}", str(defined))
        plain.print(table)
        plain.print(f"{PROTOCOLS[name].description}; one restart", soft_wrap=True)
        values = {score: _without_nan(facts._asdict()) for score, facts in scores.items()}
        found[name] = {"description": PROTOCOLS[name].description, "scores": values}
    return found


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    """Values for JSON, which has no NaN: an undefined one is null."""
    return {name: None if value != value else value for name, value in values.items()}


def _print_scores(
    title: str, scores: dict[str, float], protocol: str, floors: dict[str, dict[str, float]] | None = None
) -> None:
    """Print a table of scores, baselines below them, and the protocol."""
    from rich.table import Table

    from objecthood.recipes.score_names import by_restarts
    from objecthood.recipes.score_names import title as title_of

    rows = by_restarts(scores)
    if len(rows) == 1 and not floors:
        rows = {"": scores}
    first = next(iter(rows.values()))
    if floors:
        from objecthood.analysis.floors import TITLES

        rows |= {f"baseline: {TITLES[floor]}": own for floor, own in floors.items()}
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
                plain.print(
                    f"baseline {TITLES[floor]}: {title_of(name)} {own[name]:.3f} without training, model "
                    f"{first[name]:.3f}; these scenes do not need a learned model",
                    soft_wrap=True,
                )
                break
    plain.print(protocol, soft_wrap=True)

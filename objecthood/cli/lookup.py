"""Resolve command-line names to recipes, weights, run folders and devices."""

from __future__ import annotations

import itertools
import typing
from pathlib import Path

from objecthood.cli.options import UsageError, is_option
from objecthood.runtime.files import read_json
from objecthood.runtime.spelling import did_you_mean, nearest
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    import torch

    from objecthood.recipes import Recipe
    from objecthood.recipes.base import Model


def split_name(arguments: list[str]) -> tuple[str, list[str]]:
    """The first positional argument of `train` ("" if there is none), and the other arguments."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if not is_option(word):
            return word, arguments[:index] + arguments[index + 1 :]
        index += 1 if "=" in word or word in ("-h", "--help") else 2
    return "", arguments


def with_newest_run(arguments: list[str]) -> list[str]:
    """Complete `--resume` without a folder by the newest unfinished run in runs/, of the named recipe if one
    is named, and print it. Raises UsageError if there is none."""
    if {"-h", "--help"} & set(arguments):
        return arguments
    for index, word in enumerate(arguments):
        following = arguments[index + 1 : index + 2]
        if word == "--resume" and (not following or is_option(following[0])):
            name, _ = split_name(arguments[:index] + arguments[index + 1 :])
            run = newest_run(name)
            echo(f"resume   {run}", flush=True)
            return [*arguments[:index], f"--resume={run}", *arguments[index + 1 :]]
    return arguments


def newest_run(name: str = "", root: str | Path = "runs") -> Path:
    """The most recently written unfinished run in `root`, of the recipe `name` if given."""
    from objecthood.train import is_finished

    runs = [log.parent for log in Path(root).glob("**/metrics.jsonl")]
    unfinished = [run for run in runs if not is_finished(run)]
    of_recipe = [run for run in unfinished if not name or read_json(run / "recipe.json").get("name") == name]
    if not of_recipe:
        what = f"of {name} " if name else ""
        raise UsageError(
            f"there is no unfinished run {what}in {root}/; name the run folder: objecthood train --resume RUN"
        )
    return max(of_recipe, key=lambda run: (run / "metrics.jsonl").stat().st_mtime)


def recipe_to_train(name: str, rest: list[str]) -> Recipe:
    """The recipe of the run to resume, or the named one."""
    from objecthood.recipes import RECIPES, from_dict

    named = find_recipe(name) if name else None
    run = _value_of("--resume", rest)
    if run:
        settings = read_json(Path(run) / "recipe.json")
        if named and type(named).__name__ != settings.get("task"):
            raise UsageError(f"{run} is not a run of {name}; use objecthood train --resume {run}")
        return from_dict(settings, type(named) if named else None)
    if named:
        return named
    if {"-h", "--help"} & set(rest):
        return RECIPES["tetrominoes"]
    for word in filter(is_option, rest):
        if nearest(word.partition("=")[0], ["resume"]):
            raise UsageError(
                f"train has no option {word}; did you mean --resume? See objecthood train --help"
            )
    raise UsageError(f"train needs a recipe ({', '.join(RECIPES)}, or a Python file), or --resume RUN")


def _value_of(option: str, arguments: list[str]) -> str:
    """The value of an option, or ""."""
    for word, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        typed, equals, value = word.partition("=")
        if typed == option:
            return value if equals else following
    return ""


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from a Python file; UsageError if there is none."""
    from objecthood.recipes import RECIPES, from_file

    if name.endswith(".py"):
        return from_file(name)
    if name not in RECIPES:
        question = did_you_mean(name, list(RECIPES))
        raise UsageError(f"no recipe, file or run {name!r}; {question} See objecthood list")
    return RECIPES[name]


def load_model(weights: str, named: Recipe | None) -> Model:
    """The model of weights by name, file or run folder; `named` gives the class of a custom recipe."""
    from objecthood import checkpoint, hub
    from objecthood.recipes import RECIPES, TASKS

    if weights in RECIPES and weights not in hub.PRETRAINED and not Path(weights).exists():
        raise UsageError(
            f"{weights!r} is a recipe without weights; run objecthood train {weights}, then use "
            f"runs/{weights}-s0"
        )
    if weights in hub.UNTRAINED:
        return typing.cast("Model", hub.load(weights))
    path = hub.resolve(weights)
    ours = checkpoint.read_description(path)["recipe"].get("task") in TASKS
    return checkpoint.load(
        path, checkpoint.described_recipe(path, type(named) if named and not ours else None)
    )


def choose_device(name: str, recipe: Recipe | None = None) -> torch.device:
    """The device; prints it and the precision of `recipe` with reasons. UsageError if it is unavailable."""
    import torch

    from objecthood.runtime import environment

    try:
        device = environment.choose_device(name)
        precision = environment.choose_precision(recipe.precision, device) if recipe else torch.float32
    except ValueError as error:
        raise UsageError(str(error)) from error
    why = "requested" if name != "auto" else "GPU found" if device.type == "cuda" else "no GPU found"
    line = f"device   {device} ({why})"
    if recipe:
        native = "native" if precision == torch.bfloat16 else "bfloat16 is not native"
        why = native if recipe.precision == "auto" else "requested"
        line += f", {str(precision).removeprefix('torch.')} ({why})"
    echo(line, flush=True)
    return device

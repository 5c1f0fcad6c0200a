"""`objecthood completion`: what a shell suggests when Tab is pressed, written by shtab from our options."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping

from objecthood.cli.options import UsageError, parse
from objecthood.runtime.spelling import did_you_mean

SHELLS = ("bash", "zsh", "tcsh")
_NAMES_FILES = frozenset("images weights what file out resume data_path json csv image site".split())
"""Fields whose values may be files or folders."""


@dataclasses.dataclass(frozen=True)
class CompletionOptions:
    """For whom."""

    shell: str
    """bash, zsh or tcsh."""


def completion(
    arguments: list[str], commands: Mapping[str, Callable[[list[str]], int]], options: Mapping[str, type]
) -> int:
    """Print what a shell needs to complete `commands` and their `options`; see `commands.completion`."""
    typed = parse(CompletionOptions, arguments, "completion", inspect.getdoc(commands["completion"]) or "")
    if typed.shell not in SHELLS:
        raise UsageError(f"SHELL (={typed.shell!r}) is not one; {did_you_mean(typed.shell, SHELLS)}")
    import shtab

    print(shtab.complete(parser(commands, options), typed.shell))
    return 0


def parser(
    commands: Mapping[str, Callable[[list[str]], int]], options: Mapping[str, type]
) -> argparse.ArgumentParser:
    """Commands, the names they know and their options, for shtab alone: `options` reads what is typed."""
    from objecthood.cli import benchmark, data, demo, export, listing, predict, sweep
    from objecthood.hub.pretrained import PRETRAINED, UNTRAINED
    from objecthood.recipes import RECIPES

    recipes, weights = list(RECIPES), [*PRETRAINED, *UNTRAINED]
    # Every field of any recipe is suggested, as which recipe it is may be typed later.
    fields = {type(recipe) for recipe in RECIPES.values()}
    known: dict[str, tuple[set[type], list[str]]] = {
        "train": (fields | {options["train"]}, recipes),
        "sweep": (fields | {sweep.SweepOptions}, recipes),
        "evaluate": ({options["evaluate"]}, weights),
        "predict": ({predict.PredictOptions}, []),
        "data": (set(), []),
        "list": ({listing.ListOptions}, ["recipes", "weights"]),
        "show": ({listing.ShowOptions}, [*weights, *recipes]),
        "export": ({export.ExportOptions}, weights),
        "demo": ({demo.DemoOptions}, weights),
        "benchmark": ({benchmark.BenchmarkOptions}, []),
        "doctor": (set(), []),
        "completion": ({CompletionOptions}, list(SHELLS)),
    }
    actions = {
        "render": (data.RenderOptions, ["clevr"]),
        "convert": (data.ConvertOptions, []),
    }
    whole = argparse.ArgumentParser("objecthood")
    whole.add_argument("--version", action="store_true", help="print the version")
    words = whole.add_subparsers()
    for name, (kinds, names) in known.items():
        about = (commands[name].__doc__ or "").splitlines()[0]
        command = words.add_parser(name, help=about, description=about)
        _add(command, kinds, names)
        if name == "data":
            parts = command.add_subparsers()
            for action, (kind, sources) in actions.items():
                _add(parts.add_parser(action, help=f"{action} scenes"), {kind}, sources)
    return whole


def _add(command: argparse.ArgumentParser, options: set[type], names: list[str]) -> None:
    """The words and options that dataclasses stand for."""
    import shtab

    fields: dict[str, dataclasses.Field[typing.Any]] = {}
    for kind in sorted(options, key=lambda kind: kind.__name__):
        fields |= {field.name: field for field in dataclasses.fields(kind)}
    named = "name" in fields  # a recipe's own fields all are options, and its name is the word
    words = [] if named else [name for name, field in fields.items() if _is_word(field)]
    for word in ["NAME"] if named else words:
        place = command.add_argument(word, nargs="*", choices=names or None)
        if not names:
            place.complete = shtab.FILE  # type: ignore[attr-defined]
    for name, field in fields.items():
        if name in words:
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(field.default, bool):
            command.add_argument(option, f"--no-{option[2:]}", action="store_true")
        elif name in _NAMES_FILES:
            command.add_argument(option).complete = shtab.FILE  # type: ignore[attr-defined]
        else:
            command.add_argument(option)


def _is_word(field: dataclasses.Field[typing.Any]) -> bool:
    """Whether `options.parse` takes the field without its name."""
    return field.default is dataclasses.MISSING or field.default == ()

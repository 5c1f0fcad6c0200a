"""`objecthood list` and `objecthood show`: recipes, weights and runs."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from objecthood.cli.lookup import find_recipe
from objecthood.cli.options import UsageError, parse
from objecthood.runtime import terminal
from objecthood.runtime.files import read_json
from objecthood.runtime.spelling import did_you_mean

if typing.TYPE_CHECKING:
    from rich.console import Console

    from objecthood.recipes import Recipe

PLAIN_WIDTH = 140
"""Width of tables, in characters, without a terminal."""


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """What to show."""

    what: str = dataclasses.field(metadata={"metavar": "NAME_OR_PATH"})
    """Weights, recipe, Python file with a recipe, weights file or run folder."""
    recipe: bool = False
    """Show the recipe if weights have the same name."""
    costs: bool = False
    """Also show the costs of a recipe: parameters, scenes, memory."""
    data_path: str = dataclasses.field(default="", metadata={"metavar": "PATH"})
    """With --costs, location of the scenes; the recipe's data_path by default."""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """What to list."""

    what: tuple[str, ...] = ()
    """recipes (default) or weights."""


def list_names(arguments: list[str]) -> int:
    """List recipes or pretrained weights: [recipes | weights].

    Recipes are listed with data, image size, training steps and expected score; bundled weights with recipe,
    seed, test scores, licence and file size. photos and video come first; no recipe trains them.
    """
    options = parse(ListOptions, arguments, "list", list_names)
    kinds = {"recipes": _list_recipes, "weights": _list_weights}
    if len(options.what) > 1:
        raise UsageError(
            f"unexpected argument {options.what[1]!r}; use objecthood list recipes or objecthood list weights"
        )
    what = options.what[0] if options.what else "recipes"
    if what not in kinds:
        raise UsageError(f"{what!r} cannot be listed; {did_you_mean(what, list(kinds))}")
    kinds[what]()
    return 0


def show(arguments: list[str]) -> int:
    """Show weights, a recipe or a run as JSON: NAME, FILE or RUN.

    Weights are described by their metadata: recipe, scores with protocol and seeds, data, licence and
    limitations. The tensors are not loaded.
    """
    options = parse(ShowOptions, arguments, "show", show)
    what, path = options.what, Path(options.what)
    from objecthood.hub.pretrained import PRETRAINED, UNTRAINED

    if options.data_path and not options.costs:
        raise UsageError("--data-path needs --costs; add --costs")
    if options.costs:
        facts: dict[str, Any] = _with_costs(find_recipe(what), options.data_path)
    elif what in PRETRAINED and not options.recipe:
        facts = {"name": what, **PRETRAINED[what].facts}
    elif what in UNTRAINED and not path.exists():
        facts = {"name": what, "description": UNTRAINED[what], "licence": "Apache-2.0"}
    elif path.is_dir():
        facts = {"recipe": read_json(path / "recipe.json")}
        if (path / "result.json").exists():
            facts["result"] = read_json(path / "result.json")
    elif path.is_file() and path.suffix != ".py":
        from objecthood.checkpoint.header import read_description

        facts = read_description(path)
    else:
        facts = find_recipe(what).to_dict()
    print(json.dumps(facts, indent=1))
    return 0


def _with_costs(recipe: Recipe, data_path: str) -> dict[str, Any]:
    from objecthood.cli.costs import costs

    if data_path and not hasattr(recipe, "data_path"):
        raise UsageError(f"{recipe.name} has no --data-path (={data_path}); omit it")
    changed: Any = recipe
    recipe = dataclasses.replace(changed, data_path=data_path) if data_path else recipe
    return recipe.to_dict() | {"costs": costs(recipe)}


def console() -> Console:
    """A console for tables: as wide as the terminal, or `PLAIN_WIDTH` without one."""
    plain = {"highlight": False, "markup": False, "emoji": False}
    wide = terminal.console(**plain)
    return wide if wide.is_terminal else terminal.console(**plain, width=PLAIN_WIDTH)


def _list_recipes() -> None:
    from rich.table import Table

    from objecthood.recipes import RECIPES

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "data", "pixels", "steps", "description", "expected"):
        numbers = heading in ("pixels", "steps")
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for name, recipe in RECIPES.items():
        fields = recipe.to_dict()
        side, what = f"{fields['resolution']} x {fields['resolution']}", recipe.description
        table.add_row(name, fields["data"], side, f"{recipe.steps:,}", what, recipe.expected or "-")
    console().print(table)


def _list_weights() -> None:
    from rich.table import Table

    from objecthood.hub.pretrained import PRETRAINED, UNTRAINED
    from objecthood.recipes.score_names import title

    table = Table(box=None, pad_edge=False)
    for heading in ("weights", "recipe", "seed", "scores on test scenes", "licence", "bytes"):
        table.add_column(
            heading, justify="right" if heading in ("seed", "bytes") else "left", overflow="fold"
        )
    for name, what in UNTRAINED.items():
        table.add_row(name, "-", "-", what, "Apache-2.0", "-")
    for name, one in PRETRAINED.items():
        scores = ", ".join(f"{title(key)} {value:.3f}" for key, value in one.scores.items())
        facts = one.facts
        table.add_row(name, facts["recipe"], str(facts["seed"]), scores, one.licence, f"{facts['bytes']:,}")
    console().print(table)

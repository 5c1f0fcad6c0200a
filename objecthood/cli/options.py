"""Parse the options of a command into a dataclass, with one-line errors and suggestions.

Option names are checked here against the fields of the dataclass; tyro then parses the values and writes the
help.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from objecthood.runtime.spelling import did_you_mean, plain

Options = TypeVar("Options")

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
_IN_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_METAVARS = {int: "N", float: "X"}
_WIDTH = 80
"""Width of help, in characters."""


class UsageError(ValueError):
    """A mistake in the command line, in one line. Exit code 2."""


def parse(
    options: type[Options], arguments: Sequence[str], command: str, function: object, *, flags: bool = True
) -> Options:
    """Parse `arguments` into an instance of the dataclass `options`, whose fields may be dataclasses.

    Fields without a default are positional; tuples take one or more words, or any number with a default. All
    other fields are `--field VALUE`. Booleans are switches (`--field`, `--no-field`), or take a value with
    `flags=False`. `--help` prints the docstring of `function` and the options, then raises SystemExit.

    Raises:
        UsageError: an unknown option, a missing argument or an invalid value.
    """
    import tyro

    about = inspect.getdoc(function) or ""
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs)
    config = markers if flags else (*markers, tyro.conf.FlagConversionOff)
    optional = _optional_words(options)
    for name in optional:  # marked here, so that no other module imports tyro
        options.__annotations__[name] = tyro.conf.Positional[tuple[str, ...]]
    settings: dict[str, Any] = {"prog": f"objecthood {command}", "description": about, "config": config}
    if {"-h", "--help"} & set(arguments):
        text = io.StringIO()
        with _plain_help(options), contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
            tyro.cli(options, args=["--help"], **settings | {"description": "ABOUT"})
        usage, _, lists = text.getvalue().partition("ABOUT")
        lines = [line.removeprefix(" ").rstrip() for line in lists.strip("\n").splitlines()]
        print(_wrapped(usage), _wrapped(about), "\n".join(lines).rstrip(), sep="\n\n")
        raise SystemExit(0)
    kinds, positional = _fields(options)
    words, values = _sort(arguments, kinds, positional, command, flags, optional)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(options, args=words + list(values.values()), **settings)
    except SystemExit:
        raise UsageError(_explain(output.getvalue(), kinds, values, command)) from None


@contextlib.contextmanager
def _plain_help(options: type) -> Iterator[None]:
    """Annotate fields for readable help: metavars (`_metavar`), docstrings as paragraphs, and no empty
    defaults. Restores annotations afterwards."""
    import tyro

    before: list[tuple[type, dict[str, Any]]] = []
    waiting = [options]
    try:
        while waiting:
            owner = waiting.pop()
            before.append((owner, dict(owner.__annotations__)))
            hints, texts = typing.get_type_hints(owner), _docstrings(owner)
            for field in dataclasses.fields(owner):
                kind, settings = hints[field.name], dict[str, Any]()
                if dataclasses.is_dataclass(kind):
                    waiting.append(typing.cast(type, kind))
                    continue
                if field.name in texts:
                    settings["help"] = texts[field.name]
                if field.default in ("", None, ()):
                    settings["help_behavior_hint"] = ""
                if bool not in _members(kind):
                    settings["metavar"] = _metavar(field, kind)
                if settings:
                    marks: list[Any] = [tyro.conf.arg(**settings)]
                    marks += [tyro.conf.Positional] if field.name in _optional_words(owner) else []
                    for mark in marks:
                        kind = mark[kind] if mark is tyro.conf.Positional else typing.Annotated[kind, mark]
                    owner.__annotations__[field.name] = kind
        yield
    finally:
        for owner, annotations in before:
            owner.__annotations__.clear()
            owner.__annotations__.update(annotations)


def _docstrings(owner: type) -> dict[str, str]:
    """The docstring of each field, in one line: tyro keeps the line breaks of the source."""
    found: dict[str, str] = {}
    for parent in reversed(owner.__mro__[:-1]):
        try:
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        except (OSError, TypeError):  # made without a file
            continue
        body = node.body if isinstance(node, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            constant = text.value if isinstance(text, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(constant, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(constant.value).split())
    return found


def _metavar(field: dataclasses.Field[Any], kind: Any) -> str:
    """The placeholder of a value in help: the field's own, its choices, N or X for numbers, or its name."""
    members = [member for member in _members(kind) if member is not type(None)]
    if typing.get_origin(members[0]) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(members[0]))) + "}"
    own = "PATH" if field.name.endswith("_path") else field.name.upper()
    name = str(field.metadata.get("metavar", _METAVARS.get(members[0], own)))
    return f"[{name} ...]" if field.default == () and not field.metadata.get("is_option") else name


def _wrapped(text: str) -> str:
    """Paragraphs wrapped to `_WIDTH`."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _WIDTH) for part in text.strip().split("\n\n"))


def several(name: str, typed: str, known: Sequence[str]) -> list[str]:
    """The comma-separated values of --`name`; UsageError for one that is not `known`.

    >>> several("also", "arrays, cutouts", ["arrays", "cutouts"])
    ['arrays', 'cutouts']
    """
    values = [value.strip() for value in typed.split(",") if value.strip()]
    for value in values:
        if value not in known:
            raise UsageError(f"--{name} (={value!r}) is unknown; {did_you_mean(value, known)}")
    return values


def _fields(options: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Types of the options, by their name on the command line, and of the positional arguments.

    Fields of nested dataclasses take defaults from the nested instance, so all of them are options.
    """
    named: dict[str, Any] = {}
    positional: dict[str, Any] = {}
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            within = typing.get_type_hints(kind)
            named |= {plain(part.name): within[part.name] for part in dataclasses.fields(kind)}
        elif field.default is dataclasses.MISSING or field.name in _optional_words(options):
            positional[field.name] = kind
        else:
            named[plain(field.name)] = kind
    return named, positional


def _optional_words(options: type) -> list[str]:
    """Positional fields that take zero or more words."""
    return [
        field.name
        for field in dataclasses.fields(options)
        if field.default == () and not field.metadata.get("is_option")
    ]


def is_option(token: str) -> bool:
    """Whether a word is an option rather than a value such as -1."""
    return token.startswith("-") and token != "-" and not _NUMBER.match(token)


def _sort(
    arguments: Sequence[str],
    kinds: dict[str, Any],
    positional: dict[str, Any],
    command: str,
    flags: bool,
    optional: Sequence[str],
) -> tuple[list[str], dict[str, str]]:
    """Positional words, and for each option the token with its value for tyro (the last one counts)."""
    words: list[str] = []
    values: dict[str, str] = {}
    tokens = iter(arguments)
    for token in tokens:
        if token == "--":  # the rest is positional; ./ keeps tyro from parsing it as an option
            words += [f"./{word}" if is_option(word) else word for word in tokens]
            break
        if not is_option(token):
            words.append(token)
            continue
        typed, equals, value = token.partition("=")
        name, switch = _find(typed, kinds, command, flags)
        if switch:
            if equals:
                raise UsageError(f"{typed} takes no value (={value!r}); write --{name} or --no-{name}")
            values[name] = switch
            continue
        if not equals:
            value = next(tokens, "--")
            if is_option(value):
                raise UsageError(f"{typed} needs a value, {_allowed(kinds[name])}; write {typed} VALUE")
        if bool in _members(kinds[name]):
            value = value.capitalize()
        values[name] = f"--{name}={value}"
    several = any(typing.get_origin(kind) is tuple for kind in positional.values())
    if len(words) > len(positional) and not several:
        raise UsageError(f"unexpected argument {words[len(positional)]!r}; write options as --name VALUE")
    needed = [name for name in positional if name not in optional]
    if len(words) < len(needed):
        missing = needed[len(words)].upper()
        raise UsageError(f"{missing} is missing; see objecthood {command} --help")
    return words, values


def _find(typed: str, kinds: dict[str, Any], command: str, flags: bool) -> tuple[str, str]:
    """The option's name and, for a switch, its token for tyro."""
    name = typed.lstrip("-").replace("_", "-")
    switches = [name for name, kind in kinds.items() if kind is bool] if flags else []
    known = {name: name for name in kinds} | {f"no-{name}": name for name in switches}
    if not typed.startswith("--") or name not in known:
        question = did_you_mean(name, list(known), "--")
        if os.path.exists(typed):
            question = f"the file of that name is ./{typed}; {question}"
        raise UsageError(f"{command} has no option {typed}; {question} See objecthood {command} --help")
    return known[name], f"--{name}" if known[name] in switches else ""


def _explain(output: str, kinds: dict[str, Any], values: dict[str, str], command: str) -> str:
    """Tyro's error box as one line."""
    output = " ".join(output.split())
    refused = re.search(r"Error parsing \w+: (`.*?) -----", output)  # raised by the dataclass
    if refused:
        return refused.group(1)
    match = re.search(r"--([a-z][a-z0-9-]*)", output)
    name = match.group(1) if match else ""
    if name in values:
        value = values[name].partition("=")[2]
        return f"--{name} (={value!r}) must be {_allowed(kinds[name])}; see objecthood {command} --help"
    return f"{output.strip(' -')}; see objecthood {command} --help"


def _allowed(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return " or ".join(
        _IN_WORDS.get(member, str(member)) for member in _members(kind) if member is not type(None)
    )


def _members(kind: Any) -> tuple[Any, ...]:
    """The member types of a union; any other type itself."""
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if is_union else (kind,)

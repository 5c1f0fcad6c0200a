"""What was typed after a command -> its options; or one line: what is wrong, what was probably meant.

Names are checked here, against the fields of a dataclass, before anything is read or computed; tyro then
gives the values the types of the fields, and writes the help of a command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from objecthood.runtime.spelling import did_you_mean, plain

Options = TypeVar("Options")

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
_IN_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


class UsageError(ValueError):
    """Something was typed wrongly; one line, as the command shows it. Exit code 2."""


def parse(
    options: type[Options], arguments: Sequence[str], command: str, about: str, *, flags: bool = True
) -> Options:
    """An instance of the dataclass `options` (whose fields may be such dataclasses) from what was typed.

    Fields without a default are positional, a tuple takes one or more, or with a default none or more; all
    others are `--field value`.
    Booleans are switches (`--field`, `--no-field`), or with `flags=False` take a value as well. `about` heads
    the help, which `--help` prints, followed by SystemExit. Raises UsageError for whatever does not fit.
    """
    import tyro

    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs)
    config = markers if flags else (*markers, tyro.conf.FlagConversionOff)
    optional = _optional_words(options)
    for name in optional:  # tyro's marker, put in here so that no module needs tyro for it
        options.__annotations__[name] = tyro.conf.Positional[tuple[str, ...]]
    settings: dict[str, Any] = {"prog": f"objecthood {command}", "description": about, "config": config}
    if {"-h", "--help"} & set(arguments):
        with _plain_help(options):
            tyro.cli(options, args=["--help"], **settings)
    kinds, positional = _fields(options)
    words, values = _sort(arguments, kinds, positional, command, flags, optional)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(options, args=words + list(values.values()), **settings)
    except SystemExit:
        raise UsageError(_explain(said.getvalue(), kinds, values, command)) from None


@contextlib.contextmanager
def _plain_help(options: type) -> Iterator[None]:
    """Help without what only says how Python writes it: None among the values, defaults that are nothing,
    "STR" for what has a name. Annotations are as before afterwards."""
    import tyro

    before: list[tuple[type, dict[str, Any]]] = []
    waiting = [options]
    try:
        while waiting:
            owner = waiting.pop()
            before.append((owner, dict(owner.__annotations__)))
            hints = typing.get_type_hints(owner)
            for field in dataclasses.fields(owner):
                kind, settings = hints[field.name], dict[str, Any]()
                if dataclasses.is_dataclass(kind):
                    waiting.append(typing.cast(type, kind))
                    continue
                if field.default in ("", None, ()):
                    settings["help_behavior_hint"] = ""
                name = field.metadata.get("metavar", field.name.upper())
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                    settings["metavar"] = name
                elif field.default == ():
                    settings["metavar"] = f"[{name} ...]"
                elif type(None) in _members(kind):
                    names = (member.__name__.upper() for member in _members(kind) if member is not type(None))
                    settings["metavar"] = "|".join(names)
                if settings:
                    marks: list[Any] = [tyro.conf.arg(**settings)]
                    marks += [tyro.conf.Positional] if field.default == () else []
                    for mark in marks:
                        kind = mark[kind] if mark is tyro.conf.Positional else typing.Annotated[kind, mark]
                    owner.__annotations__[field.name] = kind
        yield
    finally:
        for owner, annotations in before:
            owner.__annotations__.clear()
            owner.__annotations__.update(annotations)


def several(name: str, typed: str, known: Sequence[str]) -> list[str]:
    """The values of --`name`, typed with commas between them; UsageError for one that is not `known`.

    >>> several("also", "arrays, cutouts", ["arrays", "cutouts"])
    ['arrays', 'cutouts']
    """
    values = [value.strip() for value in typed.split(",") if value.strip()]
    for value in values:
        if value not in known:
            raise UsageError(f"--{name} (={value!r}) is not one; {did_you_mean(value, known)}")
    return values


def _fields(options: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Types of the named options, by their name on the command line, and of the positional ones.

    What lies in a dataclass within has a default from the instance that stands there, so all of it is named.
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
    """Fields that take any number of words, none included."""
    return [field.name for field in dataclasses.fields(options) if field.default == ()]


def is_option(token: str) -> bool:
    """Whether a word names an option, rather than being a value such as -1."""
    return token.startswith("-") and token != "-" and not _NUMBER.match(token)


def _sort(
    arguments: Sequence[str],
    kinds: dict[str, Any],
    positional: dict[str, Any],
    command: str,
    flags: bool,
    optional: Sequence[str],
) -> tuple[list[str], dict[str, str]]:
    """Plain words, and for each option the one token that gives tyro its value (the last one counts)."""
    words: list[str] = []
    values: dict[str, str] = {}
    tokens = iter(arguments)
    for token in tokens:
        if token == "--":  # whatever follows is a word; ./ keeps tyro from taking it for an option
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
        raise UsageError(f"{words[len(positional)]!r} is one word too many; options are written --name VALUE")
    needed = [name for name in positional if name not in optional]
    if len(words) < len(needed):
        missing = needed[len(words)].upper()
        raise UsageError(f"{missing} is missing; see objecthood {command} --help")
    return words, values


def _find(typed: str, kinds: dict[str, Any], command: str, flags: bool) -> tuple[str, str]:
    """The option's name and, where it is a switch, what tyro calls the position it is put in."""
    name = typed.lstrip("-").replace("_", "-")
    switches = [name for name, kind in kinds.items() if kind is bool] if flags else []
    known = {name: name for name in kinds} | {f"no-{name}": name for name in switches}
    if not typed.startswith("--") or name not in known:
        question = did_you_mean(name, list(known), "--")
        if os.path.exists(typed):
            question = f"the file of that name is ./{typed}; {question}"
        raise UsageError(f"{command} has no option {typed}; {question} objecthood {command} --help lists all")
    return known[name], f"--{name}" if known[name] in switches else ""


def _explain(said: str, kinds: dict[str, Any], values: dict[str, str], command: str) -> str:
    """Tyro's box of several lines as one line."""
    said = " ".join(said.split())
    refused = re.search(r"Error parsing \w+: (`.*?) -----", said)  # what a dataclass itself does not accept
    if refused:
        return refused.group(1)
    match = re.search(r"--([a-z][a-z0-9-]*)", said)
    name = match.group(1) if match else ""
    if name in values:
        value = values[name].partition("=")[2]
        return f"--{name} (={value!r}) must be {_allowed(kinds[name])}; see objecthood {command} --help"
    return f"{said.strip(' -')}; see objecthood {command} --help"


def _allowed(kind: Any) -> str:
    """A type in words."""
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return " or ".join(
        _IN_WORDS.get(member, str(member)) for member in _members(kind) if member is not type(None)
    )


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a union allows; of any other type, itself."""
    is_union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if is_union else (kind,)

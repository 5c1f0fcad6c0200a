"""Atomic file writes that do not follow symbolic links, and checked file names.

An untrusted folder may hold symbolic links in place of the files that a command writes. Every file is
written under a new random name (O_EXCL, O_NOFOLLOW) and renamed, which replaces a link and not its target.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from objecthood.runtime.limits import JSON_DEPTH, NAME_LENGTH

_NAME = re.compile(r"[\w.-]+")
_STAGED = re.compile(r"\.[0-9a-f]{32}\.part(\.\w+)?")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


def staged_name(path: Path) -> Path:
    """A random name beside `path`, for a file that is renamed to `path` once it is whole."""
    return path.with_name(f".{uuid.uuid4().hex}.part")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` (or a link there) when the block ends without an error.

    Raises OSError if it cannot be written; `path` is then unchanged.
    """
    staged = staged_name(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(staged, flags, 0o666), "w+b") as file:
            yield file
        os.replace(staged, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file, a read-only one the random name
        raise
    finally:
        staged.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """The name of a new file or folder, with the ending of `path`, for what is written by name; when the
    block ends without an error it takes the place of `path`, or of a link there. OSError, before the block,
    where the folder takes no file."""
    place = path.with_name(f"{staged_name(path).name}{path.suffix}")
    try:
        try_writing(path.parent)
        yield place
        os.replace(place, path)
    except OSError as error:
        try:
            error.filename = str(path)
        except AttributeError:  # an error of PyAV takes no other name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """A new folder for many files, which move into `folder` when the block ends without an error; files there
    with other names stay. OSError, before the block, where nothing can be written beside `folder`."""
    place = staged_name(refuse_link(folder))
    place.mkdir()
    try:
        yield place
        real_folder(folder)
        for file in place.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def new_path(path: Path, suffix: str) -> Path:
    """`path`; ValueError if it exists, has another suffix, or its folder is missing."""
    if os.path.lexists(path):  # a link that leads nowhere as well
        raise ValueError(f"{path} exists and is not replaced; choose a new path")
    if suffix and path.suffix != suffix:
        raise ValueError(f"{path} must end in {suffix}; name it {path.with_suffix(suffix).name}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"folder {path.parent} of {path.name} does not exist; create it first")
    return path


def try_writing(folder: Path) -> None:
    """Write a file in `folder` that is gone at once; OSError, with the folder's name, where that fails: to be
    told before the work and not after it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"objecthood")
    except OSError as error:
        error.filename = str(folder)
        raise


def check_named(name: str) -> None:
    """OSError where a file that a user names for results could not be written."""
    if _takes_file(name):
        try_writing(Path(os.path.realpath(name)).parent)


def write_named(name: str, text: str) -> None:
    """Write the file that a user names, links followed, whole or not at all; or into a device or a pipe."""
    if _takes_file(name):
        write_text(Path(os.path.realpath(name)), text)
    else:
        Path(name).write_text(text)


def _takes_file(name: str) -> bool:
    return os.path.isfile(name) or not os.path.exists(name)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file of `text`, as UTF-8 (a lone surrogate becomes "?")."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by a JSON file."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def remove_staged(folder: Path) -> None:
    """Remove the unfinished files and folders that a killed process left in `folder` or below; nobody else
    may write there."""
    for left in list(folder.rglob(".*.part*")):
        if _STAGED.fullmatch(left.name):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def refuse_link(path: Path) -> Path:
    """`path`; ValueError where it is a symbolic link."""
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, and nothing is written through one; remove it, or name another "
            "folder"
        )
    return path


def real_folder(path: Path) -> Path:
    """Make the folder `path` and return it; ValueError where a symbolic link stands there."""
    refuse_link(path).mkdir(parents=True, exist_ok=True)
    return path


def remove_link(path: Path) -> Path:
    """`path`, ready to be written to: a symbolic link there is removed, and what it points to stays."""
    if path.is_symlink():
        path.unlink()
    return path


def read_plain(path: Path) -> bytes | None:
    """The content of a regular file; None where there is none, or a link, a pipe or a device."""
    if path.is_symlink() or not path.is_file():
        return None
    with open(os.open(path, os.O_RDONLY | _NO_LINK | getattr(os, "O_BINARY", 0)), "rb") as file:
        return file.read()


def sha256_of(file: Path) -> str:
    """SHA-256 as hexadecimal digits; OSError for a pipe or device, which may never end."""
    if not file.is_file():
        raise OSError(f"no file {file.name}")
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_length(file: Path, length: int) -> None:
    """ValueError where a file that is mapped into memory became shorter than `length` bytes: to read beyond
    its end would kill the process. A file that was removed is still there for who has mapped it."""
    with contextlib.suppress(FileNotFoundError):
        found = file.stat().st_size
        if found < length:
            raise ValueError(
                f"{file} was cut to {found} of {length} bytes while it was read; restore it, or remove its "
                "folder and make it anew"
            )


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text; ValueError, in one line, also where it is no UTF-8, nests deeper than
    `limits.JSON_DEPTH`, or holds a whole number beyond 18 digits.

    >>> parse_json('{"step": 3}')
    {'step': 3}
    """
    try:
        value = json.loads(content, parse_int=_whole_number)
    except RecursionError:
        value = None
        depth = JSON_DEPTH + 1
    else:
        depth = _depth(value)
    if depth > JSON_DEPTH:
        raise ValueError(f"more than {JSON_DEPTH} lists and objects inside each other")
    return value


def _whole_number(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _depth(value: Any) -> int:
    """How many lists and objects lie inside each other, counted up to one more than is allowed."""
    depth, inner = 0, [value] if isinstance(value, dict | list) else []
    while inner and depth <= JSON_DEPTH:
        parts = (part for one in inner for part in (one.values() if isinstance(one, dict) else one))
        inner = [part for part in parts if isinstance(part, dict | list)]
        depth += 1
    return depth


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_name(name: object, what: str) -> str:
    """`name`, which may become part of a path; ValueError where it is no text of letters, digits, "_", "."
    and "-", is "." or "..", or has more than `limits.NAME_LENGTH` characters.

    >>> check_name("sprites-2", "name")
    'sprites-2'
    """
    text = name if isinstance(name, str) and len(name) <= NAME_LENGTH else ""
    if _NAME.fullmatch(text) and text not in (".", ".."):
        return text
    raise ValueError(
        f"`{what}` (={name!r:.60}) must be 1 to {NAME_LENGTH} letters, digits, `_`, `.` or `-`, and not `.` "
        "or `..`; choose another"
    )


def plain_stem(path: Path) -> str:
    """The name of a file without its ending, safe to begin another file's name with: a stem that is empty,
    "." or ".." becomes "unnamed".

    >>> plain_stem(Path("a/x.png")), plain_stem(Path("a/..png")), plain_stem(Path("...mp4"))
    ('x', 'unnamed', 'unnamed')
    """
    return plain_part(path.name.removesuffix(path.suffix))


def plain_part(name: str) -> str:
    """`name`, or "unnamed" where it is empty, "." or ".." and would lead to another folder."""
    return "unnamed" if name in ("", ".", "..") else name


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a run folder; ValueError where there is none."""
    try:
        facts = parse_json(file.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{file.parent} is not a run folder (no {file.name}); name a folder that train wrote"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); restore it or train again") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{file} is damaged (not a JSON object); restore it or train again")
    return facts

"""The output folder of predictions: unique result names, kept in a record.

The record (`predictions.json`, or `video-predictions.json` for videos) marks the folder as an output folder
and maps result names to input files, so that later calls reuse the names.
"""

from __future__ import annotations

import hashlib
import os
import re
import weakref
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from objecthood.data.io.frames import is_video
from objecthood.data.io.images import RESULT_RECORDS
from objecthood.runtime.files import parse_json, plain_stem, refuse_link, remove_staged, write_json
from objecthood.runtime.signals import lock_folder

RECORD, FORMAT = "predictions.json", RESULT_RECORDS["predictions.json"]
VIDEO_RECORD, VIDEO_FORMAT = "video-predictions.json", RESULT_RECORDS["video-predictions.json"]
IN_MEMORY = "in memory"
"""Recorded in place of the path of an image without a file."""
LONGEST_ENDING = len("-attention.gif")
NUMBER_ROOM = len("-9999999")
_Item = TypeVar("_Item")


class ResultFolder:
    """A new or empty folder, or an earlier output folder; ValueError if it holds other files.

    Nothing is written before `open`, which locks the folder until `close` against concurrent writes.

    Args:
        path: the folder.
        record: `RECORD` of images or `VIDEO_RECORD` of videos.

    Example:
        >>> images = {Path("a/x.png"): Path("x.png"), Path("b/x.png"): Path("x.png")}
        >>> list(ResultFolder("not there yet").choose(images).values())
        ['x', 'x-2']
    """

    def __init__(self, path: str | Path, record: str = RECORD):
        self.path, self._file = Path(path), Path(path) / record
        self._record = _read_record(self._file)
        self._unlock: weakref.finalize[..., Any] | None = None

    def open(self) -> None:
        """Create, lock and mark the folder; ValueError if another process writes there."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(self.path, "written to", "wait for it, or use another folder")
        self._unlock = weakref.finalize(self, _close, lock)
        remove_staged(self.path)
        self._record = _read_record(self._file)  # another process may have written meanwhile
        write_json(self._file, self._record)

    def close(self) -> None:
        """Release the lock."""
        if self._unlock is not None:
            self._unlock()

    def closing(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield `items`, then close the folder."""
        try:
            yield from items
        finally:
            self.close()

    def choose(self, images: dict[Path, Path], new: Collection[Path] = ()) -> dict[Path, str]:
        """Choose a result name for each image (path -> relative path); recorded if the folder is open.

        The name is the relative path without suffix ("unnamed" if the stem is empty, "." or ".."), shortened
        to the limit of the file system, with a number if it is taken (ignoring case). Images in `new` have no
        file (arrays, stdin, a camera) and always get new names.
        """
        known: dict[str, str] = self._record["names"]
        names = {}
        taken = {name.casefold(): source for name, source in known.items()}
        folders = {name for name, source in taken.items() if is_video(source)}  # folders of video frames
        own: dict[str, list[str]] = {}
        for name, source in known.items():
            if source != IN_MEMORY:
                own.setdefault(source, []).append(name)
        numbers: dict[str, int] = {}  # of other sources, all up to this one are taken
        longest = _name_bytes(self.path) - LONGEST_ENDING - NUMBER_ROOM
        for path, relative in images.items():
            source = IN_MEMORY if path in new else os.path.realpath(path)
            stem = shortened(plain_stem(relative), longest)
            parent = relative.parent.as_posix()
            plain = _beside(f"{parent}/", source, taken, folders) + stem if parent != "." else stem
            earlier = (name for name in own.get(source, []) if plain in (name, re.sub(r"-\d+$", "", name)))
            name, number = next(earlier, plain), numbers.get(plain.casefold(), 1)
            while not _is_free(name.casefold(), source, taken):
                number += 1
                name = f"{plain}-{number}"
            numbers[plain.casefold()] = number
            taken[name.casefold()] = known[name] = source
            if is_video(source):
                folders.add(name.casefold())
            names[path] = name
        if self._unlock is not None:
            write_json(self._file, self._record)
        return names

    def place(self, name: str) -> Path:
        """The path of a chosen name; ValueError if a parent folder is a symbolic link."""
        stem = self.path / name
        for parent in (self.path / part for part in Path(name).parents if part.name):
            refuse_link(parent)
        return stem


def shortened(stem: str, longest: int) -> str:
    """`stem`, shortened to at most `longest` bytes with a hash of the whole if needed.

    >>> shortened("photo", 20), shortened(40 * "a", 20)
    ('photo', 'aaaaaaaaaaa-e33cdf9c')
    """
    content = os.fsencode(stem)
    if len(content) <= longest:
        return stem
    digest = hashlib.sha256(content).hexdigest()[:8]
    beginning = content[: max(1, longest - len(digest) - 1)].decode(errors="ignore")
    return f"{beginning}-{digest}"


def _is_free(name: str, source: str, taken: dict[str, str]) -> bool:
    """Whether `name` is not used by another source, and for a video whether its folder of frames is free."""
    if taken.get(name, source) != source or (name in taken and source == IN_MEMORY):
        return False
    return not is_video(source) or not any(other.startswith(f"{name}/") for other in taken)


def _beside(folder: str, source: str, taken: dict[str, str], folders: set[str]) -> str:
    """`folder` ("a/b/") with numbers added to parts that are folders of frames of another video."""
    place = ""
    for part in Path(folder).parts:
        number, name = 1, f"{place}{part}"
        while name.casefold() in folders and taken[name.casefold()] != source:
            number += 1
            name = f"{place}{part}-{number}"
        place = f"{name}/"
    return place


def _name_bytes(folder: Path) -> int:
    """The longest file name that the file system of `folder` allows, in bytes."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError, AttributeError):  # Windows
        return 255


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def _read_record(file: Path) -> dict[str, Any]:
    """The record of earlier calls; ValueError if the folder holds other files."""
    out, wanted = file.parent, RESULT_RECORDS[file.name]
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {"format": wanted, "names": {}}
    try:
        record = parse_json(file.read_bytes())
        names = record.get("names", {})  # missing in older records of videos
        if record["format"] == wanted and all(
            isinstance(part, str) for entry in names.items() for part in entry
        ):
            return {"format": wanted, "names": dict(names)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    kind = "video predictions" if file.name == VIDEO_RECORD else "predictions"
    raise ValueError(f"{out} holds files that are not {kind}; use a new or empty output folder")

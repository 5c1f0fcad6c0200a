"""The folder that predictions are written to: whose name each result has, and that nothing else lies there.

A record (`predictions.json`, of videos `video-predictions.json`) marks a folder as ours and keeps names, so
that the results of a file are found under the same name again, whatever is asked for later.
"""

from __future__ import annotations

import hashlib
import os
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
"""What the record says in place of the path of an image that has none."""
LONGEST_ENDING = len("-attention.gif")
NUMBER_ROOM = len("-9999999")
_Item = TypeVar("_Item")


class ResultFolder:
    """A new or empty folder, or one that was opened earlier; ValueError where it holds other files.

    Nothing is written before `open`, after which the folder is locked until `close`: two runs never write
    into one folder at the same time.

    Args:
        path: the folder.
        record: `RECORD` of images or `VIDEO_RECORD` of videos.

    Example:
        >>> pictures = {Path("a/x.png"): Path("x.png"), Path("b/x.png"): Path("x.png")}
        >>> list(ResultFolder("not there yet").choose(pictures).values())
        ['x', 'x-2']
    """

    def __init__(self, path: str | Path, record: str = RECORD):
        self.path, self._file = Path(path), Path(path) / record
        self._record = _read_record(self._file)
        self._unlock: weakref.finalize[..., Any] | None = None

    def open(self) -> None:
        """Make the folder, lock it, and mark it as ours; ValueError where another run writes there."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(self.path, "written to", "wait for it, or name another folder")
        self._unlock = weakref.finalize(self, _close, lock)
        remove_staged(self.path)
        self._record = _read_record(self._file)  # what a run that ended meanwhile wrote
        write_json(self._file, self._record)

    def close(self) -> None:
        """Give the lock back."""
        if self._unlock is not None:
            self._unlock()

    def closing(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """`items`, with the folder open until the last one was taken."""
        try:
            yield from items
        finally:
            self.close()

    def choose(self, pictures: dict[Path, Path], new: Collection[Path] = ()) -> dict[Path, str]:
        """A name for the results of each picture, given its path below what was asked for; recorded where the
        folder is open.

        Its own without suffix ("unnamed" where that leaves nothing, "." or ".."), shortened where the file
        system allows no name as long, with a number where another has it. Capitals make no difference, as on
        some systems. Pictures of `new` have no file (arrays, standard input, a camera): nothing says that
        they are those of an earlier call, so their names are always new.
        """
        known: dict[str, str] = self._record["names"]
        names = {}
        taken = {name.casefold(): source for name, source in known.items()}
        folders = {name for name, source in taken.items() if is_video(source)}  # of the frames of a video
        longest = _name_bytes(self.path) - LONGEST_ENDING - NUMBER_ROOM
        for path, relative in pictures.items():
            source = IN_MEMORY if path in new else os.path.realpath(path)
            stem = shortened(plain_stem(relative), longest)
            parent = relative.parent.as_posix()
            plain = _beside(f"{parent}/", source, taken, folders) + stem if parent != "." else stem
            name, number = plain, 1
            while not _is_free(name.casefold(), source, taken):
                number += 1
                name = f"{plain}-{number}"
            taken[name.casefold()] = known[name] = source
            if is_video(source):
                folders.add(name.casefold())
            names[path] = name
        if self._unlock is not None:
            write_json(self._file, self._record)
        return names

    def place(self, name: str) -> Path:
        """Where results of a chosen name begin; ValueError where a symbolic link leads out of the folder."""
        stem = self.path / name
        for parent in (self.path / part for part in Path(name).parents if part.name):
            refuse_link(parent)
        return stem


def shortened(stem: str, longest: int) -> str:
    """`stem`, or where it has more than `longest` bytes its beginning with a hash of the whole.

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
    """Whether results of `source` may have `name`: nobody else has it, and where the frames of a video would
    lie, in a folder of its name, lies nothing else."""
    if taken.get(name, source) != source or (name in taken and source == IN_MEMORY):
        return False
    return not is_video(source) or not any(other.startswith(f"{name}/") for other in taken)


def _beside(folder: str, source: str, taken: dict[str, str], folders: set[str]) -> str:
    """A folder ("a/b/") without frames of videos but `source`: each part has a number where some are."""
    place = ""
    for part in Path(folder).parts:
        number, name = 1, f"{place}{part}"
        while name.casefold() in folders and taken[name.casefold()] != source:
            number += 1
            name = f"{place}{part}-{number}"
        place = f"{name}/"
    return place


def _name_bytes(folder: Path) -> int:
    """The longest name of a file that the file system of `folder` allows, in bytes."""
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
    """What earlier calls wrote into the folder; ValueError where it holds files of others."""
    out, wanted = file.parent, RESULT_RECORDS[file.name]
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {"format": wanted, "names": {}}
    try:
        record = parse_json(file.read_bytes())
        names = record.get("names", {})  # records of videos held none before
        if record["format"] == wanted and all(
            isinstance(part, str) for entry in names.items() for part in entry
        ):
            return {"format": wanted, "names": dict(names)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    kind = "video predictions" if file.name == VIDEO_RECORD else "predictions"
    raise ValueError(f"{out} holds files that are not {kind}; name a new or an empty folder to write to")

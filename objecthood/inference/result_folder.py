"""The folder that predictions are written to: whose name each result has, and that nothing else lies there.

`predictions.json` marks a folder as ours and keeps names, so that a picture's results are found under the
same name again, whatever is asked for later.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from objecthood.runtime.files import plain_stem, refuse_link, write_json

RECORD, FORMAT = "predictions.json", "objecthood-predictions-1"


class ResultFolder:
    """A new or empty folder, or one that was opened earlier; ValueError where it holds other files.

    Nothing is written before `open`.

    Example:
        >>> pictures = {Path("a/x.png"): Path("x.png"), Path("b/x.png"): Path("x.png")}
        >>> list(ResultFolder("not there yet").choose(pictures).values())
        ['x', 'x-2']
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._record = _read_record(self.path)

    def choose(self, pictures: dict[Path, Path]) -> dict[Path, str]:
        """A name for the results of each picture, given its path below what was asked for.

        Its own without suffix ("unnamed" where that leaves nothing, "." or ".."), with a number where another
        has it. Capitals make no difference, as on some systems.
        """
        known: dict[str, str] = self._record["names"]
        names = {}
        taken = {name.casefold(): source for name, source in known.items()}
        for path, relative in pictures.items():
            source, plain = os.path.realpath(path), relative.with_name(plain_stem(relative)).as_posix()
            name, number = plain, 1
            while taken.get(name.casefold(), source) != source:
                number += 1
                name = f"{plain}-{number}"
            taken[name.casefold()] = known[name] = source
            names[path] = name
        return names

    def place(self, name: str) -> Path:
        """Where results of a chosen name begin; ValueError where a symbolic link leads out of the folder."""
        stem = self.path / name
        for parent in (self.path / part for part in Path(name).parents if part.name):
            refuse_link(parent)
        return stem

    def open(self) -> None:
        """Make the folder, and write the names that were chosen."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RECORD, self._record)


def _read_record(out: Path) -> dict[str, Any]:
    """What earlier calls wrote into `out`; ValueError where it holds files of others."""
    file = out / RECORD
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {"format": FORMAT, "names": {}}
    try:
        record = json.loads(file.read_text())
        if record["format"] == FORMAT:
            return record
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{out} holds files that are not predictions; name a new or an empty folder to write to")

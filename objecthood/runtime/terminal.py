"""Safe terminal output of untrusted names.

Names of files and recipes may hold escape sequences or bidirectional control characters (Boucher and
Anderson 2021, "Trojan Source"); both are printed as escapes.
"""

from __future__ import annotations

import typing
import unicodedata
from typing import Any

if typing.TYPE_CHECKING:
    from rich.console import Console

_KEPT = "\n\t"
_HIDDEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories of control characters, surrogates, and line and paragraph separators."""
_DIRECTION = frozenset(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def printable(text: str) -> str:
    r"""`text` with control characters (except line breaks and tabs) and direction marks escaped.

    >>> printable("a\x1b[2Jb é 猫")
    'a\\x1b[2Jb é 猫'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character in _KEPT or not _is_hidden(character) else _escaped(character)
        for character in text
    )


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _DIRECTION


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def echo(text: object = "", *, file: Any = None, flush: bool = False) -> None:
    """Print a line with `printable`."""
    print(printable(str(text)), file=file, flush=flush)


def console(**options: Any) -> Console:
    """A rich console that applies `printable` to all text."""
    from rich.console import Console

    class Printable(Console):
        def render_str(self, text: str, **more: Any) -> Any:
            return super().render_str(printable(text), **more)

        def on_broken_pipe(self) -> None:  # rich would end the process with code 1
            raise BrokenPipeError

    return Printable(**options)

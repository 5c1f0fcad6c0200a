"""The name that was probably meant, for messages about names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ALIKE = 0.6
"""Share of common letters from which on a name is suggested (the default of `difflib.get_close_matches`)."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The name that `word` was probably meant to be, or "" where none is near.

    Capitals and underscores count for nothing; a beginning, a whole part and initials are as good as a name.

    >>> nearest("eval", ["train", "evaluate"]), nearest("lr", ["learning-rate"])
    ('evaluate', 'learning-rate')
    >>> nearest("xyz", ["train", "evaluate"])
    ''
    """
    typed = plain(word)

    def likeness(name: str) -> float:
        whole = plain(name)
        parts = whole.split("-")
        if typed == whole:
            return 2.0
        if typed and (
            whole.startswith(typed) or typed in parts or typed == "".join(part[:1] for part in parts)
        ):
            return 1.0 + len(typed) / len(whole)
        return difflib.SequenceMatcher(None, typed, whole).ratio()

    best = max(words, key=likeness, default="")
    return best if best and likeness(best) >= ALIKE else ""


def did_you_mean(word: str, words: Sequence[str], prefix: str = "") -> str:
    """A question that names the nearest of `words`, or a list of them all where none is near."""
    if not words:
        return "it has none."
    near = nearest(word, words)
    return (
        f"did you mean {prefix}{near}?"
        if near
        else f"known are {', '.join(prefix + name for name in words)}."
    )


def plain(name: str) -> str:
    """A name without case, leading dashes and underscores."""
    return name.lower().strip("-").replace("_", "-")

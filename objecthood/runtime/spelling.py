"""Suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ALIKE = 0.6
"""Similarity from which a name is suggested (the default of `difflib.get_close_matches`)."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The most similar name, or "" if none is similar.

    Case and underscores are ignored; prefixes, whole parts and initials count as matches.

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
    """A suggestion of the nearest of `words`, or a list of all of them."""
    if not words:
        return "it has none."
    near = nearest(word, words)
    return (
        f"did you mean {prefix}{near}?"
        if near
        else f"allowed are {', '.join(prefix + name for name in words)}."
    )


def plain(name: str) -> str:
    """A name without case, leading dashes and underscores."""
    return name.lower().strip("-").replace("_", "-")

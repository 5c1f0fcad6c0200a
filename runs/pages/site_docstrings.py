"""An extension of griffe: doctests in docstrings become highlighted blocks of code in the built site."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n *\S.*)*", re.MULTILINE)


class Doctests(Extension):
    """Fences what begins with `>>>`, up to the next empty line."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring whose doctests are fenced, at their own indentation.

    >>> fenced("Adds one.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Adds one.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    return _DOCTEST.sub(lambda match: "{0}```pycon\n{1}\n{0}```".format(match["indent"], match[0]), text)

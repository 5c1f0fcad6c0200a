"""Runs without images, which take longer than all else that a short run does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image


def kinds(kind: type) -> Iterator[type]:
    """A class and all that inherit from it."""
    yield kind
    for heir in kind.__subclasses__():
        yield from kinds(heir)


def leave_out_images(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, no recipe draws anything: latest.png is one pixel, figures/ stays empty."""
    from objecthood.recipes import Recipe

    for kind in kinds(Recipe):
        if "preview" in vars(kind):
            patch.setattr(kind, "preview", lambda self, model, scenes: Image.new("RGB", (1, 1)))
        if "figures" in vars(kind):
            patch.setattr(kind, "figures", lambda self, model, scenes: {})

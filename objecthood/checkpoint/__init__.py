"""Crash-safe run checkpoints, and weight files with metadata.

Names are imported on first use, so that metadata can be read without torch.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from objecthood.checkpoint.conversion import convert
    from objecthood.checkpoint.header import read_description
    from objecthood.checkpoint.reference import load_reference
    from objecthood.checkpoint.run import (
        NotSaved,
        check_space,
        described_recipe,
        frozen_facts,
        load,
        restore,
        save,
        save_checkpoint,
        sync,
    )

__all__ = [
    "NotSaved",
    "check_space",
    "convert",
    "described_recipe",
    "frozen_facts",
    "load",
    "load_reference",
    "read_description",
    "restore",
    "save",
    "save_checkpoint",
    "sync",
]
_WHERE = {"convert": "conversion", "read_description": "header", "load_reference": "reference"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"objecthood.checkpoint has no {name!r}; public names are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"objecthood.checkpoint.{_WHERE.get(name, 'run')}"), name)

"""Objects in images, found without labels: slot models, their training and their measuring."""

from __future__ import annotations

import importlib
import sys
import types

from objecthood import _moved

__version__ = "0.1.0"

_WHERE = {
    "ObjectFinder": "inference.estimator",
    "PRETRAINED": "hub",
    "RECIPES": "recipes",
    "SlotAttention": "nn",
    "SlotAutoencoder": "models",
    "convert": "checkpoint",
    "evaluate": "evaluate",
    "from_pretrained": "hub.huggingface",
    "load": "hub",
    "predict": "inference.predict",
    "predict_video": "inference.predict_video",
    "push_to_hub": "hub.huggingface",
    "save": "checkpoint",
    "train": "train",
}
_MODULES = ("checkpoint", "data", "hub", "losses", "metrics", "models", "nn", "recipes", "visualize")
__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str) -> object:
    """Import torch and the rest on first use, so that `import objecthood` and the command answer at once."""
    if name in _MODULES:
        return importlib.import_module(f"objecthood.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"objecthood.{_WHERE[name]}"), name)
    raise AttributeError(f"objecthood has no {name!r}; public names are {', '.join(__all__)}")


def __dir__() -> list[str]:
    """The public names, for tab completion; none is imported by listing it."""
    return sorted([*__all__, "__version__"])


class _Package(types.ModuleType):
    """Where a function and its module share a name (`train`), the package's attribute is the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, types.ModuleType) and _WHERE.get(name, "").rpartition(".")[2] == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
_moved.install()

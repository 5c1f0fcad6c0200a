"""Names of version 0.1 and their replacements, for stored files and existing code.

Weight files, run folders and recipes with old names of fields, classes and tensors are read silently through
the tables below. Old names in code give a DeprecationWarning, in commands a line on stderr, until version
0.3. Moved modules are in `objecthood._moved`.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, ParamSpec, TypeVar

P, R = ParamSpec("P"), TypeVar("R")

FIELDS = {
    "average": "ema_decay",
    "attention_guided": "attention_conditioned_masks",
    "coarse_steps": "low_resolution_steps",
    "compactness": "spatial_bias",
    "early_prior": "bias_before_attention",
    "halving_steps": "decay_half_life",
    "light": "brightness_jitter",
    "matrix_learning_rate": "muon_learning_rate",
    "mirror": "horizontal_flip",
    "padding_counts": "loss_on_padding",
    "place_loss": "position_loss",
    "rehome": "split_slots",
    "repulsion": "merge_penalty",
    "repulsion_start": "merge_penalty_start",
    "sees": "modality",
    "slots": "initial_slots",
    "start": "conditioning",
    "starts": "restarts",
    "still_steps": "single_frame_steps",
    "without_shading": "chromaticity",
}
"""Recipe fields; with hyphens, options of the command."""
VALUES = {("target", "seen"): "input"}
"""Values of fields, by field."""
TASKS = {"GuidedDiscovery": "SpatialBiasDiscovery", "PaintedDiscovery": "SlotFrameDiscovery"}
"""Classes of recipes."""
METADATA = {"usual": "calibration"}
"""Metadata of weight files."""
TENSORS = {".prior.": ".attention_bias.", "reading.": "readout."}
"""Parts of tensors' names in weight files and checkpoints."""
OPTIONS = {"one_ground": "merge_background", "picture": "figure", "starts": "restarts"}
"""Options of commands other than `train` and `sweep`, whose options are recipe fields."""
ARGUMENTS = (
    FIELDS
    | OPTIONS
    | {"prior": "attention_bias", "spread": "noise_scale", "pictures": "images", "compactness": "weight"}
    | {"places": "positions", "picture": "image"}
)
"""Arguments of functions and classes."""
ATTRIBUTES: dict[str, dict[str, str]] = {
    "objecthood.losses": {"set_error": "matching_loss", "single_slot_contrast": "slot_infonce"},
    "objecthood.models.autoencoder": {
        "Discovery": "AutoencoderOutput",
        "fast_painted": "fast_slot_frames",
        "small_picture": "small_image",
    },
    "objecthood.models.set_contrast": {"ContrastScene": "ContrastOutput"},
    "objecthood.models.set_predictor": {"SetPrediction": "SetPredictorOutput"},
    "objecthood.models.video": {"VideoScene": "VideoOutput"},
    "objecthood.nn": {"CompactPrior": "SpatialBias", "unite_grounds": "merge_background"},
    "objecthood.nn.attention_bias": {"CompactPrior": "SpatialBias"},
    "objecthood.nn.background_merge": {"unite_grounds": "merge_background"},
    "objecthood.nn.decoders": {"Painting": "DecoderOutput"},
    "objecthood.nn.slot_frames": {
        "CentredPatchDecoder": "SlotCentredPatchDecoder",
        "OwnFrame": "SlotFrameReadout",
    },
    "objecthood.recipes": TASKS,
}
"""Attributes of modules."""


def fields(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Fields of a recipe under current names; `known` are those of its class, which pass unchanged. If both
    names are given, the old one counts, as `dataclasses.replace` fills in the new one.

    Example:
        >>> fields({"average": 0.99, "ema_decay": 0.5, "steps": 10}, {"ema_decay", "steps"})
        {'ema_decay': 0.99, 'steps': 10}
    """
    old = {name for name in given if name not in known and FIELDS.get(name) in known}
    found = {name: value for name, value in given.items() if name not in old}
    found |= {FIELDS[name]: given[name] for name in old}
    return {
        name: VALUES.get((name, value), value) if isinstance(value, str) else value
        for name, value in found.items()
    }


def settings(stored: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A stored recipe, with its class under "task", under today's names.

    Example:
        >>> settings({"task": "GuidedDiscovery", "average": 0.99}, {"task", "ema_decay"})
        {'task': 'SpatialBiasDiscovery', 'ema_decay': 0.99}
    """
    task = stored.get("task")
    return fields(stored, known) | {"task": TASKS.get(task, task) if isinstance(task, str) else task}


def tensors(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict under current names.

    Example:
        >>> tensors({"grouping.slot_attention.prior.ramp": 1, "encoder.weight": 2})
        {'grouping.slot_attention.attention_bias.ramp': 1, 'encoder.weight': 2}
    """
    return {functools.reduce(_part, TENSORS.items(), name): tensor for name, tensor in stored.items()}


def _part(name: str, change: tuple[str, str]) -> str:
    old, new = change
    return name.replace(old, new) if old.startswith(".") or name.startswith(old) else name


def arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator that accepts keyword arguments under old names, with a DeprecationWarning."""
    allowed = inspect.signature(function).parameters

    @functools.wraps(function)
    def renamed(*positional: P.args, **keywords: P.kwargs) -> R:
        for old in [name for name in keywords if name not in allowed]:
            new = ARGUMENTS.get(old, "")
            if new in allowed:
                warnings.warn(f"`{old}` is now `{new}`", DeprecationWarning, stacklevel=2)
                keywords[new] = keywords.pop(old)
        return function(*positional, **keywords)

    return renamed


def attribute(old: str, new: str) -> property:
    """A property that returns the attribute `new`, with a DeprecationWarning."""

    def get(instance: object) -> Any:
        warnings.warn(f"`.{old}` is now `.{new}`", DeprecationWarning, stacklevel=2)
        return getattr(instance, new)

    return property(get)


def attributes(module: str) -> Callable[[str], Any]:
    """A module's `__getattr__` for old names of attributes, with a DeprecationWarning."""

    def find(name: str) -> Any:
        new = ATTRIBUTES[module].get(name)
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {module}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], new)

    return find


def options(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of a command with current option names, and a hint for each renamed one.

    Example:
        >>> options(["train", "sprites", "--average", "0.9", "--no-rehome"])[0]
        ['train', 'sprites', '--ema-decay', '0.9', '--no-split-slots']
    """
    table, hints = OPTIONS, []
    if words[:1] in (["train"], ["sweep"]) and not any(word.endswith(".py") for word in words[1:2]):
        table = FIELDS
    for index, word in enumerate(words):
        if word == "--":
            break
        name, equals, value = word.removeprefix("--").partition("=")
        no = "no-" if name.startswith("no-") else ""
        new = table.get(name.removeprefix("no-").replace("-", "_"))
        if word.startswith("--") and new:
            option = f"--{no}{new.replace('_', '-')}"
            words = [*words[:index], f"{option}{equals}{value}", *words[index + 1 :]]
            hints.append(f"--{name} is now {option}")
    return words, hints

"""Weights in and out: run checkpoints that survive a crash, and weight files that describe themselves.

A checkpoint is a folder written beside its place, synced to disk, its SHA-256 manifest last, then renamed: it
is there whole or not at all, and a damaged one is noticed and skipped. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import objecthood
from objecthood.environment import commit
from objecthood.recipes import Recipe, from_dict
from objecthood.reference import load_reference
from objecthood.weight_file import FORMAT, read_description

__all__ = ["load", "load_reference", "read_description", "restore", "save", "save_checkpoint"]

KEPT = 2
"""Checkpoints that stay: a damaged newest one leaves one to go on from."""


def save(
    model: nn.Module,
    recipe: Recipe,
    path: str | Path,
    scores: dict[str, float] | None = None,
    usual: dict[str, Any] | None = None,
) -> Path:
    """Write weights with recipe, version, commit, scores and what is `usual` (`familiarity.usual`) in the
    metadata, as safetensors; atomically."""
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "recipe": json.dumps(recipe.to_dict()),
        "version": objecthood.__version__,
        "commit": commit(),
        "scores": json.dumps(scores or {}),
        "usual": json.dumps(usual or {}),
    }
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, staged, metadata)
    _sync(staged)
    os.replace(staged, path)
    return path


def load(path: str | Path, recipe: Recipe | None = None) -> nn.Module:
    """The model of a weight file, ready for use; its recipe is at `model.recipe`, and what is
    usual for it (`familiarity`) at `model.usual`. `hub.load` takes names as well.

    A file made by a recipe class of your own needs that `recipe`. Raises ValueError where the file is
    missing, is not ours, or does not fit the recipe.

    Example:
        >>> import tempfile
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = oh.save(recipe.build_model(), recipe, f"{folder}/weights.safetensors")
        ...     load(file).recipe.name
        'tetrominoes'
    """
    description = read_description(path)  # refuses what is no weight file of ours
    if recipe is None:
        recipe = described_recipe(path)
    model = recipe.build_model()
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit recipe {recipe.name!r}: {reason}") from error
    model.recipe, model.usual = recipe, description["usual"]
    return recipe.prepare_for_test(model)


def described_recipe(path: str | Path, task: type[Recipe] | None = None) -> Recipe:
    """The recipe of a weight file; `task` is its class where that is one of your own, else ValueError."""
    description = read_description(path)
    try:
        return from_dict(description["recipe"], task)
    except ValueError as error:
        raise ValueError(f"{path} (version {description['version']}): {error}") from error


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> Path:
    """Write `folder/step_NNNNNNNN` and remove all but the newest `KEPT`; `facts` are JSON values kept beside
    it."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".tmp-{uuid.uuid4().hex}"
    staged.mkdir()
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            staged / "model.safetensors",
        )
        save_file(dict(_optimizer_tensors(optimizers)), staged / "optimizers.safetensors")
        (staged / "state.json").write_text(json.dumps({"step": step} | facts))
        manifest = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(staged.iterdir())
        }
        (staged / "manifest.json").write_text(json.dumps(manifest))
        for file in [*staged.iterdir(), staged]:
            _sync(file)
        final = folder / f"step_{step:08d}"
        if final.exists():
            shutil.rmtree(final)
        os.rename(staged, final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    for old in _checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)
    return final


def restore(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], say: Any = print
) -> dict[str, Any] | None:
    """Fill model and optimizers from the newest whole checkpoint of `folder` and return its facts; None
    without any."""
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint)
        if fault:
            say(f"skipped checkpoint {checkpoint}: {fault}")
            continue
        try:
            model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"checkpoint {checkpoint} was made by another architecture: {reason}") from error
        _restore_optimizers(optimizers, load_file(checkpoint / "optimizers.safetensors"))
        return json.loads((checkpoint / "state.json").read_text())
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first, by the step in the name."""
    return sorted(folder.glob("step_*"), reverse=True)


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name in ("model.safetensors", "optimizers.safetensors", "state.json"):
            if hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() != manifest[name]:
                return f"{name} is not what was written (its SHA-256 differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"incomplete ({error})"
    return None


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, tensor in state.items():
                yield f"{number}.{index}.{name}", tensor.contiguous()


def _restore_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    parameters = [
        [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for optimizer in optimizers
    ]
    for key, tensor in tensors.items():
        number, index, name = key.split(".")
        parameter = parameters[int(number)][int(index)]
        # Files hold rows in order; fused Adam reads in memory order, so a state must lie as its weight does.
        laid_out = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor
        states[int(number)].setdefault(int(index), {})[name] = laid_out
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sync(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Crash-safe run checkpoints, and weight files with metadata.

A checkpoint is a folder written under a temporary name, synced to disk with a SHA-256 manifest last, then
renamed: it is complete or absent, and damaged ones are detected and skipped. Pickle is not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import objecthood
from objecthood.checkpoint.header import FORMAT, read_description
from objecthood.nn import frozen
from objecthood.recipes import Recipe, from_dict
from objecthood.runtime import limits, renamed
from objecthood.runtime.environment import commit
from objecthood.runtime.files import parse_json, real_folder, refuse_link, sha256_of, staged_name

KEPT = 2
"""Number of checkpoints that are kept, so that one remains if the newest is damaged."""
SMALL_RESOLUTION = 256
"""Image side in pixels up to which buffers take at most 100 MB and are not checked before the model is
built."""
NAMED = 5
"""Number of mismatched tensors that an error message lists."""


class NotSaved(OSError, ValueError):
    """A write failed; earlier files are intact. The message states path, reason, needed and free space."""


def save(
    model: nn.Module,
    recipe: Recipe,
    path: str | Path,
    scores: dict[str, float] | None = None,
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Write weights as safetensors, atomically; the same weights and metadata give the same bytes.

    The metadata hold recipe, version, commit, scores and calibration (`out_of_distribution.calibration`).
    Weights of frozen modules (`nn.frozen`) are omitted and identified in the metadata. Raises NotSaved if the
    file cannot be written, ValueError if weights of a frozen module were changed.
    """
    path = Path(path)
    frozen.check_unchanged(model)
    metadata = {
        "format": FORMAT,
        "recipe": json.dumps(recipe.to_dict()),
        "version": objecthood.__version__,
        "commit": commit(),
        "scores": json.dumps(scores or {}),
        "calibration": json.dumps(calibration or {}),
    }
    if parts := frozen_facts(model):
        metadata["frozen"] = json.dumps(parts)
    staged = staged_name(path)
    try:
        _write_tensors(model.state_dict(), staged, metadata)
        _sort_metadata(staged)
        sync(staged)
        os.replace(staged, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise _not_saved(f"weights could not be written to {path}", path.parent, error, model) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def load(path: str | Path, recipe: Recipe | None = None) -> nn.Module:
    """The model of a weight file, ready for use, with `model.recipe` and `model.calibration`
    (`out_of_distribution`). `hub.load` also takes names.

    Files of a custom recipe class need that `recipe`. Frozen modules (`nn.frozen`) are restored by their
    identity. Raises ValueError if the file is missing, of another format, or does not fit the recipe, or if a
    frozen module is missing or has other weights.

    Example:
        >>> import tempfile
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = oh.save(recipe.build_model(), recipe, f"{folder}/weights.safetensors")
        ...     load(file).recipe.name
        'tetrominoes'
    """
    description = read_description(path)  # refuses other files
    if recipe is None:
        recipe = described_recipe(path)
    try:
        parts = frozen.from_json(description["frozen"])
        with no_more_weights_than(description["parameters"]), frozen.only(parts):
            check_buffers(recipe)
            tensors = renamed.tensors(load_file(path))
            model = recipe.build_model()
        frozen.compare(parts, frozen.identities(model))
    except frozen.FrozenPartError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    except Exception as error:  # a crafted recipe may raise any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be loaded as {recipe.name!r}: {reason}; train again") from error
    differences = _differences(model.state_dict(), tensors)
    if differences:
        raise ValueError(f"{path} does not fit recipe {recipe.name!r}: {differences}; pass its own recipe")
    model.load_state_dict(tensors)
    model.recipe, model.calibration = recipe, description["calibration"]
    return recipe.prepare_for_test(model)


def described_recipe(path: str | Path, task: type[Recipe] | None = None) -> Recipe:
    """The recipe of a weight file; `task` is its class if it is a custom one (ValueError without it)."""
    description = read_description(path)
    try:
        return from_dict(description["recipe"], task)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} (version {description['version']}): {error}") from error


def check_buffers(recipe: Recipe) -> None:
    """Raise ValueError if buffers of a recipe's model, such as coordinate grids, exceed
    `limits.BUFFER_BYTES`.

    The model is built on PyTorch's meta device, without memory. Importing that takes a second, so recipes
    with a side of up to `SMALL_RESOLUTION` pixels are not checked.
    """
    if getattr(recipe, "resolution", 0) <= SMALL_RESOLUTION:
        return
    with torch.device("meta"):
        model = recipe.build_model()
    size = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if size > limits.BUFFER_BYTES:
        raise ValueError(
            f"its recipe needs buffers of {_megabytes(size)} at `resolution` (={recipe.resolution}); at most "  # type: ignore[attr-defined]
            f"{_megabytes(limits.BUFFER_BYTES)} are allowed"
        )


@contextlib.contextmanager
def no_more_weights_than(count: int) -> Iterator[None]:
    """Raise ValueError if a model built in this context has far more than `count` weights, before they are
    allocated.

    The recipe in an untrusted file sets the size of the model; `count` is the number of weights in the file.
    Twice as many plus a million are allowed, as replaced modules count too. Weights of frozen modules, which
    no file holds, are limited separately by `limits.FROZEN_WEIGHTS`.
    """
    thread, found, restored = threading.get_ident(), 0, 0

    def add(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal found, restored
        if threading.get_ident() != thread or parameter is None:
            return
        if frozen.is_restoring():
            restored += parameter.numel()
            if restored > limits.FROZEN_WEIGHTS:
                raise ValueError(f"more than {limits.FROZEN_WEIGHTS:,} frozen weights")
        else:
            found += parameter.numel()
            if found > 2 * count + 1_000_000:
                raise ValueError(f"its recipe needs more weights than the {count:,} in the file")

    handle = nn.modules.module.register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


def frozen_facts(model: nn.Module) -> dict[str, dict[str, str]]:
    """The identities of a model's frozen modules, as JSON values; may be empty."""
    return frozen.to_json(frozen.identities(model))


def check_space(folder: Path, model: nn.Module) -> None:
    """Raise NotSaved if the disk of `folder` lacks space for the kept checkpoints and a temporary one, each
    twice the size of `model` (weights and EMA, plus two Adam moments of the weights)."""
    needed, free = (KEPT + 1) * 2 * _size(model), shutil.disk_usage(folder).free
    if free < needed:
        raise NotSaved(
            f"{folder} has no space for checkpoints: {_megabytes(needed)} needed, {_megabytes(free)} free; "
            "free space or use another folder with --out"
        )


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], facts: dict[str, Any]
) -> Path:
    """Write `folder/step_NNNNNNNN` and remove checkpoints older than the newest `KEPT` intact ones; `facts`
    are JSON values stored in it. Weights of frozen modules (`nn.frozen`) are omitted and identified there.

    Raises NotSaved if writing fails (earlier checkpoints stay intact), ValueError if `folder` is a symbolic
    link or weights of a frozen module were changed.
    """
    frozen.check_unchanged(model)
    if parts := frozen_facts(model):
        facts = facts | {"frozen": parts}
    staged, final = folder / f".tmp-{uuid.uuid4().hex}", folder / f"step_{step:08d}"
    try:
        real_folder(folder)
        for left_by_a_crash in folder.glob(".tmp-*"):
            _remove(left_by_a_crash)
        staged.mkdir()
        _fill(staged, step, model, optimizers, facts)
        _publish(staged, final)
        for old in _outdated(folder):
            _remove(old)
    except (OSError, SafetensorError) as error:
        whole = [one.name for one in _checkpoints(folder) if not _fault(one)]
        there = (
            f"{whole[0]} is intact; free space and continue with --resume" if whole else "there is none yet"
        )
        problem = f"the checkpoint of step {step} could not be written to {folder}"
        raise _not_saved(problem, folder, error, model, there) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return final


def _fill(
    staged: Path,
    step: int,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    facts: dict[str, Any],
) -> None:
    """Write and sync all files of a checkpoint; the manifest last."""
    _write_tensors(model.state_dict(), staged / "model.safetensors")
    _write_tensors(dict(_optimizer_tensors(optimizers)), staged / "optimizers.safetensors")
    (staged / "state.json").write_text(json.dumps({"step": step} | facts))
    for file in staged.iterdir():
        sync(file)
    manifest = {file.name: sha256_of(file) for file in sorted(staged.iterdir())}
    (staged / "manifest.json").write_text(json.dumps(manifest))
    sync(staged / "manifest.json")
    sync(staged)


def _publish(staged: Path, final: Path) -> None:
    """Rename a checkpoint to its final name. An existing one is renamed first, so that one always exists."""
    before = final.with_name(f"{final.name}-before")
    if final.is_symlink() or final.is_file():
        final.unlink()  # not a checkpoint; the target of a link is left alone
    if final.exists():
        shutil.rmtree(before, ignore_errors=True)
        os.rename(final, before)
    os.rename(staged, final)
    sync(final.parent)
    shutil.rmtree(before, ignore_errors=True)


def restore(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], say: Any = print
) -> dict[str, Any] | None:
    """Load the newest intact checkpoint of `folder` into model and optimizers; returns its facts, or None.

    Raises ValueError if it is of another model or other frozen weights, or `folder` is a symbolic link.
    """
    for checkpoint in _checkpoints(refuse_link(folder)):
        fault = _fault(checkpoint)
        if fault:
            say(f"skipped checkpoint {checkpoint}: {fault}")
            continue
        try:
            tensors = renamed.tensors(load_file(checkpoint / "model.safetensors"))
            states = load_file(checkpoint / "optimizers.safetensors")
            facts = parse_json((checkpoint / "state.json").read_bytes())
            if type(facts["step"]) is not int or facts["step"] < 0:
                raise ValueError(f"its step is {facts['step']!r}")
            frozen.compare(frozen.from_json(facts.get("frozen", {})), frozen.identities(model))
            differences = _differences(model.state_dict(), tensors)
            if not differences:
                model.load_state_dict(tensors)
                _restore_optimizers(optimizers, states)
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"checkpoint {checkpoint} is not of this run ({reason})") from error
        if differences:
            raise ValueError(f"checkpoint {checkpoint} is of another architecture: {differences}")
        return facts
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, newest first by the step in the name."""
    return sorted(folder.glob("step_*"), reverse=True)


def _outdated(folder: Path) -> list[Path]:
    """Checkpoint folders older than the newest `KEPT` intact ones; files and links are neither counted nor
    removed."""
    whole = 0
    for number, checkpoint in enumerate(found := _checkpoints(folder)):
        whole += not _fault(checkpoint)
        if whole == KEPT:
            return [old for old in found[number + 1 :] if old.is_dir() and not old.is_symlink()]
    return []


def _remove(path: Path) -> None:
    """Remove a folder recursively, or a file or link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    linked = [file.name for file in (checkpoint, *sorted(checkpoint.glob("*"))) if file.is_symlink()]
    if linked:
        return f"{linked[0]} is a symbolic link"
    try:
        manifest = parse_json((checkpoint / "manifest.json").read_bytes())
        for name in ("model.safetensors", "optimizers.safetensors", "state.json"):
            if sha256_of(checkpoint / name) != manifest[name]:
                return f"{name} is damaged (its SHA-256 differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"incomplete ({error})"
    return None


def _differences(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """The first tensors that are missing, unexpected, or of another shape or type, in one line; "" if
    none."""

    def described(tensors: dict[str, Tensor], name: str) -> str:
        if name not in tensors:
            return "none"
        kind = "" if tensors[name].is_floating_point() else f" {tensors[name].dtype}"
        return f"{list(tensors[name].shape)}{kind}"

    every = sorted(wanted.keys() | found.keys())
    names = [name for name in every if described(wanted, name) != described(found, name)]
    listed = [
        f"{name} is {described(found, name)}, expected {described(wanted, name)}" for name in names[:NAMED]
    ]
    return "; ".join(listed) + (f"; and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _not_saved(problem: str, folder: Path, error: Exception, model: nn.Module, there: str = "") -> NotSaved:
    """The error for a full, read-only or missing disk, in one line."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()).rpartition("I/O error: ")[2]
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        reason += f"; about {_megabytes(2 * _size(model))} needed, {_megabytes(free)} free"
    return NotSaved(f"{problem} ({reason}); {there or 'free space or use another folder'}")


def _size(model: nn.Module) -> int:
    """Size of the state dict in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file: the library's order differs between processes,
    and equal weights should give equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length, "sorting keeps the length"
        file.seek(8)
        file.write(text)


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
        # Fused Adam reads in memory order, so a state needs the memory layout of its weight.
        laid_out = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor) if tensor.ndim else tensor
        states[int(number)].setdefault(int(index), {})[name] = laid_out
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def sync(path: Path) -> None:
    """Flush a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""`objecthood export`: weights as ONNX, compared with PyTorch before they are kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect

from objecthood.cli.lookup import find_recipe, load_model
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

FORMATS = ("onnx",)
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to."""

    weights: str
    """Name (objecthood list weights), weights file, or run folder."""
    format: str = "onnx"
    """onnx is the only one."""
    out: str = ""
    """File to write, or with --parts folder; NAME.onnx or NAME-parts unless named. Nothing is replaced."""
    parts: bool = False
    """Write start, encoder, one iteration and decoder each by itself, as the page of the demo uses them."""
    recipe: str = ""
    """Python file of the recipe, where the weights come from one of your own."""


def export(arguments: list[str]) -> int:
    """Export weights as ONNX: WEIGHTS --format onnx --out FILE.

    One graph: image [batch, 3, height, width] in [0, 1], start noise [batch, slots, dim] and the number of
    iterations go in; what the model gives comes out, with the attention of every iteration. It is run by
    onnxruntime on batches of 1 and 4 and kept only if it differs from PyTorch by at most 1e-4. What a prior
    does between iterations is in it.
    """
    options = parse(ExportOptions, arguments, "export", inspect.getdoc(export) or "")
    if options.format not in FORMATS:
        raise UsageError(f"--format {options.format} is not one; {did_you_mean(options.format, FORMATS)}")
    require(NEEDED, "export")
    model = load_model(options.weights, find_recipe(options.recipe) if options.recipe else None)

    from pathlib import Path

    from objecthood.export.export import export_onnx, export_parts

    path = Path(options.weights)  # of a run folder, the folder's name
    name = path.name if path.is_dir() else path.stem
    write = export_parts if options.parts else export_onnx
    out = options.out or (f"{name}-parts" if options.parts else f"{name}.onnx")
    written = write(model, out, report=lambda what: echo(f"export   {what}", flush=True))
    echo(f"{written}: as PyTorch to 1e-4, for batches of 1 and 4")
    return 0


def require(modules: tuple[str, ...], extra: str) -> None:
    """ValueError, saying which extra to install, where one of `modules` is not there."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be installed for this; pip install 'objecthood[{extra}]', or in a "
            f"clone pip install '.[{extra}]'"
        )

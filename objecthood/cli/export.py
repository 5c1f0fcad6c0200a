"""`objecthood export`: ONNX export, verified against PyTorch."""

from __future__ import annotations

import dataclasses
import importlib.util

from objecthood.cli.lookup import find_recipe, load_model
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

FORMATS = ("onnx",)
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export, and where to."""

    weights: str
    """Name (objecthood list weights), weights file or run folder."""
    format: str = "onnx"
    """Only onnx is supported."""
    out: str = dataclasses.field(default="", metadata={"metavar": "PATH"})
    """Output file, or folder with --parts; must not exist. NAME.onnx or NAME-parts by default."""
    parts: bool = False
    """Write the export stages as separate graphs: initial slots, encoder, one iteration, decoder."""
    recipe: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """Python file of the recipe, for weights of a custom recipe."""


def export(arguments: list[str]) -> int:
    """Export weights as ONNX: WEIGHTS --out FILE.

    The graph takes image [batch, 3, height, width] in [0, 1], noise [batch, slots, dim] and the number of
    iterations. It returns the outputs of the model and the attention of every iteration. The file is kept
    only if onnxruntime matches PyTorch to 1e-4 on batches of 1 and 4.
    """
    options = parse(ExportOptions, arguments, "export", export)
    if options.format not in FORMATS:
        raise UsageError(f"--format {options.format} is unknown; {did_you_mean(options.format, FORMATS)}")
    require(NEEDED, "export")
    model = load_model(options.weights, find_recipe(options.recipe) if options.recipe else None)

    from pathlib import Path

    from objecthood.export.export import export_onnx, export_parts

    path = Path(options.weights)  # a run folder gives its own name
    name = path.name if path.is_dir() else path.stem
    write = export_parts if options.parts else export_onnx
    out = options.out or (f"{name}-parts" if options.parts else f"{name}.onnx")
    written = write(model, out, report=lambda what: echo(f"export   {what}", flush=True))
    echo(f"{written}: matches PyTorch to 1e-4 for batches of 1 and 4")
    return 0


def require(modules: tuple[str, ...], extra: str) -> None:
    """Raise ValueError, naming the extra to install, if one of `modules` is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"this needs {', '.join(missing)}; pip install 'objecthood[{extra}]', or pip install "
            f"'.[{extra}]' in a clone"
        )

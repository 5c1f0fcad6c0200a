"""`objecthood convert`: published checkpoints as weight files."""

from __future__ import annotations

import dataclasses
import inspect

from objecthood.cli.options import UsageError, parse
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What to convert, and where to."""

    checkpoint: str
    """PyTorch checkpoint (.ckpt, .pt, .tar), or .safetensors of the same names."""
    layout: str = ""
    """spot, videosaur or slotcontrast."""
    out: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """File to write, .safetensors."""
    heads: int | None = None
    """Attention heads, which weights do not tell: of the decoder (spot: 6), or of predictor and mixer (4)."""
    num_slots: int | None = None
    """Number of slots where initial ones are drawn from a Gaussian; 7 by default."""


def convert(arguments: list[str]) -> int:
    """Read a checkpoint of SPOT, VideoSAUR or SlotContrast: CHECKPOINT --layout NAME --out FILE.

    The file holds the backbone as well; predict, evaluate and oh.load take it as any other. Of a pickle,
    tensors and plain values are read, and nothing else.
    """
    options = parse(ConvertOptions, arguments, "convert", inspect.getdoc(convert) or "")
    if not options.layout:
        raise UsageError("--layout must name the checkpoint's kind: spot, videosaur or slotcontrast")
    if not options.out:
        raise UsageError("--out must name a file; add --out FILE.safetensors")

    from objecthood.checkpoint.conversion import convert as write
    from objecthood.checkpoint.run import described_recipe

    file = write(
        options.checkpoint, options.layout, options.out, heads=options.heads, num_slots=options.num_slots
    )
    recipe = described_recipe(file)
    side: int = getattr(recipe, "resolution", 0)
    echo(f"{file}: {recipe.name}, {getattr(recipe, 'num_slots', 0)} slots, frames of {side} x {side} pixels")
    return 0

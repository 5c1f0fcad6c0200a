"""`objecthood convert`: published checkpoints as weight files."""

from __future__ import annotations

import dataclasses

from objecthood.cli.options import UsageError, parse
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What to convert, and where to."""

    checkpoint: str
    """PyTorch checkpoint (.ckpt, .pt, .tar), or a .safetensors file with the same tensor names."""
    layout: str = ""
    """spot, videosaur or slotcontrast."""
    out: str = dataclasses.field(default="", metadata={"metavar": "FILE"})
    """File to write, .safetensors; an existing one is not replaced."""
    heads: int | None = None
    """Number of attention heads, which checkpoints do not state: of the decoder (spot; default 6), or of the
    predictor and the mixer (default 4)."""
    num_slots: int | None = None
    """Number of slots, if the initial slots are drawn from a Gaussian; 7 by default."""


def convert(arguments: list[str]) -> int:
    """Read a checkpoint of SPOT, VideoSAUR or SlotContrast: CHECKPOINT --layout NAME --out FILE.

    The file includes the backbone and works with predict, evaluate and oh.load. From a pickle, only tensors
    and plain values are read.
    """
    options = parse(ConvertOptions, arguments, "convert", convert)
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

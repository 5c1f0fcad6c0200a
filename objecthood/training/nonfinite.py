"""Non-finite guard: steps without finite loss or gradient are skipped; three in a row end the run.

Without it, a single step, perhaps of one image in ten thousand, would make all weights nan.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from objecthood.data.scene import Scenes
from objecthood.recipes import Recipe
from objecthood.runtime.distributed import Processes
from objecthood.runtime.files import staged

IN_A_ROW = 3
"""Consecutive skipped steps that end the run."""
NAMED = 8
"""Maximum number of images or parameters in a message."""


class Guard:
    """Counts skipped steps: `skipped` in the whole run, `in_a_row` consecutively."""

    def __init__(self, skipped: int = 0):
        self.skipped, self.in_a_row = skipped, 0

    def passes(self, finite: bool) -> bool:
        """Whether to take a step; must be called for every step."""
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.skipped += not finite
        return finite

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= IN_A_ROW


def offending_samples(
    recipe: Recipe, model: nn.Module, scenes: Scenes, indices: Sequence[int], step: int, processes: Processes
) -> str:
    """One line that names images with non-finite loss or gradient, one at a time, and the parameters
    affected.

    `scenes` are this process's share of the batch; `indices` are those of the whole batch in its data set.
    """
    offending = [0.0] * len(indices)
    names = [name for name, _ in model.named_parameters()]
    broken = [0.0] * len(names)
    for position in range(len(scenes["image"])):
        one = cast(Scenes, {key: value[[position]] for key, value in scenes.items()})  # type: ignore[index]
        model.zero_grad()
        loss = recipe.loss(model, one, step)
        loss.backward()
        bad = [not _is_finite(parameter.grad) for parameter in model.parameters()]
        broken = [before + now for before, now in zip(broken, bad, strict=True)]
        offending[processes.rank + position * processes.count] = float(any(bad) or not _is_finite(loss))
    images = [index for index, bad in zip(indices, processes.total(*offending), strict=True) if bad]
    parameters = [name for name, bad in zip(names, processes.total(*broken), strict=True) if bad]
    return (
        f"loss or gradient was not finite in {IN_A_ROW} steps in a row, the last of them step {step}; "
        f"offending images (indices in the training data): {_listed(images)}; parameters without finite "
        f"gradient: {_listed(parameters)}; inspect these images, or lower --learning-rate; "
        "the weights of the last checkpoint are valid"
    )


def save_batch(out: Path, scenes: Scenes, indices: Sequence[int], processes: Processes) -> str:
    """Write a batch into the run folder for inspection; return a message with its path.

    `bad-batch.safetensors` holds this process's share of `scenes` by name, and their "indices" in the
    training data; with several processes, each writes a file with its rank in the name.
    """
    own, pattern = ("", "") if processes.count == 1 else (f"-{processes.rank}", "-*")
    file = out / f"bad-batch{own}.safetensors"
    tensors = {name: cast(Tensor, values).contiguous().cpu() for name, values in scenes.items()}
    tensors["indices"] = torch.tensor(indices[processes.rank :: processes.count])
    try:
        with staged(file) as place:
            save_file(tensors, place)
    except (OSError, SafetensorError) as error:
        return f"the batch could not be saved ({' '.join(str(error).split())})"
    return f"the batch is saved in {out / f'bad-batch{pattern}.safetensors'}"


def _is_finite(values: Tensor | None) -> bool:
    return values is None or bool(values.isfinite().all())


def _listed(names: Sequence[object]) -> str:
    """At most `NAMED` of them, and the number of others."""
    listed = ", ".join(map(str, names[:NAMED])) or "none alone"
    return listed + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

"""Steps whose loss or gradient is not finite are not taken; three in a row end the run and name the culprits.

One such step may be an image in ten thousand; without the guard it would make every weight nan for good.
"""

from __future__ import annotations

import os
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
from objecthood.runtime.files import staged_name

IN_A_ROW = 3
"""Skipped steps that end the run: what stays for so long does not pass."""
NAMED = 8
"""Culprits that a message lists."""


class Guard:
    """Counts skipped steps; `skipped` are those of the whole run, `in_a_row` the latest."""

    def __init__(self, skipped: int = 0):
        self.skipped, self.in_a_row = skipped, 0

    def passes(self, finite: bool) -> bool:
        """Whether a step is to be taken; every step must be told."""
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.skipped += not finite
        return finite

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= IN_A_ROW


def offending_samples(
    recipe: Recipe, model: nn.Module, scenes: Scenes, indices: Sequence[int], step: int, processes: Processes
) -> str:
    """Who is to blame for a step, in one line: images that alone give no finite loss or gradient, and
    parameters.

    `scenes` are this process's share of the batch; `indices` are those of the whole batch in its data set.
    Gradients are computed anew, one image at a time.
    """
    guilty = [0.0] * len(indices)
    names = [name for name, _ in model.named_parameters()]
    broken = [0.0] * len(names)
    for place in range(len(scenes["image"])):
        one = cast(Scenes, {key: value[[place]] for key, value in scenes.items()})  # type: ignore[index]
        model.zero_grad()
        loss = recipe.loss(model, one, step)
        loss.backward()
        bad = [not _is_finite(parameter.grad) for parameter in model.parameters()]
        broken = [before + now for before, now in zip(broken, bad, strict=True)]
        guilty[processes.rank + place * processes.count] = float(any(bad) or not _is_finite(loss))
    pictures = [index for index, bad in zip(indices, processes.total(*guilty), strict=True) if bad]
    parameters = [name for name, bad in zip(names, processes.total(*broken), strict=True) if bad]
    return (
        f"loss or gradient was not finite in {IN_A_ROW} steps in a row, the last of them step {step}; "
        f"images to blame (indices in the training data): {_listed(pictures)}; parameters without finite "
        f"gradient: {_listed(parameters)}; look at these images, or lower --learning-rate; "
        "the weights of the last checkpoint are whole"
    )


def keep(out: Path, scenes: Scenes, indices: Sequence[int], processes: Processes) -> str:
    """Write a batch into the run folder, to be looked at later; where it lies, in words.

    `bad-batch.safetensors` holds this process's share of `scenes` by name, and as "indices" their numbers in
    the training data; of several processes each writes a file, with its rank in the name.
    """
    own, all_of_them = ("", "") if processes.count == 1 else (f"-{processes.rank}", "-*")
    file = out / f"bad-batch{own}.safetensors"
    tensors = {name: cast(Tensor, values).contiguous().cpu() for name, values in scenes.items()}
    tensors["indices"] = torch.tensor(indices[processes.rank :: processes.count])
    try:
        staged = staged_name(file)
        try:
            save_file(tensors, staged)
            os.replace(staged, file)
        finally:
            staged.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        return f"the batch could not be kept ({' '.join(str(error).split())})"
    return f"the batch is kept in {out / f'bad-batch{all_of_them}.safetensors'}"


def _is_finite(values: Tensor | None) -> bool:
    return values is None or bool(values.isfinite().all())


def _listed(names: Sequence[object]) -> str:
    """At most `NAMED` of them, and how many more there are."""
    listed = ", ".join(map(str, names[:NAMED])) or "none alone"
    return listed + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

"""Profile of a training step by stage: data, encoder, slot attention, decoder, optimiser.

Each stage runs separately, forward and backward, on its tensors of a step; shares are of the sum. Compositing
and loss are excluded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from objecthood.benchmarks.contestants import RecipeStep, scenes
from objecthood.benchmarks.timing import Spread, clock_of, take_turns


def share_of_time(step: RecipeStep, seconds: float) -> dict[str, dict[str, float]]:
    """CPU (on a GPU: wall) seconds of each stage of a step, and its share of the sum."""
    turns = take_turns(stages(step), seconds, step.device)
    clock = clock_of(step.device)
    spreads = {name: Spread.of(getattr(turn, clock)) for name, turn in turns.items()}
    total = sum(spread.median for spread in spreads.values())
    return {
        name: {"seconds": float(f"{spread.median:.4g}"), "share": round(spread.median / total, 4)}
        for name, spread in spreads.items()
    }


def stages(step: RecipeStep) -> dict[str, Callable[[], object]]:
    """The computation of each stage."""
    model, images = step.model, step.scenes["image"]
    with step.autocast(), torch.no_grad():
        features = model.encoder(model.input_transform(images)).flatten(1, 2)
        slots, attention = model.grouping(features)
        attention = attention[:, -1].unflatten(-1, (round(features.shape[1] ** 0.5), -1))
    features, slots, attention = (tensor.detach().requires_grad_() for tensor in (features, slots, attention))

    def forward_and_backward(call: Callable[[], tuple[Tensor | None, ...]]) -> Callable[[], None]:
        def run() -> None:
            with step.autocast():
                outputs = [output for output in call() if output is not None]
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

        return run

    return {
        "data": lambda: scenes(step.recipe, len(images), step.device),
        "encoder": forward_and_backward(lambda: (model.encoder(model.input_transform(images)),)),
        "slot attention": forward_and_backward(lambda: tuple(model.grouping(features))),
        "decoder": forward_and_backward(lambda: tuple(model.decoder(slots, attention))),
        "optimiser": step.optimize,
    }

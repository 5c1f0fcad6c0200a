"""Whether a picture is like those a model was trained on, told by how much worse the model does on it.

A model of scenes finds something in every picture. What tells nonsense is that it cannot paint the picture
again: far above the errors of validation scenes, which travel with the weights, a plain warning is due. A set
predictor paints nothing; its slots' quarrel over places stands in, and tells less (measured for every
published model: "warnings" of `objecthood show NAME`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from objecthood.data.randomness import several_starts
from objecthood.models import SlotAutoencoder
from objecthood.models.set_predictor import SetPredictor

WHOLE, MOST, ATTENTION = "reconstruction error", "error of most pixels", "doubt of attention"
FACTORS = {WHOLE: 2.0, MOST: 4.0, ATTENTION: 1.25}
"""How far above 95 % of validation scenes a picture is strange; above by one measure is enough. Chosen on the
pictures that the cards of `tetrominoes`, `sprites`, `clevr` and `set-clevr` count ("warnings"), so that few
of their own test scenes are caught. 95 %, as the few scenes where a model fails would hide all else."""
BASE = "0.95"
LEAST_SCENES = 20
"""Validation scenes below which nothing is said: their quantile would be one picture."""
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


def strangeness(
    images: Float[Tensor, "batch 3 height width"], answer: dict[str, Tensor]
) -> dict[str, Float[Tensor, " batch"]]:
    """How badly a model does on pictures in [0, 1], by measure, from its output by field.

    With a "reconstruction", in [-1, 1] units: its mean squared error, as the score `mse`; and the squared
    error that three quarters of the pixels stay below, a colour's mean error taken out, which overlooks one
    object gone wrong and a ground of another shade, not texture everywhere. Else the mean over places of 1 -
    the largest share of attention in the last iteration: 0 where every place belongs to one slot.

    Example:
        >>> strangeness(torch.zeros(1, 3, 4, 4), {"reconstruction": torch.full((1, 3, 4, 4), 0.5)})
        {'reconstruction error': tensor([1.]), 'error of most pixels': tensor([0.])}
    """
    if "reconstruction" not in answer:
        return {ATTENTION: 1 - answer["attention"][:, -1].amax(dim=1).mean(dim=(1, 2))}
    error = 2 * (answer["reconstruction"] - images)
    centred = (error - error.mean(dim=(2, 3), keepdim=True)).square().mean(dim=1)
    return {
        WHOLE: error.square().mean(dim=(1, 2, 3)),
        MOST: centred.flatten(1).quantile(0.75, dim=1),
    }


@torch.no_grad()
def usual(model: Any, recipe: Any, batch_size: int = 32) -> dict[str, Any]:
    """The distribution of `strangeness` over a recipe's validation scenes, as JSON values: "scenes", their
    number, and "quantiles" by measure and share; empty for a model of another kind, or of motion."""
    if not isinstance(model, SlotAutoencoder | SetPredictor):
        return {}
    dataset = recipe.dataset("validation")
    count = min(len(dataset), recipe.validation_scenes)
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    found: dict[str, list[Tensor]] = {}
    for start in range(0, count, batch_size):
        images = dataset[np.arange(start, min(start + batch_size, count))]["image"].to(device)
        if images.dim() != 4:  # several motion fields of every frame: no pictures
            return {}
        same = np.zeros(len(images), np.int64)  # noise for every picture, as in `predict`
        noise = several_starts(same, getattr(recipe, "starts", 1), model.num_slots, model.slot_dim)
        answer = model.best_start(images, noise.to(device), iterations=recipe.test_iterations)
        for measure, values in strangeness(images, answer._asdict()).items():
            found.setdefault(measure, []).append(values.double().cpu())
    model.train(was_training)
    quantiles = {
        measure: {f"{share:g}": torch.cat(values).quantile(share).item() for share in QUANTILES}
        for measure, values in found.items()
    }
    return {"scenes": count, "quantiles": quantiles}


def warn_of(strange: dict[str, float], known: dict[str, Any]) -> str:
    """A plain warning where a measure lies far above what `usual` gave for validation scenes, else "".

    Example:
        >>> known = {"scenes": 128, "quantiles": {WHOLE: {"0.95": 0.01}}}
        >>> warn_of({WHOLE: 0.02}, known)
        ''
        >>> warn_of({WHOLE: 0.5}, known)
        'unlike what these weights were trained on (reconstruction error 50 times that of 95 % of validation \
scenes); what was found may mean nothing'
    """
    if not known or known["scenes"] < LEAST_SCENES:
        return ""
    times = {
        measure: strange[measure] / max(quantiles[BASE], 1e-12)
        for measure, quantiles in known["quantiles"].items()
    }
    worst = max(times, key=lambda measure: times[measure] / FACTORS[measure])
    if times[worst] <= FACTORS[worst]:
        return ""
    much = f"{times[worst]:.{0 if times[worst] >= 10 else 1}f}"
    return (
        f"unlike what these weights were trained on ({worst} {much} times that of 95 % of validation "
        "scenes); what was found may mean nothing"
    )

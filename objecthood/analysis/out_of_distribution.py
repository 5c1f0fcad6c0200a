"""Whether an image is like those a model was trained on, told by how much worse the model does on it.

A model of scenes finds something in every image. What tells nonsense is that it cannot paint the image
again: far above the errors of validation scenes, which travel with the weights, a plain warning is due. A set
predictor paints nothing; its slots' quarrel over places stands in, and tells less (measured for every
published model: "warnings" of `objecthood show NAME`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objecthood.data.randomness import restart_noise
from objecthood.models import SlotModel
from objecthood.models.base import ATTENTION, MOST, WHOLE

FACTORS = {WHOLE: 2.0, MOST: 4.0, ATTENTION: 1.25}
"""How far above 95 % of validation scenes an image is strange; above by one measure is enough. Chosen on the
images that the cards of `tetrominoes`, `sprites`, `clevr` and `set-clevr` count ("warnings"), so that few
of their own test scenes are caught. 95 %, as the few scenes where a model fails would hide all else."""
OTHER_FACTOR = 2.0
"""The same of a model's own measures."""
BASE = "0.95"
LEAST_SCENES = 20
"""Validation scenes below which nothing is said: their quantile would be one image."""
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


@torch.no_grad()
def calibration(model: Any, recipe: Any, batch_size: int = 32) -> dict[str, Any]:
    """The distribution of `SlotModel.anomaly_score` over a recipe's validation scenes, as JSON values: their
    number, "scenes", and "quantiles" by measure and share; empty for a model of another kind, or of clips."""
    if not isinstance(model, SlotModel):
        return {}
    dataset = recipe.dataset("validation")
    count = min(len(dataset), recipe.validation_scenes)
    device, was_training = model.device, model.training
    model.eval()
    found: dict[str, list[Tensor]] = {}
    for start in range(0, count, batch_size):
        images = dataset[np.arange(start, min(start + batch_size, count))]["image"].to(device)
        if images.dim() != 4:  # clips, or several motion fields of every frame: no images
            break
        same = np.zeros(len(images), np.int64)  # noise for every image, as in `predict`
        noise = restart_noise(same, getattr(recipe, "restarts", 1), model.num_slots, model.slot_dim)
        output = model.segment(images, iterations=recipe.test_iterations, noise=noise.to(device))
        for measure, values in model.anomaly_score(images, output).items():
            found.setdefault(measure, []).append(values.double().cpu())
    model.train(was_training)
    if not found:
        return {}
    quantiles = {
        measure: {f"{share:g}": torch.cat(values).quantile(share).item() for share in QUANTILES}
        for measure, values in found.items()
    }
    return {"scenes": count, "quantiles": quantiles}


def warning_for(strange: dict[str, float], known: Mapping[str, Any]) -> str:
    """A plain warning where a measure lies far above what `calibration` gave for validation scenes, else "".

    Example:
        >>> known = {"scenes": 128, "quantiles": {WHOLE: {"0.95": 0.01}}}
        >>> warning_for({WHOLE: 0.02}, known)
        ''
        >>> warning_for({WHOLE: 0.5}, known)
        'unlike what these weights were trained on (reconstruction error 50 times that of 95 % of validation \
scenes); what was found may mean nothing'
    """
    if not known or known["scenes"] < LEAST_SCENES:
        return ""
    times = {
        measure: strange[measure] / max(quantiles[BASE], 1e-12)
        for measure, quantiles in known.get("quantiles", {}).items()
        if measure in strange
    }
    if not times:
        return ""
    worst = max(times, key=lambda measure: times[measure] / FACTORS.get(measure, OTHER_FACTOR))
    if times[worst] <= FACTORS.get(worst, OTHER_FACTOR):
        return ""
    much = f"{times[worst]:.{0 if times[worst] >= 10 else 1}f}"
    return (
        f"unlike what these weights were trained on ({worst} {much} times that of 95 % of validation "
        "scenes); what was found may mean nothing"
    )

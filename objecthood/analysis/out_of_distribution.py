"""Out-of-distribution warning: compares scores of an image with those of validation scenes.

Weight files hold the distribution of `SlotModel.anomaly_score` over validation scenes. The score of discovery
models is the reconstruction error; that of set predictors, the uncertainty of attention, is less reliable
("warnings" of `objecthood show NAME` has measurements for every published model).
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
"""Warning thresholds as factors of the 95th percentile of validation scenes; one measure above is enough.
Chosen on the images in "warnings" of the cards of `tetrominoes`, `sprites`, `clevr` and `set-clevr`, such
that few of their own test scenes are above. Higher percentiles are dominated by scenes where a model
fails."""
OTHER_FACTOR = 2.0
"""Threshold of a model's own measures."""
TITLES = {MOST: "pixel error, 75th percentile,", ATTENTION: "uncertainty of attention"}
"""Names of measures in warnings, where they differ from the keys of weight files."""
BASE = "0.95"
LEAST_SCENES = 20
"""Number of validation scenes below which there is no warning, as the quantile would be one image."""
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


@torch.no_grad()
def calibration(model: Any, recipe: Any, batch_size: int = 32) -> dict[str, Any]:
    """Distribution of `SlotModel.anomaly_score` over a recipe's validation scenes, as JSON values: their
    number, "scenes", and "quantiles" by measure and share; empty for other models and for clips."""
    if not isinstance(model, SlotModel):
        return {}
    dataset = recipe.dataset("validation")
    count = min(len(dataset), recipe.validation_scenes)
    device, was_training = model.device, model.training
    model.eval()
    found: dict[str, list[Tensor]] = {}
    iterations = getattr(recipe, "test_iterations", None)  # None: the model's
    for start in range(0, count, batch_size):
        images = dataset[np.arange(start, min(start + batch_size, count))]["image"].to(device)
        if images.dim() != 4:  # clips, or several motion fields per frame
            break
        indices = np.zeros(len(images), np.int64)  # the same noise for every image, as in `predict`
        noise = restart_noise(indices, getattr(recipe, "restarts", 1), model.num_slots, model.slot_dim)
        output = model.segment(images, iterations=iterations, noise=noise.to(device))
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
    """A warning if a measure is far above the `calibration` on validation scenes, else "".

    Example:
        >>> known = {"scenes": 128, "quantiles": {WHOLE: {"0.95": 0.01}}}
        >>> warning_for({WHOLE: 0.02}, known)
        ''
        >>> warning_for({WHOLE: 0.5}, known)
        'likely out of distribution: reconstruction error is 50 times the 95th percentile of validation \
scenes; the objects may be meaningless'
    """
    if not known or known["scenes"] < LEAST_SCENES:
        return ""
    ratios = {
        measure: strange[measure] / max(quantiles[BASE], 1e-12)
        for measure, quantiles in known.get("quantiles", {}).items()
        if measure in strange
    }
    if not ratios:
        return ""
    worst = max(ratios, key=lambda measure: ratios[measure] / FACTORS.get(measure, OTHER_FACTOR))
    ratio = ratios[worst]
    if ratio <= FACTORS.get(worst, OTHER_FACTOR):
        return ""
    return (
        f"likely out of distribution: {TITLES.get(worst, worst)} is {ratio:.{0 if ratio >= 10 else 1}f} "
        "times the 95th percentile of validation scenes; the objects may be meaningless"
    )

"""Property prediction: how well properties of objects can be read from their slots.

Dittadi et al. 2022 (arXiv 2107.00637), section 4: slots are matched with objects one to one by overlap of
masks, and a linear probe and a small MLP are fitted on frozen slots. Numbers are scored by R2, classes by
accuracy. Differences: the linear probe is ridge regression in closed form (also on one-hot classes); the MLP
has one hidden layer of 256 units; besides CLEVR's properties, where scenes have them, the targets are those
that every scene with masks has: position, size and colour of the visible pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from objecthood import metrics
from objecthood.analysis.probes import centroids, predict
from objecthood.data.scene import Scenes
from objecthood.nn.matching import assign

HIDDEN, STEPS, EVALUATE_EVERY, LEARNING_RATE = 256, 500, 25, 2e-3
RESAMPLES = 200
"""Bootstrap resamples of images, for standard errors."""


class MatchedObjects(NamedTuple):
    """Objects of images with their matched slots."""

    slots: Float[Tensor, "objects slot_dim"]
    image: Int[Tensor, " objects"]
    """The index of each object's image."""
    numbers: dict[str, Float[Tensor, "objects numbers"]]
    """Position (across, down) and size (root of the share of pixels), in [0, 1], and mean colour."""
    classes: dict[str, Int[Tensor, " objects"]]
    """CLEVR's size, material, shape and colour, where the scenes have them."""


def matched_objects(scenes: Scenes, slots: Tensor, masks: Tensor, indices: Tensor) -> MatchedObjects:
    """The objects of a batch of images that a slot is matched with (Hungarian method on overlaps).

    Raises:
        ValueError: the scenes have no true masks.
    """
    if "masks" not in scenes:
        raise ValueError("property prediction needs scenes with true masks; these have none")
    truth = metrics.renumbered(scenes["masks"]).cpu()
    overlap, present = (part.cpu() for part in metrics.object_overlaps(scenes["masks"], masks))
    if not overlap.shape[1]:
        empty = slots[:0, 0].cpu().double()
        return MatchedObjects(empty, indices[:0], {}, {})
    rows, columns = assign(-overlap)
    batch = torch.arange(len(truth))[:, None].expand_as(rows)
    is_there = present[batch, rows]
    batch, rows, columns = batch[is_there], rows[is_there], columns[is_there]
    chosen = (truth[batch] == rows[:, None, None] + 1).double()
    area = chosen.sum((1, 2))
    image = scenes["image"].cpu().double()
    numbers = {
        "position": centroids(chosen),
        "size": (area / chosen[0].numel()).sqrt()[:, None],
        "colour": (image[batch] * chosen[:, None]).sum((2, 3)) / area[:, None],
    }
    classes = {}
    if "properties" in scenes:  # row k belongs to label k + 1
        known = scenes["properties"].cpu()[batch, rows]
        classes = {name: known[:, group].argmax(dim=1) for name, group in metrics.PROPERTY_GROUPS.items()}
    return MatchedObjects(slots.cpu().double()[batch, columns], indices[batch], numbers, classes)


def joined(parts: Iterable[MatchedObjects]) -> MatchedObjects:
    """The objects of several batches together."""
    some = [part for part in parts if len(part.slots)]
    if not some:
        raise ValueError("property prediction needs objects; the true masks of these scenes show none")
    return MatchedObjects(
        torch.cat([part.slots for part in some]),
        torch.cat([part.image for part in some]),
        {name: torch.cat([part.numbers[name] for part in some]) for name in some[0].numbers},
        {name: torch.cat([part.classes[name] for part in some]) for name in some[0].classes},
    )


def property_scores(train: MatchedObjects, test: MatchedObjects) -> dict[str, tuple[float, float]]:
    """Mean and standard error of each score on `test`, of probes fitted on `train`.

    `position_r2_linear` and the like, and `shape_accuracy_mlp` and the like for classes. R2 is at most 1, and
    0 for the mean of the test objects; nan for a property that does not vary. Standard errors are
    bootstrapped over images (Efron 1979).
    """
    found = {}
    for kind, probe in (("linear", predict), ("mlp", mlp_predict)):
        for name, numbers in train.numbers.items():
            values = probe(train.slots, numbers, test.slots)
            found[f"{name}_r2_{kind}"] = r2_and_error(values, test.numbers[name], test.image)
        for name, labels in train.classes.items():
            count = int(torch.cat([labels, test.classes[name]]).max()) + 1
            values = probe(train.slots, F.one_hot(labels, count).double(), test.slots)
            right = values.argmax(dim=1) == test.classes[name]
            found[f"{name}_accuracy_{kind}"] = accuracy_and_error(right, test.image)
    return found


def mlp_predict(
    inputs: Float[Tensor, "samples numbers"],
    wanted: Float[Tensor, "samples outputs"],
    asked: Float[Tensor, "others numbers"],
) -> Float[Tensor, "others outputs"]:
    """An MLP fitted on `inputs` and `wanted` by squared error, applied to `asked`.

    Adam, all samples in every step, inputs and outputs standardised, initial weights of seed 0. Every fifth
    sample is kept out; of the states seen and of the mean of the outputs, the one of lowest error on these is
    taken.
    """
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0, correction=0).clamp_min(1e-6)
    centre, scale = wanted.mean(dim=0), wanted.std(dim=0, correction=0).clamp_min(1e-6)
    start, target = ((inputs - mean) / deviation).float(), ((wanted - centre) / scale).float()
    others = ((asked - mean) / deviation).float()
    is_kept = torch.arange(len(inputs)) % 5 == 4
    lowest = target[is_kept].square().mean() if is_kept.any() else torch.inf
    best = torch.zeros(len(asked), wanted.shape[1])
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        layers = nn.Linear(inputs.shape[1], HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, wanted.shape[1])
        network = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            (network(start[~is_kept]) - target[~is_kept]).square().mean().backward()
            optimizer.step()
            if step % EVALUATE_EVERY == 0:
                with torch.no_grad():
                    error = (network(start[is_kept]) - target[is_kept]).square().mean()
                    if error < lowest:
                        lowest, best = error, network(others)
    return best.double() * scale + centre


def r2_and_error(
    predicted: Float[Tensor, "objects numbers"], true: Float[Tensor, "objects numbers"], image: Tensor
) -> tuple[float, float]:
    """Coefficient of determination, mean over the numbers that vary, and its standard error over images."""
    errors, true = (predicted - true).square(), true - true.mean(dim=0)
    true, errors = (part[:, true.std(dim=0, correction=0) > 1e-9] for part in (true, errors))
    if not true.shape[1]:
        return math.nan, math.nan
    ones = torch.ones(len(true), 1, dtype=torch.float64)
    sums = _sums_by_image(torch.cat([errors, true, true.square(), ones], dim=1), image)

    def score(total: Tensor) -> Tensor:
        error, first, second = total[:, :-1].chunk(3, dim=1)
        return (1 - error / (second - first.square() / total[:, -1:])).mean(dim=1)

    return score(sums.sum(dim=0, keepdim=True)).item(), score(_resampled(sums)).std().item()


def accuracy_and_error(right: Bool[Tensor, " objects"], image: Tensor) -> tuple[float, float]:
    """Share of right answers, and its standard error over images."""
    sums = _sums_by_image(torch.stack([right.double(), torch.ones(len(right)).double()], dim=1), image)
    total = _resampled(sums)
    return right.double().mean().item(), (total[:, 0] / total[:, 1]).std().item()


def _sums_by_image(values: Tensor, image: Tensor) -> Tensor:
    """Sums [images, columns] over the objects of each image."""
    images, group = image.unique(return_inverse=True)
    return torch.zeros(len(images), values.shape[1], dtype=torch.float64).index_add_(0, group, values)


def _resampled(sums: Tensor) -> Tensor:
    """Sums [`RESAMPLES`, columns] over bootstrap samples of images."""
    counts = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    return torch.from_numpy(counts).double() @ sums

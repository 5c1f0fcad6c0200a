"""Property prediction: how well properties of objects can be read from their slots.

Dittadi et al. 2022 (arXiv 2107.00637), section 4: slots are matched with objects one to one by overlap of
masks, and a linear probe and a small MLP are fitted on frozen slots. Numbers are scored by R2, classes by
accuracy. Differences: the linear probe is ridge regression in closed form (also on one-hot classes); the MLP
has one hidden layer of 256 units; besides CLEVR's properties, where scenes have them, the targets are those
that every scene with masks has: position, size and colour of the visible pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from objecthood import metrics
from objecthood.analysis.probes import centroids, predict, r2
from objecthood.data.scene import Scenes
from objecthood.nn.matching import assign

HIDDEN, STEPS, LEARNING_RATE = 256, 500, 2e-3
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
    0 for the mean of the test objects. Standard errors are bootstrapped over images (Efron 1979).
    """
    found = {}
    for kind, probe in (("linear", predict), ("mlp", mlp_predict)):
        for name, numbers in train.numbers.items():
            values = probe(train.slots, numbers, test.slots)
            found[f"{name}_r2_{kind}"] = with_error(r2, values, test.numbers[name], test.image)
        for name, labels in train.classes.items():
            count = int(torch.cat([labels, test.classes[name]]).max()) + 1
            values = probe(train.slots, F.one_hot(labels, count).double(), test.slots)
            right = values.argmax(dim=1) == test.classes[name]
            found[f"{name}_accuracy_{kind}"] = with_error(_share, right, right, test.image)
    return found


def mlp_predict(
    inputs: Float[Tensor, "samples numbers"],
    wanted: Float[Tensor, "samples outputs"],
    asked: Float[Tensor, "others numbers"],
) -> Float[Tensor, "others outputs"]:
    """An MLP fitted on `inputs` and `wanted` by squared error (Adam, all samples in every step), applied to
    `asked`. Inputs and outputs are standardised; initial weights are those of seed 0."""
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0, correction=0).clamp_min(1e-6)
    centre, scale = wanted.mean(dim=0), wanted.std(dim=0, correction=0).clamp_min(1e-6)
    start, target = ((inputs - mean) / deviation).float(), ((wanted - centre) / scale).float()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        layers = nn.Linear(inputs.shape[1], HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, wanted.shape[1])
        network = nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2)
        for _ in range(STEPS):
            optimizer.zero_grad()
            (network(start) - target).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        return network(((asked - mean) / deviation).float()).double() * scale + centre


def with_error(
    score: object, predicted: Shaped[Tensor, "objects ..."], true: Tensor, image: Int[Tensor, " objects"]
) -> tuple[float, float]:
    """A score of objects, and its standard error over `RESAMPLES` bootstrap samples of images (seed 0)."""
    assert callable(score)
    images, group = image.unique(return_inverse=True)
    members = [torch.nonzero(group == number)[:, 0] for number in range(len(images))]
    generator = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = torch.cat([members[number] for number in generator.integers(len(images), size=len(images))])
        values.append(score(predicted[drawn], true[drawn]))
    return score(predicted, true), float(np.std(values, ddof=1))


def _share(right: Tensor, _: Tensor) -> float:
    return right.double().mean().item()

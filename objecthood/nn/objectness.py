"""Linear objectness of frozen features: one head for all videos, adapted to each without labels.

A linear classifier of object against background, by ridge regression on two classes of equal weight. Its
labels are noisy: what moves. A cell of an object often looks like objects of other videos, while smoke, water
and errors of optical flow do not, so that the classifier is better than its labels (learning from noisy
motion labels as in Pathak et al. 2017, "Learning Features by Watching Objects Move", arXiv 1612.06370).

For one video the weights are fitted anew to its own labels, with the distance to the general weights as
penalty, and linear discriminant analysis (Fisher 1936) turns objectness and motion of a cell into the log
odds of an object. Both steps take closed forms; labels and weights alternate a few times.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

BUNDLED = Path(__file__).resolve().parent.parent / "weights" / "video-head.safetensors"
SLOPE, OFFSET = 3.0, 0.6
"""From objectness to the log odds that a cell of a photograph belongs to an object."""
FEWEST = 20
"""Cells labelled as object below which nothing is fitted."""


class Moments(NamedTuple):
    """Sums of a ridge regression with two classes of weight 1 each."""

    gram: Float[Tensor, "inputs inputs"]
    target: Float[Tensor, " inputs"]


def class_moments(inputs: Float[Tensor, "cells inputs"], labels: Float[Tensor, " cells"]) -> Moments:
    """Moments of inputs with labels in [0, 1]: the share of a cell that belongs to objects (target 1; else
    -1)."""
    objects = labels / labels.sum().clamp_min(1)
    background = (1 - labels) / (1 - labels).sum().clamp_min(1)
    weighted = inputs * (objects + background)[:, None]
    return Moments(weighted.T @ inputs, inputs.T @ (objects - background))


def ridge(
    moments: Moments, penalty: float, start: Float[Tensor, " inputs"] | None = None
) -> Float[Tensor, " inputs"]:
    """Weights of smallest squared error plus `penalty` times their squared distance to `start` (0 unless
    given).

    Example:
        >>> inputs, labels = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 0.0])
        >>> moments = class_moments(inputs, labels)
        >>> ridge(moments, 2.0), ridge(moments, 1e6, torch.ones(1))
        (tensor([0.5000]), tensor([1.]))
    """
    gram, target = moments
    start = torch.zeros_like(target) if start is None else start
    damped = gram + penalty * torch.eye(len(target), device=target.device)
    return start + torch.linalg.solve(damped, target - gram @ start)


def log_odds(
    values: Float[Tensor, "channels cells"], labels: Float[Tensor, " cells"], shrinkage: float = 0.01
) -> Float[Tensor, " cells"]:
    """Linear discriminant analysis: log odds of an object in each cell, with the share of `labels` in [0, 1]
    as prior; `shrinkage` is added to the variances.

    Example:
        >>> odds = log_odds(torch.tensor([[0.0, 0.1, 0.9, 1.0]]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
        >>> (odds > 0).tolist()
        [False, False, True, True]
    """
    share = labels.mean().clamp(1e-3, 0.9)
    means, scatter = [], shrinkage * torch.eye(len(values), device=values.device)
    for weight in (labels, 1 - labels):
        mean = (values * weight).sum(dim=1) / weight.sum().clamp_min(1)
        centred = values - mean[:, None]
        scatter = scatter + (centred * weight) @ centred.T / len(labels)
        means.append(mean)
    direction = torch.linalg.solve(scatter, means[0] - means[1])
    middle = (means[0] + means[1]) / 2
    return direction @ (values - middle[:, None]) + share.logit()


class ObjectnessHead(nn.Module):
    """A linear function of standardised features, about 1 for objects and -1 for background.

    Attributes:
        mean: float32 [dim], of the features of training videos.
        scale: float32, the mean standard deviation of a channel.
        weight: float32 [dim + 1], the last one a constant.

    Example:
        >>> ObjectnessHead(4)(torch.rand(2, 3, 4)).shape
        torch.Size([2, 3])
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("weight", torch.zeros(dim + 1))

    @classmethod
    def bundled(cls) -> ObjectnessHead:
        """The head for features of `EfficientNetLite0.bundled()`, learned from what moves in 12 sequences of
        DAVIS-2016, without labels."""
        weights = load_file(BUNDLED)
        head = cls(len(weights["mean"]))
        head.load_state_dict(weights)
        return head

    def inputs(self, features: Float[Tensor, "*cells dim"]) -> Float[Tensor, "_ inputs"]:
        """Standardised features of all cells with a constant 1; float32 in any precision of the weights."""
        standard = (features.float().flatten(0, -2) - self.mean.float()) / self.scale.float()
        return torch.cat([standard, torch.ones_like(standard[:, :1])], dim=1)

    def forward(self, features: Float[Tensor, "*cells dim"]) -> Float[Tensor, "*cells"]:
        """Objectness of each cell."""
        return (self.inputs(features) @ self.weight.float()).view(features.shape[:-1])

    def probability(self, features: Float[Tensor, "*cells dim"]) -> Float[Tensor, "*cells"]:
        """Probability that a cell of a photograph belongs to an object."""
        return (SLOPE * (self(features) - OFFSET)).sigmoid()

    def log_odds(self) -> tuple[Float[Tensor, " dim"], float]:
        """`probability` as a logistic regression: its weights of the features, and its constant.

        Example:
            >>> head, features = ObjectnessHead(4), torch.rand(3, 4)
            >>> head.mean.fill_(0.5), head.weight.copy_(torch.arange(5.0))  # doctest: +ELLIPSIS
            (...)
            >>> weight, constant = head.log_odds()
            >>> torch.allclose((features @ weight + constant).sigmoid(), head.probability(features))
            True
        """
        weight = self.weight[:-1] / self.scale
        return SLOPE * weight, SLOPE * (float(self.weight[-1] - weight @ self.mean) - OFFSET)

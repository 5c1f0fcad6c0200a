"""Spherical k-means with hard assignments as a slot module: a control for soft competition.

Lloyd 1982, on unit vectors (Dhillon and Modha 2001). `SoftKMeans` with the softmax replaced by its largest
entry: with p = softmax over slots of (c k / temperature + attention bias),

    attention = 1 for the slot of largest p, 0 for the others

In the backward pass, `straight_through` takes the gradient of p for that of the assignment (Bengio et al.
2013, arXiv 1308.3432). Otherwise assignments have no gradient, and keys are trained by their means alone.

Difference from Lloyd: a slot without inputs moves to the mean of all inputs, in place of keeping its mean;
its assignments have no gradient, which would be without bound.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objecthood.nn.soft_kmeans import SoftKMeans


class KMeans(SoftKMeans):
    """Group a grid of inputs into slots, each input into one.

    Args:
        num_slots, grid, input_dim, slot_dim: as in `SoftKMeans`.
        straight_through: whether assignments pass on the gradient of the softmax.
        options: further arguments of `SoftKMeans`; `temperature` affects the gradient and the weight of an
            `attention_bias`.

    Example:
        >>> import torch
        >>> group = KMeans(num_slots=4, grid=(8, 8), input_dim=32, slot_dim=16)
        >>> slots, attention = group(torch.randn(2, 64, 32), torch.randn(2, 4, 16))
        >>> attention.unique().tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        num_slots: int,
        grid: tuple[int, int],
        input_dim: int,
        slot_dim: int,
        *,
        straight_through: bool = True,
        **options: Any,
    ):
        super().__init__(num_slots, grid, input_dim, slot_dim, **options)
        self.straight_through = straight_through

    def _compete(self, logits: Tensor) -> Tensor:
        soft = logits.softmax(dim=1)
        hard = F.one_hot(soft.argmax(dim=1), soft.shape[1]).transpose(1, 2).to(soft)
        return hard + (soft - soft.detach()) if self.straight_through else hard

    def _weights(self, attention: Tensor, mask: Tensor | None) -> Tensor:
        weights = super()._weights(attention, mask)
        is_empty = attention.detach().sum(dim=-1, keepdim=True) < 0.5
        return torch.where(is_empty, weights.detach(), weights)

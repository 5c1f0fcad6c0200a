"""Learned affinity of the cells of an image: the probability that two cells belong to one segment.

A consensus of normalised cuts (`nn.consensus_cut`) knows one image. A network that learns its agreement from
many images, without labels, predicts the mean of what the cuts do with such features and surroundings, and
nothing is decomposed when it is used. That detectors which learn from segments of cuts surpass them is known
from Wang et al. 2023, "CutLER" (arXiv 2301.11320); embeddings of pixels compared by distance are those of
De Brabandere et al. 2017 (arXiv 1708.02551). Figures: results/photographs-tries.md, "Learned affinity".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from objecthood.nn.local_context import LocalContext
from objecthood.nn.normalised_cut import kmeans
from objecthood.nn.positions import PositionEmbedding

ITERATIONS = 15
"""Of k-means."""


class PairwiseAffinity(nn.Module):
    """Embeds cells so that the squared distance of two says how likely they share a segment.

    Args:
        feature_dim: size of the features, of unit length.
        dim: channels between.
        blocks: blocks of convolutions (`LocalContext`).
        embedding_dim: size of an embedding.

    Example:
        >>> affinity = PairwiseAffinity(feature_dim=16, dim=8, blocks=1, embedding_dim=4)
        >>> embedding = affinity(torch.randn(2, 5, 7, 16))
        >>> embedding.shape, affinity.probability(embedding).shape
        (torch.Size([2, 35, 4]), torch.Size([2, 35, 35]))
    """

    def __init__(self, feature_dim: int = 304, dim: int = 128, blocks: int = 4, embedding_dim: int = 64):
        super().__init__()
        self.scale = feature_dim**0.5
        self.project = nn.Linear(feature_dim, dim)
        self.positions = PositionEmbedding(dim)
        self.context = LocalContext(dim, blocks)
        self.norm = nn.LayerNorm(dim)
        self.embed = nn.Linear(dim, embedding_dim)
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.bias = nn.Parameter(torch.tensor(1.0))

    def forward(
        self, features: Float[Tensor, "batch rows columns feature_dim"]
    ) -> Float[Tensor, "batch cells embedding_dim"]:
        """Embeddings of the cells, of any grid."""
        hidden = self.project(self.scale * features) + self.positions(*features.shape[1:3])
        embedding = self.embed(self.norm(self.context(hidden)))
        return (2 * (self.log_scale / 2).exp() / embedding.shape[-1] ** 0.5 * embedding).flatten(1, 2)

    def logits(self, embedding: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells cells"]:
        """Log odds that two cells share a segment: a learned bias less their squared distance."""
        squares = embedding.square().sum(dim=-1)
        products = embedding @ embedding.transpose(1, 2)
        return self.bias - (squares[:, :, None] + squares[:, None] - 2 * products).clamp_min(0)

    def probability(self, embedding: Float[Tensor, "batch cells dim"]) -> Float[Tensor, "batch cells cells"]:
        """Probability that two cells share a segment."""
        return self.logits(embedding).sigmoid()


def clusters_of(embedding: Float[Tensor, "cells dim"], clusters: int) -> Int[Tensor, " cells"]:
    """Labels from 0 of k-means of the embedding into at most `clusters`. Deterministic.

    Example:
        >>> labels = clusters_of(torch.tensor([[0.0], [0.1], [4.0]]), clusters=2)
        >>> bool(labels[0] == labels[1]), bool(labels[1] == labels[2])
        (True, False)
    """
    return kmeans(embedding, min(clusters, len(embedding)), 1, ITERATIONS, seed=0).unique(
        return_inverse=True
    )[1]


def merged(
    labels: Int[Tensor, " cells"],
    affinity: Float[Tensor, "cells cells"],
    distance: float,
    num_segments: int | None = None,
) -> Int[Tensor, " cells"]:
    """Labels from 0 of clusters, of which the two of highest mean affinity are merged as long as it exceeds
    1 - `distance`, or until `num_segments` are left.

    Example:
        >>> places = torch.tensor([[0.0], [0.1], [4.0]])
        >>> merged(torch.tensor([2, 1, 0]), (-torch.cdist(places, places)).exp(), distance=0.5)
        tensor([1, 1, 0])
    """
    members = F.one_hot(labels).to(affinity)
    sums = members.T @ affinity @ members
    while len(sums) > (num_segments or 1):
        sizes = members.sum(dim=0)
        mean = (sums / (sizes[:, None] * sizes)).fill_diagonal_(-1)
        if num_segments is None and mean.max() <= 1 - distance:
            break
        first, second = sorted(divmod(int(mean.argmax()), len(mean)))
        rest = torch.arange(len(mean), device=mean.device) != second
        sums[first] += sums[second]
        for part in (sums, members):
            part[:, first] += part[:, second]
        sums, members = sums[rest][:, rest], members[:, rest]
    return members.argmax(dim=1)

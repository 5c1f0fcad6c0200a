"""Consensus segmentation of many normalised cuts of one image; the number of segments is found.

Evidence accumulation: Fred and Jain 2005, "Combining multiple clusterings using evidence accumulation"
(TPAMI). K-means with several numbers of clusters partitions the eigenvectors of several affinities
(`nn.normalised_cut`). The agreement of two cells is the share of partitions in which they share a cluster;
average linkage merges cells up to a distance. Scores vary far less with the seed of k-means than those of one
cut; they are higher on the photographs used for tuning and equal within noise on others
(`results/photographs.json`, `results/photographs-tries.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from objecthood.nn.normalised_cut import (
    CutOutput,
    affinity,
    commute_rows,
    kmeans,
    random_walk_vectors,
)


class View(NamedTuple):
    """One affinity of a consensus (`normalised_cut.affinity`)."""

    embedding: int
    """Its index."""
    temperature: float
    reach: float
    tolerance: float = 0.0
    """Of differences within objects, between 0 and 1."""


@dataclass(frozen=True)
class ConsensusCut:
    """Settings of the consensus; a call segments one image. Deterministic.

    Attributes:
        num_segments: number of segments; None: determined by `distance`.
        distance: threshold of average linkage, between 0 and 1: segments of more than 1 - `distance`
            agreement are merged. Smaller values give more segments.
        views: the affinities.
        partitions: number of clusters and of eigenvectors of each partition of an affinity.
        restarts: k-means runs of each partition, with different seeds.
        iterations: iterations of k-means.
        offset: bound of an eigenvector's weight (`normalised_cut.commute_rows`).
        seed: seed of k-means.

    Raises:
        ValueError: `distance`, `num_segments` or a tolerance is out of range.
    """

    num_segments: int | None = None
    distance: float = 0.66
    views: tuple[View, ...] = (View(0, 0.05, 0.15, 0.4), View(0, 0.06, 0.12), View(1, 0.035, 0.15))
    partitions: tuple[tuple[int, int], ...] = ((9, 8), (12, 8), (16, 12), (24, 16))
    restarts: int = 3
    iterations: int = 10
    offset: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(View(*view) for view in self.views))  # also of plain tuples
        if not 0 < self.distance < 1:
            raise ValueError(f"`distance` (={self.distance}) must lie between 0 and 1")
        if self.num_segments is not None and self.num_segments < 1:
            raise ValueError(f"`num_segments` (={self.num_segments}) must be at least 1, or None")
        if not all(0 <= view.tolerance <= 1 for view in self.views):
            raise ValueError(f"`tolerance` in `views` (={self.views}) must lie between 0 and 1")

    @torch.no_grad()
    def __call__(
        self,
        embeddings: Sequence[Float[Tensor, "rows columns _"]],
        objects: Float[Tensor, "rows columns"] | None = None,
    ) -> CutOutput:
        """Segments of one image, from one or more embeddings of unit vectors on one grid, and from the
        probability that a cell belongs to an object; without it, differences count everywhere alike.

        Slots and eigenvectors of the output are those of the first embedding. `attention` is the mean
        agreement of a cell with the cells of a segment, normalised to sum 1 over segments. Views whose index
        exceeds the number of embeddings use the last.

        Example:
            >>> embedding = torch.zeros(8, 12, 2)
            >>> embedding[:, :4, 0], embedding[:, 4:, 1] = 1, 1
            >>> labels = ConsensusCut(num_segments=2)([embedding]).labels
            >>> len(labels[:, :4].unique()), len(labels[:, 4:].unique()), len(labels.unique())
            (1, 1, 2)
        """
        agreement, values, vectors = self.agreement(embeddings, objects)
        labels = self.labels(agreement)
        slots, attention = segments_of(agreement, labels, embeddings[0].float())
        return CutOutput(slots, attention, labels.view(attention.shape[1:]), values, vectors, agreement)

    def agreement(
        self, embeddings: Sequence[Tensor], objects: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Agreement [cells, cells]: the share of partitions in which two cells share a cluster; eigenvalues
        and eigenvectors of the first view."""
        labels, values, vectors = self.partitioned(embeddings, objects)
        return agreement_of(labels), values, vectors

    def partitioned(
        self, embeddings: Sequence[Tensor], objects: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Labels [partitions of all views, cells]; eigenvalues and eigenvectors of the first view.
        ValueError for an image of one cell."""
        cells = embeddings[0].shape[:2].numel()
        if cells < 2:
            raise ValueError("an image of one cell of features cannot be cut; take a higher resolution")
        num_vectors = min(max(number for _, number in self.partitions), cells - 1)
        labels, spectra = [], []
        for index, temperature, reach, tolerance in self.views:
            embedding = embeddings[min(index, len(embeddings) - 1)]
            weights = affinity(embedding, temperature, reach, tolerance, objects)
            values, vectors = random_walk_vectors(weights, num_vectors)
            spectra.append((values, vectors))
            for clusters, number in self.partitions:
                rows = commute_rows(values[:number], vectors[:, :number], self.offset)
                labels += [
                    kmeans(rows, min(clusters, cells), 1, self.iterations, self.seed + restart)
                    for restart in range(self.restarts)
                ]
        return torch.stack(labels), *spectra[0]

    def labels(self, agreement: Float[Tensor, "cells cells"]) -> Tensor:
        """Labels of the cells, from 0, by average linkage."""
        # Half a second of every start, for those who need it.
        from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
        from scipy.spatial.distance import squareform

        tree = linkage(squareform((1 - agreement).cpu().numpy(), checks=False), "average")
        if self.num_segments is None:
            labels = fcluster(tree, self.distance, "distance") - 1
        else:  # `fcluster` gives fewer where heights are equal
            labels = cut_tree(tree, n_clusters=min(self.num_segments, len(agreement)))[:, 0]
        return torch.from_numpy(labels).long().to(agreement.device)


def agreement_of(labels: Int[Tensor, "partitions cells"]) -> Float[Tensor, "cells cells"]:
    """The share of partitions in which two cells share a cluster.

    Example:
        >>> agreement_of(torch.tensor([[0, 0, 1], [2, 1, 1]]))
        tensor([[1.0000, 0.5000, 0.0000],
                [0.5000, 1.0000, 0.5000],
                [0.0000, 0.5000, 1.0000]])
    """
    members = F.one_hot(labels.T).flatten(1).float()
    return members @ members.T / len(labels)


def segments_of(
    agreement: Float[Tensor, "cells cells"],
    labels: Int[Tensor, " cells"],
    embedding: Float[Tensor, "rows columns dim"],
) -> tuple[Float[Tensor, "segments dim"], Float[Tensor, "segments rows columns"]]:
    """Slots, the mean embedding of each segment, of unit length; and attention, the mean agreement of a cell
    with the cells of a segment, normalised to sum 1 over segments.

    Example:
        >>> slots, attention = segments_of(torch.eye(2), torch.tensor([0, 1]), torch.eye(2).view(1, 2, 2))
        >>> attention.flatten(1)
        tensor([[1., 0.],
                [0., 1.]])
    """
    members = F.one_hot(labels).to(agreement)
    attention = agreement @ members / members.sum(dim=0)
    attention = attention / attention.sum(dim=1, keepdim=True)
    slots = F.normalize(members.T @ embedding.flatten(0, 1), dim=-1)
    return slots, attention.T.unflatten(1, embedding.shape[:2])

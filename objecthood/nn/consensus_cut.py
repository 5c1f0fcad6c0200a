"""Segments on which many normalised cuts of one image agree, as many as the image has.

Evidence accumulation: Fred and Jain 2005, "Combining multiple clusterings using evidence accumulation"
(TPAMI). K-means with several numbers of clusters divides the eigenvectors of several affinities
(`nn.normalised_cut`); two cells are as near as the share of these partitions that keep them together;
average linkage joins cells, and stops at a distance, not at a number. It beats each of its partitions
(`results/photographs-tries.md`) and depends less on the starts of k-means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from objecthood.nn.normalised_cut import (
    CutOutput,
    affinity,
    commute_rows,
    kmeans,
    random_walk_vectors,
)


@dataclass(frozen=True)
class ConsensusCut:
    """Settings of the consensus; a call divides one image. Deterministic.

    Attributes:
        num_segments: how many segments; None: as many as `distance` leaves.
        distance: average linkage stops here, in [0, 1]: segments of more than 1 - `distance` agreement are
            joined. Smaller: more segments.
        views: which embedding, temperature and reach (`normalised_cut.affinity`) of every affinity.
        partitions: number of clusters and of eigenvectors of every partition of an affinity.
        restarts: partitions of each kind, which differ by the start of k-means.
        iterations: of k-means.
        offset: bound of an eigenvector's weight (`normalised_cut.commute_rows`).
        seed: of k-means.
    """

    num_segments: int | None = None
    distance: float = 0.66
    views: tuple[tuple[int, float, float], ...] = ((0, 0.05, 0.15), (0, 0.06, 0.12), (1, 0.035, 0.15))
    partitions: tuple[tuple[int, int], ...] = ((9, 8), (12, 8), (16, 12), (24, 16))
    restarts: int = 3
    iterations: int = 10
    offset: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.distance < 1:
            raise ValueError(f"`distance` (={self.distance}) must lie between 0 and 1")
        if self.num_segments is not None and self.num_segments < 1:
            raise ValueError(f"`num_segments` (={self.num_segments}) must be at least 1, or None")

    @torch.no_grad()
    def __call__(self, embeddings: Sequence[Float[Tensor, "rows columns _"]]) -> CutOutput:
        """Segments of one image, from one or more embeddings of unit vectors on one grid.

        The first gives the slots and the eigenvectors of the output. `attention` is soft: the mean agreement
        of a cell with the cells of a segment, of sum 1 over segments. A view of an embedding that is not
        there takes the last.

        Example:
            >>> embedding = torch.zeros(8, 12, 2)
            >>> embedding[:, :4, 0], embedding[:, 4:, 1] = 1, 1
            >>> labels = ConsensusCut(num_segments=2)([embedding]).labels
            >>> len(labels[:, :4].unique()), len(labels[:, 4:].unique()), len(labels.unique())
            (1, 1, 2)
        """
        grid = embeddings[0].shape[:2]
        agreement, values, vectors = self._agreement(embeddings)
        labels = self._joined(agreement)
        members = F.one_hot(labels).to(agreement)
        attention = agreement @ members / members.sum(dim=0)
        attention = attention / attention.sum(dim=1, keepdim=True)
        slots = F.normalize(members.T @ embeddings[0].flatten(0, 1).float(), dim=-1)
        return CutOutput(slots, attention.T.unflatten(1, grid), labels.view(grid), values, vectors)

    def _agreement(self, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[cells, cells]: the share of all partitions in which two cells are together; the first view's
        eigenvalues and eigenvectors."""
        cells = embeddings[0].shape[:2].numel()
        most = min(max(number for _, number in self.partitions), cells - 1)
        together, spectra = torch.zeros(cells, cells, device=embeddings[0].device), []
        for which, temperature, reach in self.views:
            embedding = embeddings[min(which, len(embeddings) - 1)]
            values, vectors = random_walk_vectors(affinity(embedding, temperature, reach), most)
            spectra.append((values, vectors))
            for clusters, number in self.partitions:
                rows = commute_rows(values[:number], vectors[:, :number], self.offset)
                for restart in range(self.restarts):
                    labels = kmeans(rows, min(clusters, cells), 1, self.iterations, self.seed + restart)
                    members = F.one_hot(labels).to(together)
                    together.addmm_(members, members.T)
        return together / together[0, 0], *spectra[0]

    def _joined(self, agreement: Tensor) -> Tensor:
        """Labels of the cells, from 0, by average linkage."""
        tree = linkage(squareform((1 - agreement).cpu().numpy(), checks=False), "average")
        if self.num_segments is None:
            labels = fcluster(tree, self.distance, "distance") - 1
        else:  # `fcluster` gives fewer where heights are equal
            labels = cut_tree(tree, n_clusters=min(self.num_segments, len(agreement)))[:, 0]
        return torch.from_numpy(labels).long().to(agreement.device)

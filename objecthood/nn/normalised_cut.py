"""Segments of an image from frozen features by the normalised cut: nothing is learned.

Shi and Malik 2000, "Normalized cuts and image segmentation"; on features of pretrained networks:
Melas-Kyriazi et al. 2022 (arXiv 2205.07839), Wang et al. 2022, "TokenCut" (arXiv 2202.11539). Cells of the
feature grid are the nodes of a graph whose weights fall with the angle between two features and with the
distance between two cells. The eigenvectors of its random walk, weighted as in commute times (Qiu and Hancock
2007), are grouped by k-means (k-means++, Arthur and Vassilvitskii 2007).

Differences: the weight of an eigenvector is bounded where its eigenvalue is near 1; segments may be merged
afterwards by mean affinity; edges of masks follow the image by a guided filter (`nn.guided_filter`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.linalg import eigh
from torch import Tensor


@dataclass(frozen=True)
class NormalisedCut:
    """Settings of the cut; a call divides the embedding of one image. Deterministic.

    Chosen on 110 photographs of COCO with EfficientNet-lite0 (`results/photographs-tries.md`).

    Attributes:
        num_segments: how many segments, at most.
        temperature: of the affinity exp((cosine - 1) / temperature).
        reach: standard deviation of its Gaussian window, as a share of the image's side (of the square root
            of its area, where it is not square).
        num_vectors: eigenvectors that k-means sees, without the constant one.
        offset: bound of an eigenvector's weight, lambda / (1 - lambda + offset).
        merged_from: number of segments of k-means, merged to `num_segments` by mean affinity; None: no
            merging.
        restarts: of k-means; the one of least squared distance is kept.
        iterations: of each restart.
        seed: of k-means.
    """

    num_segments: int = 12
    temperature: float = 0.05
    reach: float = 0.15
    num_vectors: int = 8
    offset: float = 0.1
    merged_from: int | None = None
    restarts: int = 3
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_segments", "num_vectors", "restarts", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1")
        for name in ("temperature", "reach", "offset"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be above 0")
        if self.merged_from is not None and self.merged_from < self.num_segments:
            raise ValueError(
                f"`merged_from` (={self.merged_from}) must be at least `num_segments` (={self.num_segments})"
            )

    @torch.no_grad()
    def __call__(self, embedding: Float[Tensor, "rows columns dim"]) -> CutOutput:
        """Segments of one image, from unit vectors on its grid (`Backbone.normalise`).

        Example:
            >>> embedding = torch.zeros(8, 12, 2)
            >>> embedding[:, :4, 0], embedding[:, 4:, 1] = 1, 1
            >>> labels = NormalisedCut(num_segments=2, num_vectors=1)(embedding).labels
            >>> len(labels[:, :4].unique()), len(labels[:, 4:].unique()), len(labels.unique())
            (1, 1, 2)
        """
        cells = embedding.flatten(0, 1).float()
        weights = affinity(embedding, self.temperature, self.reach)
        values, vectors = random_walk_vectors(weights, min(self.num_vectors, len(cells) - 1))
        rows = commute_rows(values, vectors, self.offset)
        number = min(self.merged_from or self.num_segments, len(cells))
        labels = kmeans(rows, number, self.restarts, self.iterations, self.seed)
        if self.merged_from:
            labels = merge_by_affinity(weights, labels, self.num_segments)
        labels = labels.unique(return_inverse=True)[1]
        attention = F.one_hot(labels).T.float()
        slots = F.normalize(attention @ cells, dim=-1)
        return CutOutput(
            slots, attention.view(-1, *embedding.shape[:2]), labels.view(embedding.shape[:2]), values, vectors
        )


@dataclass(frozen=True)
class CutOutput:
    """What a cut found in one image.

    Attributes:
        slots: float32 [slots, dim]: mean embedding of every segment, of unit length.
        attention: float32 [slots, rows, columns] in [0, 1], sum 1 in each cell; of `NormalisedCut` 0 or 1.
        labels: int64 [rows, columns], from 0.
        eigenvalues: float32 [vectors], falling, of the random walk, without the constant eigenvector.
        eigenvectors: float32 [rows * columns, vectors].
    """

    slots: Float[Tensor, "slots dim"]
    attention: Float[Tensor, "slots rows columns"]
    labels: Int[Tensor, "rows columns"]
    eigenvalues: Float[Tensor, " vectors"]
    eigenvectors: Float[Tensor, "cells vectors"]


def affinity(
    embedding: Float[Tensor, "rows columns dim"], temperature: float, reach: float
) -> Float[Tensor, "cells cells"]:
    """exp((cosine - 1) / temperature - distance^2 / (2 reach^2)) of every two cells.

    Distances are in units of the square root of the grid's area: those of a square image are in its sides.
    """
    rows, columns = embedding.shape[:2]
    cells = embedding.flatten(0, 1).float()
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([row, column], dim=-1).flatten(0, 1).to(cells) / (rows * columns) ** 0.5
    distance = torch.cdist(places, places).square()
    return ((cells @ cells.T - 1) / temperature - distance / (2 * reach**2)).exp()


def random_walk_vectors(
    weights: Float[Tensor, "cells cells"], number: int
) -> tuple[Float[Tensor, " vectors"], Float[Tensor, "cells vectors"]]:
    """Largest eigenvalues of D^-1 W and their eigenvectors, without the constant one, by LAPACK's `syevr`.

    Of 784 cells 20 ms on one core, of 1,600 130 ms: Lanczos at the tolerance that is needed (1e-5; at 1e-3
    segments are much worse, as eigenvalues lie near 1 and near each other) takes longer.
    """
    degrees = weights.sum(dim=1)
    scale = degrees.rsqrt()
    symmetric = (scale[:, None] * weights * scale).cpu().numpy()
    last = len(symmetric) - 1
    values, vectors = eigh(symmetric, subset_by_index=[last - number, last], overwrite_a=True)
    values, vectors = (torch.from_numpy(found).flip(-1).to(weights) for found in (values, vectors))
    return values[1:], vectors[:, 1:] * scale[:, None]


def commute_rows(
    values: Float[Tensor, " vectors"], vectors: Float[Tensor, "cells vectors"], offset: float
) -> Float[Tensor, "cells vectors"]:
    """Eigenvectors weighted by sqrt(lambda / (1 - lambda + offset)), scaled to a mean square of 1."""
    rows = vectors * (values / (1 - values + offset)).clamp_min(0).sqrt()
    return rows / rows.square().mean().sqrt().clamp_min(1e-12)


def kmeans(
    points: Float[Tensor, "points dim"], number: int, restarts: int, iterations: int, seed: int
) -> Int[Tensor, " points"]:
    """Labels of k-means from k-means++ starts; the start of least squared distance is kept.

    A cluster that loses all its points keeps its centre. Deterministic for a given seed.
    """
    generator = torch.Generator().manual_seed(seed)
    best, least = torch.zeros(len(points), dtype=torch.long), float("inf")
    for _ in range(restarts):
        centres = _spread_centres(points, number, generator)
        for _ in range(iterations):
            members = F.one_hot(_squares(points, centres).argmin(dim=1), number).to(points)
            counts = members.sum(dim=0)[:, None]
            centres = torch.where(counts > 0, members.T @ points / counts.clamp_min(1), centres)
        found, labels = _squares(points, centres).min(dim=1)
        if found.sum() < least:
            best, least = labels, float(found.sum())
    return best


def _spread_centres(points: Tensor, number: int, generator: torch.Generator) -> Tensor:
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    nearest = _squares(points, centres)[:, 0]
    for _ in range(number - 1):
        chances = nearest.double().cpu() + (1e-12 + nearest.max().item() * 1e-9)
        chosen = points[torch.multinomial(chances, 1, generator=generator)]
        nearest = torch.minimum(nearest, _squares(points, chosen)[:, 0])
        centres = torch.cat([centres, chosen])
    return centres


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    products = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2)
    return (products + points.square().sum(dim=1, keepdim=True)).clamp_min(0)


def merge_by_affinity(
    weights: Float[Tensor, "cells cells"], labels: Int[Tensor, " cells"], number: int
) -> Int[Tensor, " cells"]:
    """Join the two segments of highest mean affinity until `number` are left."""
    members = F.one_hot(labels.unique(return_inverse=True)[1]).to(weights)
    while members.shape[1] > number:
        sizes = members.sum(dim=0)
        mean = members.T @ weights @ members / (sizes[:, None] * sizes)
        mean.fill_diagonal_(-1)
        first, second = sorted(divmod(int(mean.argmax()), len(mean)))
        members[:, first] += members[:, second]
        members = torch.cat([members[:, :second], members[:, second + 1 :]], dim=1)
    return members.argmax(dim=1)

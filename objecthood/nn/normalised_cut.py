"""Parts of normalised cuts: segments of an image from frozen features, without training (`nn.consensus_cut`).

Shi and Malik 2000, "Normalized cuts and image segmentation"; on features of pretrained networks:
Melas-Kyriazi et al. 2022 (arXiv 2205.07839), Wang et al. 2022, "TokenCut" (arXiv 2202.11539). Cells of the
feature grid are the nodes of a graph; edge weights decrease with the angle between features and the distance
between cells. The eigenvectors of its random walk, weighted as in commute times (Qiu and Hancock 2007), are
clustered by k-means (k-means++, Arthur and Vassilvitskii 2007).

Difference: the weight of an eigenvector is bounded for eigenvalues near 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController
from torch import Tensor


@dataclass(frozen=True)
class CutOutput:
    """Segments of one image.

    Attributes:
        slots: float32 [slots, dim]: mean embedding of every segment, of unit length.
        attention: float32 [slots, rows, columns] in [0, 1], sum 1 in each cell.
        labels: int64 [rows, columns], from 0.
        eigenvalues: float32 [vectors] of the random walk, descending, without that of the constant vector.
        eigenvectors: float32 [rows * columns, vectors].
        agreement: float32 [cells, cells] in [0, 1]: share of partitions in which two cells share a cluster.
    """

    slots: Float[Tensor, "slots dim"]
    attention: Float[Tensor, "slots rows columns"]
    labels: Int[Tensor, "rows columns"]
    eigenvalues: Float[Tensor, " vectors"]
    eigenvectors: Float[Tensor, "cells vectors"]
    agreement: Float[Tensor, "cells cells"]


def affinity(
    embedding: Float[Tensor, "rows columns dim"],
    temperature: float,
    reach: float,
    tolerance: float = 0.0,
    objects: Float[Tensor, "rows columns"] | None = None,
) -> Float[Tensor, "cells cells"]:
    """exp((cosine - 1) / temperature - distance^2 / (2 reach^2)) of every pair of cells.

    Distances are in units of the square root of the grid's area.

    Args:
        embedding: unit vectors.
        temperature: of cosines.
        reach: of distances.
        tolerance: by how much, between 0 and 1, differences count less between two cells of objects: the
            first term is multiplied by 1 - `tolerance` min(p, q), with the probabilities p and q of both.
        objects: probability that a cell belongs to an object; None: differences count everywhere alike.
    """
    rows, columns = embedding.shape[:2]
    cells = embedding.flatten(0, 1).float()
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    coordinates = torch.stack([row, column], dim=-1).flatten(0, 1).to(cells) / (rows * columns) ** 0.5
    distance = torch.cdist(coordinates, coordinates).square()
    difference = (1 - cells @ cells.T) / temperature
    if objects is not None and tolerance:
        flat = objects.flatten()
        difference = difference * (1 - tolerance * torch.minimum(flat[:, None], flat))
    return (-difference - distance / (2 * reach**2)).exp()


def random_walk_vectors(
    weights: Float[Tensor, "cells cells"], number: int
) -> tuple[Float[Tensor, " vectors"], Float[Tensor, "cells vectors"]]:
    """Largest eigenvalues of D^-1 W and their eigenvectors, without the constant one, by LAPACK's `syevr`.

    The constant vector is removed before the decomposition: where regions are not linked, its eigenvalue 1
    is repeated, and the vectors that LAPACK returns for it are arbitrary. 784 cells take 20 ms on one core,
    1,600 take 130 ms. Lanczos is slower at the required tolerance of 1e-5; at 1e-3 segments are much worse,
    as the eigenvalues are close to 1 and to each other.
    """
    from scipy.linalg import eigh  # a third of a second of every start, for those who need it

    degrees = weights.sum(dim=1)
    scale = degrees.rsqrt()
    constant = (degrees / degrees.sum()).sqrt()
    symmetric = (scale[:, None] * weights * scale - constant[:, None] * constant).cpu().numpy()
    size = len(symmetric)
    with _blas().limit(limits=1):  # OpenBLAS's threads wait in a loop: seconds of CPU on a busy machine
        values, vectors = eigh(symmetric, subset_by_index=[size - number, size - 1], overwrite_a=True)
    values, vectors = (torch.from_numpy(found).flip(-1).to(weights) for found in (values, vectors))
    return values, vectors * scale[:, None]


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries in this process."""
    return ThreadpoolController().select(user_api="blas")


def commute_rows(
    values: Float[Tensor, " vectors"], vectors: Float[Tensor, "cells vectors"], offset: float
) -> Float[Tensor, "cells vectors"]:
    """Eigenvectors weighted by sqrt(lambda / (1 - lambda + offset)), scaled to a mean square of 1."""
    rows = vectors * (values / (1 - values + offset)).clamp_min(0).sqrt()
    return rows / rows.square().mean().sqrt().clamp_min(1e-12)


def normalised_cut(
    embedding: Float[Tensor, "rows columns dim"],
    num_segments: int,
    seed: int,
    temperature: float = 0.05,
    reach: float = 0.15,
    num_vectors: int = 8,
    offset: float = 0.1,
) -> Int[Tensor, "rows columns"]:
    """Labels of one cut of unit embeddings, from 0: k-means on the eigenvectors of `affinity`, of which there
    are at most `num_vectors`."""
    rows, columns = embedding.shape[:2]
    number = min(num_vectors, rows * columns - 1)
    values, vectors = random_walk_vectors(affinity(embedding, temperature, reach), number)
    labels = kmeans(commute_rows(values, vectors, offset), num_segments, 3, 15, seed)
    return labels.unique(return_inverse=True)[1].view(rows, columns)


def kmeans(
    points: Float[Tensor, "points dim"], number: int, restarts: int, iterations: int, seed: int
) -> Int[Tensor, " points"]:
    """Labels of k-means with k-means++ initialisation; the restart of smallest squared distance is kept.

    An empty cluster keeps its centre. Deterministic for a given seed.
    """
    generator = torch.Generator().manual_seed(seed)
    best, lowest = torch.zeros(len(points), dtype=torch.long), float("inf")
    for _ in range(restarts):
        centres = _initial_centres(points, number, generator)
        for _ in range(iterations):
            members = F.one_hot(_squares(points, centres).argmin(dim=1), number).to(points)
            counts = members.sum(dim=0)[:, None]
            centres = torch.where(counts > 0, members.T @ points / counts.clamp_min(1), centres)
        distances, labels = _squares(points, centres).min(dim=1)
        if distances.sum() < lowest:
            best, lowest = labels, float(distances.sum())
    return best


def _initial_centres(points: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """k-means++ initialisation."""
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]
    nearest = _squares(points, centres)[:, 0]
    for _ in range(number - 1):
        probabilities = nearest.double().cpu() + (1e-12 + nearest.max().item() * 1e-9)
        chosen = points[torch.multinomial(probabilities, 1, generator=generator)]
        nearest = torch.minimum(nearest, _squares(points, chosen)[:, 0])
        centres = torch.cat([centres, chosen])
    return centres


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances [points, centres]."""
    products = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2)
    return (products + points.square().sum(dim=1, keepdim=True)).clamp_min(0)

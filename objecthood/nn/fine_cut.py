"""Small segments of an image, from a grid of twice the resolution, to be laid over those of a consensus cut.

The coarse agreement of cells (`nn.consensus_cut`) is enlarged to the fine grid. Each of four windows, the
quarters of the image, is then partitioned as an image of its own: its eigenvectors divide what is one
segment of the whole. Where two fine cells share a window, their agreement is the mean of both. Average
linkage gives segments, of which only small, compact ones are kept: large ones are better cut by the coarse
grid, and slivers lie along contours (`results/photographs-tries.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from objecthood.nn.consensus_cut import ConsensusCut, View
from objecthood.nn.mask_moments import moments, scatter


@dataclass(frozen=True)
class FineCut:
    """Settings; a call finds the small segments of one image. Deterministic.

    Attributes:
        distance: threshold of average linkage, between 0 and 1 (`ConsensusCut.distance`).
        areas: smallest and largest area of a segment that is kept, in shares of the image.
        largest_scatter: of a segment that is kept, 1 for a disc (`mask_moments.scatter`).
        cut: the partitions of a window.

    Raises:
        ValueError: `areas` do not ascend from 0 to at most 1.
    """

    distance: float = 0.6
    areas: tuple[float, float] = (0.00125, 0.016)
    largest_scatter: float = 1.6
    cut: ConsensusCut = field(default_factory=lambda: ConsensusCut(views=(View(0, 0.05, 0.15),)))

    def __post_init__(self) -> None:
        if not 0 <= self.areas[0] < self.areas[1] <= 1:
            raise ValueError(f"`areas` (={self.areas}) must ascend, between 0 and 1")

    @torch.no_grad()
    def __call__(
        self, embedding: Float[Tensor, "rows columns _"], coarse: Float[Tensor, "cells cells"]
    ) -> Float[Tensor, "segments rows columns"]:
        """Masks of 0 and 1, which do not overlap.

        Args:
            embedding: unit vectors on the fine grid, of even rows and columns.
            coarse: agreement of the cells of a grid of half as many rows and columns.
        """
        rows, columns = embedding.shape[:2]
        height, width = rows // 2, columns // 2
        agreement = enlarged(enlarged(coarse.unflatten(1, (height, width))).T.unflatten(1, (height, width)))
        cells = torch.arange(rows * columns, device=embedding.device).view(rows, columns)
        for top in (0, height):
            for left in (0, width):
                window = slice(top, top + height), slice(left, left + width)
                own = self.cut.agreement([embedding[window]])[0]
                inside = cells[window].flatten()
                agreement[inside[:, None], inside] = (agreement[inside[:, None], inside] + own) / 2
        labels = ConsensusCut(distance=self.distance).labels((agreement + agreement.T) / 2)
        masks = F.one_hot(labels).T.to(embedding)
        area, number = masks.mean(dim=1), rows * columns
        masks = masks[(area >= self.areas[0]) & (area <= self.areas[1])]
        places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1)
        shape = moments(masks, places.flatten(0, 1).to(masks) / number**0.5)
        return masks[scatter(shape, number) <= self.largest_scatter].unflatten(1, (rows, columns))


def enlarged(maps: Float[Tensor, "maps rows columns"]) -> Float[Tensor, "maps cells"]:
    """Maps of twice as many rows and columns, bilinear, flat."""
    return F.interpolate(maps[None], scale_factor=2, mode="bilinear", align_corners=False)[0].flatten(1)

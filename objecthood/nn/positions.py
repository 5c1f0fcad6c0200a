"""Coordinate grids and the paper's soft position embedding.

Locatello et al. 2020 (arXiv 2006.15055), appendix E.2: the distances of a position to the four borders, each
in [0, 1], are mapped linearly to the feature size and added.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import wide


def coordinate_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "height width 2"]:
    """(y, x) of every position, from 0 (top, left) to 1 (bottom, right), both included, in `dtype` (default:
    PyTorch's).

    Example:
        >>> coordinate_grid(2, 3)[1, 2]
        tensor([1., 1.])
    """
    rows = torch.linspace(0, 1, height, device=device, dtype=dtype)
    columns = torch.linspace(0, 1, width, device=device, dtype=dtype)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)


def border_distances(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "height width 4"]:
    """(y, x, 1 - y, 1 - x) of every position, as in the reference; 16-bit values are rounded from float32."""
    grid = coordinate_grid(height, width, device, None if dtype is None else wide(dtype))
    return torch.cat([grid, 1 - grid], dim=-1).to(dtype)


class PositionEmbedding(nn.Module):
    """A linear map of the four border distances, for any grid size.

    Example:
        >>> PositionEmbedding(64)(32, 32).shape
        torch.Size([32, 32, 64])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dense = glorot(nn.Linear(4, dim))

    def forward(self, height: int, width: int) -> Float[Tensor, "height width dim"]:
        """The embedding of each position."""
        weight = self.dense.weight
        return self.dense(border_distances(height, width, weight.device, weight.dtype))

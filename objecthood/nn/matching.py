"""Batched one-to-one assignment of minimum cost (Hungarian method), by SciPy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def assign(
    cost: Float[Tensor, "batch rows columns"],
) -> tuple[Int[Tensor, "batch pairs"], Int[Tensor, "batch pairs"]]:
    """Rows (ascending) and columns of the minimum-cost assignment, min(rows, columns) pairs; no gradient.

    Raises:
        ValueError: a cost is not finite.

    Example:
        >>> rows, columns = assign(torch.tensor([[[4.0, 1.0], [2.0, 8.0]]]))
        >>> rows.tolist(), columns.tolist()
        ([[0, 1]], [[1, 0]])
    """
    if not torch.isfinite(cost).all():
        raise ValueError("`cost` holds values that are not finite; assignment needs finite costs")
    from scipy.optimize import linear_sum_assignment  # takes a second to import

    matrices = cost.detach().double().cpu().numpy()
    pairs = np.array([linear_sum_assignment(matrix) for matrix in matrices], dtype=np.int64)
    pairs = pairs.reshape(len(matrices), 2, min(matrices.shape[1:]))
    rows, columns = torch.from_numpy(pairs).to(cost.device).unbind(dim=1)
    return rows, columns

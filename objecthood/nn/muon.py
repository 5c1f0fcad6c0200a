"""Muon optimiser for matrices and convolutions: orthogonalised momentum.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with their quintic Newton-Schulz iteration.
Differences from `torch.optim.Muon`, which takes matrices only: convolutions are matrices [out, in * height *
width], and weights of one shape are orthogonalised in a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al. 2024; singular values converge to about [0.7, 1.2]."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, without weight decay.

    Args:
        parameters: weights of two or more dimensions; `is_matrix` selects suitable ones.
        lr: learning rate (0.01 corresponds to about 0.001 of Adam).
        momentum: decay of the gradient's moving average.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 0.01, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            averages = [self._average(parameter) for parameter in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(gradients, averages, group["momentum"])
            directions = orthogonalize([tensor.flatten(1) for tensor in nesterov])
            for parameter, direction in zip(parameters, directions, strict=True):
                scale = max(1.0, direction.shape[0] / direction.shape[1]) ** 0.5
                parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * scale)

    def _average(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalize(
    matrices: Sequence[Float[Tensor, "_ _"]], iterations: int = 5
) -> list[Float[Tensor, "_ _"]]:
    """Approximate nearest orthogonal matrices (singular values of about 1), by Newton-Schulz iteration.

    Each iteration multiplies a matrix by a polynomial of its Gram matrix. The product of these polynomials
    depends on the Gram matrix alone; it is computed in a batch for all Gram matrices of one size, which is
    far less work than iterating on wide matrices.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, matrix in enumerate(wide):
        by_size[len(matrix)].append(index)
    results = list(wide)
    for indices in by_size.values():
        factors = orthogonalizers(torch.stack([wide[index] @ wide[index].T for index in indices]), iterations)
        for index, factor in zip(indices, factors, strict=True):
            results[index] = factor @ wide[index]
    return [
        result if matrix.shape[0] <= matrix.shape[1] else result.T
        for result, matrix in zip(results, matrices, strict=True)
    ]


def orthogonalizers(
    gram: Float[Tensor, "batch rows rows"], iterations: int
) -> Float[Tensor, "batch rows rows"]:
    """Left factors that orthogonalise matrices with these Gram matrices."""
    linear, cubic, quintic = _QUINTIC
    square_norm = gram.diagonal(dim1=1, dim2=2).sum(dim=-1)[:, None, None] + 1e-14
    gram = gram / square_norm
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)

    def factor_of(gram: Tensor) -> Tensor:
        return torch.baddbmm(linear * identity + cubic * gram, gram, gram, alpha=quintic)

    factor = factor_of(gram)
    product = factor / square_norm.sqrt()
    for _ in range(iterations - 1):
        gram = factor @ gram @ factor
        factor = factor_of(gram)
        product = factor @ product
    return product


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a weight, reshaped to [out, rest], has at least 16 rows and columns."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 16

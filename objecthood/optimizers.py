"""Muon for matrices and convolutions: momentum whose singular values are all made equal.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the quintic Newton-Schulz iteration is theirs.
PyTorch's own `torch.optim.Muon` takes matrices only; here a convolution is taken as a matrix [out, in *
height * width], and weights of one shape are iterated together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

_QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al. 2024: steep at zero, singular values end in about [0.7, 1.2]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, without weight decay.

    Args:
        parameters: with two or more dimensions each; `is_matrix` tells which are worth it.
        lr: length of a step (0.01 where Adam would have 0.001).
        momentum: of the running gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float = 0.01, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients present."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[tuple(parameter.shape)].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"])

    def _update(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [self._average(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, averages, momentum)
        directions = orthogonalize(torch.stack([tensor.flatten(1) for tensor in nesterov]))
        rows, columns = directions.shape[1:]
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction.view_as(parameter), alpha=-lr * scale)

    def _average(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]


def orthogonalize(
    matrices: Float[Tensor, "batch rows columns"], iterations: int = 5
) -> Float[Tensor, "batch rows columns"]:
    """The nearest matrices, roughly, whose singular values are all 1, by Newton-Schulz iteration."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.transpose(1, 2), iterations).transpose(1, 2)
    linear, cubic, quintic = _QUINTIC
    matrices = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    # Each iteration multiplies by a polynomial of the Gram matrix; multiplying these small ones first saves
    # most of the work where columns outnumber rows.
    gram = matrices @ matrices.transpose(1, 2)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(iterations):
        factor = linear * identity + cubic * gram + quintic * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ matrices


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a weight, seen as [out, everything else], is large enough both ways (16) to have a spectrum."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= 16

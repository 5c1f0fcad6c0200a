"""Slot mixture module: slots are the means and variances of a Gaussian mixture, found by learned EM.

Kirilenko, Vorobyov, Kovalev and Panov 2024, "Object-Centric Learning with Slot Mixture Module" (arXiv
2311.04640), algorithm 1. A slot has a mean m, a deviation s per dimension and a weight p. With keys k and
values v of the normalised inputs, q = Q norm(m) and r = exp(R norm(log s)), one iteration is

    E-step:  attention = softmax over slots of log p + D^(-1/2) log N(k; q, r^2)
    M-step:  weights = attention normalised over inputs,   p = mean of the attention over inputs
             m = GRU(weights^T v, m);   m = m + MLP(norm(m))
             s = sqrt(weights^T (v - m)^2 + epsilon)

with D = slot_dim and N the normal density with a diagonal covariance. After the last iteration, the slots are
MLP([m, log s]). The initial means are the given slots; the initial deviation is learned (1 at the start of
training) and shared, p = 1 / slots.

Squares are expanded, so no tensor of batch x slots x inputs x D is made.

Differences from the paper: the logarithm of the density is divided by sqrt(D), as in the public code, since
assignments are hard otherwise; that code leaves out the determinant of the covariance. Initial deviations
are not sampled. The features get no further MLP. Norms, initialisation, `gradient` and `attention_bias` are
those of `SlotAttention`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.slot_attention import SlotAttention


class SlotMixture(SlotAttention):
    """Group a set of inputs into the components of a Gaussian mixture.

    Args:
        input_dim, slot_dim, iterations, hidden_dim: as in `SlotAttention`.
        variance_epsilon: added to variances, in squared units of the values.
        options: further arguments of `SlotAttention`; `competition` and `aggregation` must be the defaults.

    Example:
        >>> import torch
        >>> group = SlotMixture(input_dim=48, slot_dim=64)
        >>> slots, attention = group(torch.randn(2, 49, 48), torch.randn(2, 5, 64))
        >>> slots.shape, attention.shape
        (torch.Size([2, 5, 64]), torch.Size([2, 3, 5, 49]))
    """

    state_is_slots = False

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        hidden_dim: int = 128,
        *,
        variance_epsilon: float = 1e-4,
        **options: Any,
    ):
        super().__init__(input_dim, slot_dim, iterations, hidden_dim, **options)
        self.variance_epsilon = variance_epsilon
        self.initial_log_deviation = nn.Parameter(torch.zeros(slot_dim))
        self.norm_deviation = nn.LayerNorm(slot_dim, eps=1e-3)
        self.project_deviation = glorot(nn.Linear(slot_dim, slot_dim, bias=False))
        self.output = nn.Sequential(
            glorot(nn.Linear(2 * slot_dim, 2 * hidden_dim)),
            nn.ReLU(),
            glorot(nn.Linear(2 * hidden_dim, slot_dim)),
        )

    def start(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Float[Tensor, "batch slots state_dim"]:
        """Means, logarithms of deviations, and logarithms of weights up to a constant."""
        log_deviation = self.initial_log_deviation.to(slots).expand_as(slots)
        return torch.cat([slots, log_deviation, torch.zeros_like(slots[..., :1])], dim=-1)

    def finish(self, slots: Float[Tensor, "batch slots state_dim"]) -> Float[Tensor, "batch slots slot_dim"]:
        """Projected means and deviations."""
        return self._apply_layer(self.output, slots[..., :-1])

    def logits(
        self,
        slots: Float[Tensor, "batch slots state_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """Logarithms of the weighted densities, up to a constant."""
        mean, log_deviation, log_weight = self._split(slots)
        query = self._apply_layer(self.project_q, self._apply_layer(self.norm_slots, mean))
        log_deviation = self._apply_layer(
            self.project_deviation, self._apply_layer(self.norm_deviation, log_deviation)
        )
        keys = self._apply_layer(self.project_k, inputs.to(query.dtype))
        precision = (-2 * log_deviation).exp()
        # |k - q|^2 in units of the deviation: k^2 - 2 k q + q^2, each times the precision.
        distance = precision @ keys.square().transpose(1, 2) - 2 * (precision * query) @ keys.transpose(1, 2)
        constant = (precision * query.square() / 2 + log_deviation).sum(dim=-1, keepdim=True)
        return log_weight - self.slot_dim**-0.5 * (distance / 2 + constant)

    def step(
        self,
        slots: Float[Tensor, "batch slots state_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        bias: Float[Tensor, "batch slots inputs"] | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
    ) -> tuple[Float[Tensor, "batch slots state_dim"], Float[Tensor, "batch slots inputs"]]:
        """As `SlotAttention.step`, of means, deviations and weights."""
        logits = self.logits(slots, inputs)
        attention = self.compete(logits if bias is None else logits + bias, mask)
        values = self._apply_layer(self.project_v, inputs)
        gathered = self.aggregate(attention, torch.cat([values, values.square()], dim=-1), mask)
        mean_of_values, mean_of_squares = gathered.chunk(2, dim=-1)
        mean = self.update(self._split(slots)[0], mean_of_values)
        variance = (mean_of_squares - mean_of_values.square()).clamp_min(0)
        variance = variance + (mean_of_values - mean).square() + self.variance_epsilon
        # The number of inputs is the same for all slots, so the softmax cancels it.
        log_weight = (attention.sum(dim=-1, keepdim=True) + self.epsilon).log()
        return torch.cat([mean, variance.log() / 2, log_weight], dim=-1), attention

    def _split(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_deviation, log_weight = slots.split([self.slot_dim, self.slot_dim, 1], dim=-1)
        return mean, log_deviation, log_weight

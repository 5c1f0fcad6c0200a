"""Spherical soft k-means as a slot module, initialised from given slots or by farthest-point selection.

With unit keys k of the inputs and one unit mean c per slot, one iteration is

    attention = softmax over slots of (c k / temperature + attention bias)
    c         = unit(weighted mean of k)

This is slot attention with the means as queries (Locatello et al. 2020, arXiv 2006.15055, section 2.1, on the
relation to soft k-means; Dhillon and Modha 2001 on means of unit vectors).

`forward` is the interface of all slot modules: `slots` are the initial means. `cluster` initialises the means
from the image: the first is the input most similar to the mean, each further one the input least similar to
the means so far (Gonzalez 1985). Without a decoder, learned slots share objects or leave them to the
background; these start on different objects (results/tries.md).

Difference from Gonzalez: the distance of an input is the minimum over its 3 x 3 neighbourhood, so edges are
not selected.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32, check_dtypes, in_float32, wide, without_autocast
from objecthood.nn.slot_module import AttentionBias, SlotAttentionOutput, SlotModule, check_call


class Clusters(NamedTuple):
    """Output of `SoftKMeans.cluster`."""

    slots: Float[Tensor, "batch slots slot_dim"]
    """Projected means with a residual MLP."""
    means: Float[Tensor, "batch slots slot_dim"]
    """Unit vectors, the initial means of the next frame."""
    attention: Float[Tensor, "batch slots inputs"]
    """Softmax over slots of the last iteration."""


class SoftKMeans(SlotModule):
    """Group a grid of inputs into slots.

    Args:
        num_slots: default number of slots of `cluster`.
        grid: rows and columns of the inputs of `cluster`.
        input_dim: size of an input vector.
        slot_dim: size of a slot, and of keys and means.
        iterations: default number of iterations.
        temperature: divisor of the cosines, above 0.
        hidden_dim: width of the residual MLP.
        attention_bias: as in `SlotAttention`; acts from the second iteration on.

    Raises:
        ValueError: `temperature` is not above 0.

    Example:
        >>> group = SoftKMeans(num_slots=4, grid=(8, 8), input_dim=32, slot_dim=16)
        >>> slots, attention = group(torch.randn(2, 64, 32), torch.randn(2, 4, 16))
        >>> slots.shape, attention.shape
        (torch.Size([2, 4, 16]), torch.Size([2, 3, 4, 64]))
        >>> group.cluster(torch.randn(2, 64, 32)).means.shape
        torch.Size([2, 4, 16])
    """

    def __init__(
        self,
        num_slots: int,
        grid: tuple[int, int],
        input_dim: int,
        slot_dim: int,
        iterations: int = 3,
        temperature: float = 0.1,
        hidden_dim: int = 128,
        attention_bias: AttentionBias | None = None,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"`temperature` (={temperature}) must be above 0")
        self.num_slots, self.grid = num_slots, grid
        self.input_dim, self.slot_dim = input_dim, slot_dim
        self.iterations, self.temperature, self.attention_bias = iterations, temperature, attention_bias
        self.norm_inputs = nn.LayerNorm(input_dim, eps=1e-3)
        self.norm_mlp = nn.LayerNorm(slot_dim, eps=1e-3)
        self.project_k = glorot(nn.Linear(input_dim, slot_dim, bias=False))
        self.project_v = glorot(nn.Linear(input_dim, slot_dim, bias=False))
        self.mlp = nn.Sequential(
            glorot(nn.Linear(slot_dim, hidden_dim)), nn.ReLU(), glorot(nn.Linear(hidden_dim, slot_dim))
        )

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """As `SlotModule.forward`; `slots`, scaled to unit length, are the initial means.

        With 16-bit weights the arithmetic is in float32 and only slots are returned in 16 bits.
        """
        iterations = self.iterations if iterations is None else iterations
        weights = self.project_k.weight.dtype
        check_call(self, weights, inputs, slots, iterations, mask)
        if mask is not None:
            inputs = inputs.masked_fill(~mask[..., None], 0)  # NaN * 0 is NaN, in the gradient as well
        inputs, keys = self._keys(inputs)
        with without_autocast(inputs):
            means = unit(slots.to(keys.dtype))
            found, _, attention = self._iterate(inputs, keys, means, iterations, mask, previous)
        return SlotAttentionOutput(found, torch.stack(attention, dim=1))

    def cluster(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        means: Float[Tensor, "batch slots slot_dim"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> Clusters:
        """Cluster `inputs` from initial `means`, or from farthest points.

        With `previous`, the attention of the same slots in the previous frame, the attention bias acts on the
        first iteration as well. With 16-bit weights the arithmetic is in float32 and only `slots` are
        returned in 16 bits.

        Raises:
            ValueError: `inputs` do not match the grid, there are more slots than inputs or fewer than 1,
                `iterations` is below 1, or `inputs` are float64 and the weights are not.
        """
        num_slots = self.num_slots if num_slots is None else num_slots
        num_iterations = self.iterations if iterations is None else iterations
        if num_iterations < 1:
            raise ValueError(f"`iterations` (={num_iterations}) must be at least 1")
        num_inputs = self.grid[0] * self.grid[1]
        if inputs.ndim != 3 or inputs.shape[1] != num_inputs or not 1 <= num_slots <= num_inputs:
            raise ValueError(
                f"SoftKMeans needs inputs [batch, {num_inputs}, channels] of its grid of {self.grid[0]} x "
                f"{self.grid[1]}, and from 1 to {num_inputs} slots; got inputs {list(inputs.shape)} and "
                f"{num_slots} slots"
            )
        check_dtypes("SoftKMeans", self.project_k.weight.dtype, inputs=inputs)
        inputs, keys = self._keys(inputs)
        with without_autocast(inputs):
            if means is None:
                means = far_apart(keys.detach(), num_slots, self.grid)
            slots, means, attention = self._iterate(inputs, keys, means, num_iterations, None, previous)
        return Clusters(slots, means, attention[-1])

    def _keys(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs and their unit keys."""
        weights = self.project_k.weight.dtype
        if weights != torch.float32:
            inputs = inputs.to(wide(weights))
        inputs = self._apply_layer(self.norm_inputs, inputs)
        with without_autocast(inputs):
            inputs = at_least_float32(inputs)
            return inputs, unit(self._apply_layer(self.project_k, inputs))

    def _iterate(
        self,
        inputs: Tensor,
        keys: Tensor,
        means: Tensor,
        iterations: int,
        mask: Tensor | None,
        previous: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Slots, means, and the attention of each iteration."""
        bias = None if previous is None else self._bias(previous, self._cosines(means, keys))
        attentions = []
        for remaining in reversed(range(iterations)):
            cosines = self._cosines(means, keys)
            attention = self._compete(cosines if bias is None else cosines + bias)
            if mask is not None:
                attention = attention * mask[:, None]
            weights = self._weights(attention, mask)
            means = unit(weights @ keys)
            attentions.append(attention)
            if remaining:
                bias = self._bias(attention, cosines)
        slots = self._apply_layer(self.project_v, weights @ inputs)
        slots = slots + self._apply_layer(self.mlp, self._apply_layer(self.norm_mlp, slots))
        return slots.to(self.project_k.weight.dtype), means, attentions

    def _compete(self, logits: Tensor) -> Tensor:
        """Assignment of inputs to slots."""
        return logits.softmax(dim=1)

    def _weights(self, attention: Tensor, mask: Tensor | None) -> Tensor:
        """Attention normalised over inputs; 0 if all inputs are masked."""
        weights = attention + 1e-8
        if mask is None:
            return weights / weights.sum(dim=-1, keepdim=True)
        weights = weights * mask[:, None]
        is_empty = ~mask.any(dim=1)[:, None, None]
        return weights / weights.sum(dim=-1, keepdim=True).masked_fill(is_empty, 1)

    def _apply_layer(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        """The output of `layer`, computed in float32 where the weights have 16 bits."""
        is_narrow = self.project_k.weight.dtype != wide(self.project_k.weight.dtype)
        return in_float32(layer, *inputs) if is_narrow else layer(*inputs)

    def _cosines(self, means: Tensor, keys: Tensor) -> Tensor:
        return means @ keys.transpose(1, 2) / self.temperature

    def _bias(self, attention: Tensor, cosines: Tensor) -> Tensor | None:
        if self.attention_bias is None:
            return None
        return self.attention_bias(attention.detach(), cosines.detach().softmax(dim=1))


def unit(vectors: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Vectors of length 1; vectors shorter than 1e-4 are divided by 1e-4, so their gradient is finite."""
    return F.normalize(vectors, dim=-1, eps=1e-4)


@torch.no_grad()
def far_apart(
    keys: Float[Tensor, "batch inputs dim"], number: int, grid: tuple[int, int]
) -> Float[Tensor, "batch number dim"]:
    """Farthest-point selection: the key most similar to the mean of all, then one by one the key whose 3 x 3
    neighbourhood is least similar to those selected.

    Example:
        >>> keys = torch.zeros(1, 8, 8, 2)
        >>> keys[..., 0] = 1.0
        >>> keys[:, 2:5, 2:5] = torch.tensor([0.0, 1.0])  # an object, and a line of another kind
        >>> keys[:, :, 7] = torch.tensor([-1.0, 0.0])
        >>> far_apart(keys.flatten(1, 2), 2, (8, 8))
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    index = (keys @ unit(keys.mean(dim=1))[..., None]).argmax(dim=1)
    chosen, distance = [], torch.full_like(keys[..., 0], torch.inf)
    while True:
        chosen.append(keys.gather(1, index[..., None].expand(-1, -1, keys.shape[-1])))
        if len(chosen) == number:
            return torch.cat(chosen, dim=1)
        distance = torch.minimum(distance, 1 - (keys @ chosen[-1].transpose(1, 2))[..., 0])
        eroded = -F.max_pool2d(-distance.unflatten(1, grid)[:, None], 3, stride=1, padding=1)
        index = eroded.flatten(1).argmax(dim=1, keepdim=True)

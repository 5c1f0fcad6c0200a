"""The precision of slot attention: never below float32, in whatever dtype weights and inputs are stored.

16 bits cannot carry the competition of slots: an epsilon of 1e-8 vanishes beside 1 / slots, and near-ties
round to ties. `SlotAttention` and `SoftKMeans` with 16-bit weights (`.bfloat16()`, `.half()`) therefore
compute in float32 from the rounded weights, and return slots in the dtype of the weights.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.func import functional_call


def at_least_float32(tensor: Tensor) -> Tensor:
    """16-bit tensors as float32; float32 and float64 as they are."""
    return tensor.to(wide(tensor.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for 16-bit types; float32 and float64 as they are."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which autocast is off on the device of `tensor`; the meta device has no autocast."""
    if tensor.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def in_float32(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """The output of `layer` with its 16-bit weights converted to float32, through which gradients flow."""
    weights = {name: at_least_float32(weight) for name, weight in layer.named_parameters()}
    return functional_call(layer, weights, inputs)


def check_dtypes(module: str, weights: torch.dtype, **tensors: Tensor) -> None:
    """ValueError where a tensor is not floating-point, or is float64 and the weights of `module` are not.

    Example:
        >>> check_dtypes("SlotAttention", torch.float32, inputs=torch.ones(1, dtype=torch.float64))
        Traceback (most recent call last):
        ...
        ValueError: SlotAttention holds torch.float32 weights; got inputs torch.float64. Change them with \
.to(torch.float32)
    """
    unlike = any(tensor.dtype == torch.float64 != weights for tensor in tensors.values())
    if unlike or not all(tensor.is_floating_point() for tensor in tensors.values()):
        got = " and ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"{module} holds {weights} weights; got {got}. Change them with .to({weights})")

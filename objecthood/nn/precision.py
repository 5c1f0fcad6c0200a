"""Precision of slot attention: at least float32, whatever the dtype of weights and inputs.

In 16 bits the softmax over slots is inexact: an epsilon of 1e-8 vanishes beside 1 / slots, and near-ties
round to ties. `SlotAttention` and `SoftKMeans` with 16-bit weights (`.bfloat16()`, `.half()`) therefore
compute in float32 from the rounded weights, and return slots in the dtype of the weights.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.func import functional_call


def at_least_float32(tensor: Tensor) -> Tensor:
    """16-bit tensors as float32; float32 and float64 unchanged."""
    return tensor.to(wide(tensor.dtype))


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for 16-bit types; float32 and float64 unchanged."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context without autocast on the device of `tensor`; no effect on the meta device."""
    if tensor.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def in_float32(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """The output of `layer` with 16-bit weights converted to float32; differentiable."""
    weights = {name: at_least_float32(weight) for name, weight in layer.named_parameters()}
    return functional_call(layer, weights, inputs)


def check_dtypes(module: str, weights: torch.dtype, **tensors: Tensor) -> None:
    """Raise ValueError if a tensor is not floating-point, or is float64 and the weights of `module` are not.

    Example:
        >>> check_dtypes("SlotAttention", torch.float32, inputs=torch.ones(1, dtype=torch.float64))
        Traceback (most recent call last):
        ...
        ValueError: SlotAttention holds torch.float32 weights; got inputs torch.float64. Change them with \
.to(torch.float32)
    """
    differs = any(tensor.dtype == torch.float64 != weights for tensor in tensors.values())
    if differs or not all(tensor.is_floating_point() for tensor in tensors.values()):
        got = " and ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise ValueError(f"{module} holds {weights} weights; got {got}. Change them with .to({weights})")


def check_float32(model: nn.Module, images: Tensor | None = None) -> None:
    """Raise ValueError if weights of a model that computes in float32 alone, or `images`, are of another
    type."""
    kinds = {tensor.dtype for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    kinds |= set() if images is None else {images.dtype}
    for kind in kinds - {torch.float32}:
        raise ValueError(
            f"{type(model).__name__} computes in float32; got {kind}. Change model and images with .float()"
        )

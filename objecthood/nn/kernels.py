"""Fused GPU kernels on and off: one switch for all of a model, and what the kernels share.

The kernels themselves, each beside the plain PyTorch it must equal, are in `fused_attention` and
`fused_mixture`. They are written in Triton, which comes with PyTorch for CUDA and is imported at first use;
without it the package works as ever. They are off unless `fuse` is called: no measurement on a GPU has shown
yet that they are faster.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BLOCK_INPUTS = 32
"""Inputs that the attention's kernels hold at a time; a power of two, at least 16. Compiled for Hopper, more
do not fit into registers in "ieee" precision; nothing was timed yet."""
BLOCK_PIXELS = 128
"""Pixels that the mixture's kernels hold at a time; a power of two."""
PROGRAMS = 512
"""How many programs a launch aims at: about four for each multiprocessor of an H200 (not tuned)."""
PRECISION = "ieee"
"""Of products in float32: "ieee" (as plain PyTorch's), or Triton's "tf32x3" and "tf32" for tensor cores."""


def fuse(model: nn.Module, on: bool = True) -> nn.Module:
    """Let what can run fused in `model` run fused, or no longer with `on=False`; returns `model`.

    This concerns `SlotAttention`, in calls without `mask`, and the mixture of `SlotAutoencoder`. A fused
    model runs on CUDA devices only. The kernel computes a softmax over slots and a weighted mean;
    `SlotAttention` with another `competition` or `aggregation` stays unfused. Raises ValueError where Triton
    is missing.

    Example:
        >>> from objecthood.models import autoencoder
        >>> fuse(autoencoder.fast_tetrominoes(), on=False).mix is None
        True
    """
    from objecthood.nn.fused_attention import attend
    from objecthood.nn.fused_mixture import mix

    if on:
        load_triton()
    for module in model.modules():
        for name, function in (("attend", attend), ("mix", mix)):
            if hasattr(module, name) and getattr(module, "can_fuse", True):
                setattr(module, name, function if on else None)
    return model


def load_triton() -> tuple[Any, Callable[[Callable[..., Any]], Any]]:
    """Triton's language and its compiler; ValueError where it is not installed."""
    try:
        import triton
    except ImportError as error:
        raise ValueError(
            "fused kernels need triton, which is not installed here; it comes with PyTorch for CUDA"
        ) from error
    return triton.language, triton.jit


def check_device(tensor: Tensor) -> None:
    """ValueError where a kernel cannot run on this tensor's device."""
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"fused kernels run on CUDA devices, got a tensor on {str(tensor.device)!r}; "
            "switch them off with objecthood.nn.kernels.fuse(model, on=False)"
        )


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What sums over tensors of this type are taken in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def tile(size: int, least: int = 16) -> int:
    """The power of two that holds `size`; matrix products want at least 16.

    Example:
        >>> tile(7), tile(64), tile(65)
        (16, 64, 128)
    """
    return max(least, 1 << (size - 1).bit_length())

"""Comparison of `SlotAttention` with the package `slot-attention` (lucidrains, MIT).

Both run forward and backward in float32; ours with `GaussianSlots`, as theirs includes the initial slots.
Theirs has biases in queries, keys and values; the work is otherwise equal up to a few additions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import nn

from objecthood.nn import GaussianSlots, Grouping, SlotAttention

OURS, THEIRS = "objecthood", "slot-attention"
MISSING = "not measured: slot-attention is not installed (pip install slot-attention)"


def is_there() -> bool:
    """Whether the package `slot-attention` is installed."""
    return importlib.util.find_spec("slot_attention") is not None


def grouping_calls(
    num_slots: int, num_inputs: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], None]]:
    """Forward and backward of both on the same inputs [batch, inputs, 64]; ImportError if theirs is not
    installed."""
    import slot_attention

    inputs = torch.randn(batch_size, num_inputs, 64, device=device)
    modules = {
        THEIRS: slot_attention.SlotAttention(num_slots, 64, iters=3, hidden_dim=128),
        OURS: Grouping(GaussianSlots(num_slots, 64), SlotAttention(64, 64, iterations=3, hidden_dim=128)),
    }
    return {name: _trained(module.to(device), inputs) for name, module in modules.items()}


def _trained(module: nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        module.zero_grad()
        result = module(inputs.detach().requires_grad_())
        slots = result if isinstance(result, torch.Tensor) else result.slots
        slots.square().mean().backward()

    return run

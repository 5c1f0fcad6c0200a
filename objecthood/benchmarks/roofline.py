"""Roofline: time of a step relative to the bounds by peak arithmetic and peak memory bandwidth.

Williams et al. 2009, "Roofline" (Communications of the ACM 52(4)). Peaks are measured in the same run, with a
large matrix product and a copy. Memory traffic is the sum of inputs and outputs of all operators, without
caches and without traffic inside operators. Arithmetic is that of matrix products and convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from objecthood.benchmarks.timing import Spread, clock_of, take_turns

_SIDES = {"cpu": 512, "cuda": 8192}
"""Side of the matrices of the product, at which rates saturate; bfloat16 is slow on some processors."""
_COPIED = 2**26
"""Bytes of the copy, more than the caches."""


class WorkCounter(TorchDispatchMode):
    """Counts operations, by PyTorch's formulas, and bytes read and written by operators; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.traffic = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.traffic += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def work(call: Callable[[], object]) -> tuple[int, int]:
    """Floating-point operations (a multiply-add counts as two) and bytes of a call.

    Example:
        >>> work(lambda: torch.ones(8, 4) @ torch.ones(4, 2))[0]
        128
    """
    with WorkCounter() as counter:
        call()
    return counter.operations, counter.traffic


def peaks(device: torch.device, seconds: float) -> dict[str, float]:
    """Operations per second of a large product in each precision, and bytes per second, read and written, of
    a copy."""
    side = _SIDES[device.type]
    matrices = {dtype: torch.randn(side, side, device=device).to(dtype) for dtype in _DTYPES.values()}
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {
        name: partial(torch.mm, matrices[dtype], matrices[dtype]) for name, dtype in _DTYPES.items()
    }
    turns = take_turns(calls | {"copy": lambda: target.copy_(source)}, seconds, device)
    clock = clock_of(device)
    rates = {name: 2 * side**3 / Spread.of(getattr(turns[name], clock)).median for name in _DTYPES}
    return rates | {"copy": 2 * _COPIED / Spread.of(getattr(turns["copy"], clock)).median}


def distance(
    call: Callable[[], object], seconds: float, dtype: str, peak: dict[str, float]
) -> dict[str, float]:
    """Achieved rates of a call that takes `seconds`, and the ratio of `seconds` to its bound.

    `peak` is the result of `peaks`; `dtype` is the precision of the arithmetic.
    """
    operations, traffic = work(call)
    floor = max(operations / peak[dtype], traffic / peak["copy"])
    return {
        "operations": operations,
        "bytes": traffic,
        "operations_per_second": operations / seconds,
        "bytes_per_second": traffic / seconds,
        "times_floor": seconds / floor,
    }


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

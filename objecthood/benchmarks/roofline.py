"""How far a step is from what the machine could do: arithmetic against a large matrix product, bytes against
a copy, both measured in the same run.

Williams et al. 2009, "Roofline" (Communications of the ACM 52(4)): a step lasts at least as long as its
arithmetic at the peak rate, and at least as long as its memory traffic at the peak bandwidth. Traffic is
counted operator by operator, inputs and outputs, as if no cache kept anything between them; what an operator
does within itself is not seen. Arithmetic is that of matrix products and convolutions.
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

from objecthood.benchmarks.timing import Spread, take_turns

_SIDES = {"cpu": 512, "cuda": 8192}
"""Of the matrices of the large product: where rates stop to grow; bfloat16 is slow on some processors."""
_COPIED = 2**26
"""Bytes of the copy: more than caches hold."""


class WorkCounter(TorchDispatchMode):
    """Counts operations, by PyTorch's own formulas, and the bytes that operators read and write while it is
    switched on; views cost nothing."""

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
    """Floating-point operations (a multiplication and an addition are two) and bytes of a call.

    Example:
        >>> work(lambda: torch.ones(8, 4) @ torch.ones(4, 2))[0]
        128
    """
    with WorkCounter() as counter:
        call()
    return counter.operations, counter.traffic


def peaks(device: torch.device, seconds: float) -> dict[str, float]:
    """Operations per second of a large product in each precision, and bytes per second of a copy (read and
    written counted both)."""
    side = _SIDES[device.type]
    matrices = {dtype: torch.randn(side, side, device=device).to(dtype) for dtype in _DTYPES.values()}
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    calls: dict[str, Callable[[], object]] = {
        name: partial(torch.mm, matrices[dtype], matrices[dtype]) for name, dtype in _DTYPES.items()
    }
    turns = take_turns(calls | {"copy": lambda: target.copy_(source)}, seconds, device)
    clock = "wall" if device.type == "cuda" else "cpu"
    rates = {name: 2 * side**3 / Spread.of(getattr(turns[name], clock)).median for name in _DTYPES}
    return rates | {"copy": 2 * _COPIED / Spread.of(getattr(turns["copy"], clock)).median}


def distance(
    call: Callable[[], object], seconds: float, dtype: str, peak: dict[str, float]
) -> dict[str, float]:
    """Achieved rates of a call that takes `seconds`, and how many times its floor that is.

    `peak` is from `peaks`; `dtype` names the precision that its arithmetic is held against.
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

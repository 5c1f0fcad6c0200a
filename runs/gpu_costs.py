"""What kernels and whole training steps cost on a device (stages of runs/gpu.py)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_correctness import PRECISIONS, setting
from torch.optim.swa_utils import AveragedModel

import objecthood as oh
from objecthood.environment import choose_precision
from objecthood.graphs import GraphedStep
from objecthood.nn import kernels
from objecthood.nn.fused_attention import attend, plain_attend
from objecthood.nn.fused_mixture import mix, plain_mix

FLOOR_MS, GOAL_MS = 15.5, 31.0
"""What a step of the paper's CLEVR6 model, batch 64, bf16, must compute and move on an H200; twice that."""


def kernels_alone(device: torch.device) -> dict[str, Any]:
    """Milliseconds of forward and backward of kernels and twins, at CLEVR6's shapes, batch 64, bf16."""
    rows = []
    queries = torch.randn(64, 7, 64, device=device, requires_grad=True)
    inputs = [
        torch.randn(64, 128 * 128, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "kv"
    ]
    for precision, block in ((p, b) for p in PRECISIONS for b in (16, 32, 64)):
        with setting(PRECISION=precision, BLOCK_INPUTS=block):
            ms = time_ms(lambda: attend(queries, *inputs)[0].sum().backward(), device)
        rows.append({"what": f"attend fused, {precision}, blocks of {block}", **ms})
    ms = time_ms(lambda: plain_attend(queries, *inputs)[0].sum().backward(), device)
    rows.append({"what": "attend plain", **ms})
    canvas = torch.randn(64 * 7, 4, 128, 128, device=device, dtype=torch.bfloat16)
    canvas = canvas.to(memory_format=torch.channels_last).unflatten(0, (64, 7)).requires_grad_()
    for block in (64, 128, 256):
        with setting(BLOCK_PIXELS=block):
            ms = time_ms(lambda: mix(canvas[:, :, :3], canvas[:, :, 3])[0].sum().backward(), device)
        rows.append({"what": f"mix fused, blocks of {block}", **ms})
    ms = time_ms(lambda: plain_mix(canvas[:, :, :3], canvas[:, :, 3])[0].sum().backward(), device)
    rows.append({"what": "mix plain", **ms})
    return {"rows": rows}


def steps(name: str, device: torch.device) -> dict[str, Any]:
    """Milliseconds of a whole training step at batch 64, 128 pixels, taken in several ways."""
    recipe = dataclasses.replace(oh.RECIPES[name], batch_size=64, resolution=128)
    rows = []
    for ways in WAYS:
        row: dict[str, Any] = {"ways": list(ways) or ["plain"]}
        try:
            row |= time_step(recipe, ways, device)
        except Exception as error:  # one way that fails must not cost the others their numbers
            row["failed"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        rows.append(row)
        print(row, flush=True)
    goal = {"floor_ms": FLOOR_MS, "goal_ms": GOAL_MS, "source": "arithmetic, not measured"}
    return {"recipe": name, "batch_size": 64, "rows": rows} | (goal if name == "clevr6-paper" else {})


WAYS = ((), ("fused",), ("graph",), ("fused", "graph"), ("compiled",), ("compiled", "graph"))


def time_step(recipe: Any, ways: tuple[str, ...], device: torch.device, repeats: int = 50) -> dict[str, Any]:
    """Median milliseconds of one way to take a step, on pictures that are on the device."""
    torch.manual_seed(recipe.seed)
    model = recipe.build_model().to(device).to(memory_format=torch.channels_last)
    if "fused" in ways:
        kernels.fuse(model)
    if "compiled" in ways:
        model.compile(dynamic=False)
    precision = choose_precision(recipe.precision, device)
    options = {} if "graph" in ways else {"eager_steps": 10**9}
    optimizers = recipe.build_optimizers(model)
    take = GraphedStep(recipe, model, optimizers, AveragedModel(model), precision, **options)
    shape = (recipe.batch_size, 3, recipe.resolution, recipe.resolution)
    batches = [torch.rand(shape, device=device) for _ in range(4)]  # not always the same: no help from caches
    count = iter(range(recipe.steps - 1, 10**9))  # past every ramp
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result = time_ms(
        lambda: take({"image": batches[next(count) % 4]}, recipe.steps), device, repeats, warmup=8
    )
    if "graph" in ways and not take.is_graph:
        raise RuntimeError("no graph was recorded; see the warning above")
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result | {"precision": str(precision).removeprefix("torch.")}


def time_ms(
    work: Callable[[], Any], device: torch.device, repeats: int = 50, warmup: int = 5
) -> dict[str, float]:
    """Median, quartiles and number of timings, by the device's own clock where it has one."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - begin))
    low, median, high = torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {"ms": median, "ms_low": low, "ms_high": high, "timings": repeats}

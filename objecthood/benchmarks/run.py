"""All measurements of `objecthood benchmark`, as a dictionary of JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from objecthood.benchmarks import peers
from objecthood.benchmarks.contestants import (
    EXACT,
    FAST,
    LITERAL,
    RecipeStep,
    ReferenceStep,
    Setting,
    inference,
    settings,
    training_step,
)
from objecthood.benchmarks.memory import peak_memory
from objecthood.benchmarks.roofline import distance, peaks
from objecthood.benchmarks.stages import share_of_time
from objecthood.benchmarks.timing import Spread, Turns, clock_of, take_turns
from objecthood.runtime.environment import describe, keep_freed_memory

FAST_BATCH = "fast, its own batch"
"""The fast model with the batch size of its recipe, which is larger than that of the reference."""
_PARTS = 5
"""Measurements that share the time of a resolution: steps, inference twice, stages of two, the module."""


def benchmark(
    resolutions: Sequence[int],
    seconds: float,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """All measurements at each of `resolutions` (35, 64, 128), in about `seconds` for each; `say` gets
    progress.

    Raises:
        ValueError: another resolution.
    """
    known = settings()
    for resolution in resolutions:
        if resolution not in known:
            raise ValueError(f"resolution {resolution} must be one of {', '.join(map(str, known))}")
    kept = keep_freed_memory()
    torch.set_flush_denormal(True)  # as `train.py` does
    say("peaks of this machine")
    peak = peaks(device, min(10.0, seconds / _PARTS))
    results = {
        str(resolution): at_resolution(known[resolution], seconds / _PARTS, device, peak, say)
        for resolution in resolutions
    }
    torch.set_flush_denormal(False)
    return {
        "machine": describe(device),
        "device": str(device),
        "clock": clock_of(device),
        "freed_memory_kept": kept,
        "seconds_per_resolution": seconds,
        "peaks": {name: float(f"{rate:.4g}") for name, rate in peak.items()},
        "resolutions": results,
    }


def at_resolution(
    setting: Setting, seconds: float, device: torch.device, peak: dict[str, float], say: Callable[[str], None]
) -> dict[str, Any]:
    """All measurements at one image size; `seconds` for each."""
    where = f"{setting.resolution} pixels"
    say(f"{where}: training steps")
    sizes = {LITERAL: setting.batch_size, EXACT: setting.batch_size, FAST: setting.batch_size}
    if setting.fast.batch_size != setting.batch_size:
        sizes[FAST_BATCH] = setting.fast.batch_size
    steps = {name: training_step(setting, name.split(",")[0], size, device) for name, size in sizes.items()}
    turns = take_turns(steps, seconds, device)
    clock = clock_of(device)
    training = {name: row(turns, name, LITERAL, sizes, clock) for name in sizes}
    for name, step in steps.items():
        assert isinstance(step, ReferenceStep | RecipeStep)
        dtype = "float32" if isinstance(step, ReferenceStep) else str(step.precision).removeprefix("torch.")
        median = Spread.of(getattr(turns[name], clock)).median
        training[name] |= {"precision": dtype, "floor": rounded(distance(step, median, dtype, peak))}

    say(f"{where}: profile by stage")
    shares = {}
    for name in (EXACT, FAST):
        step = steps[name]
        assert isinstance(step, RecipeStep)
        shares[name] = share_of_time(step, seconds / 2)

    say(f"{where}: peak memory")
    for name, size in sizes.items():
        training[name]["peak_bytes"] = peak_memory(setting.resolution, name.split(",")[0], size, device)

    say(f"{where}: inference")
    inferences = {size: inference_at(setting, size, seconds, device) for size in setting.inference_sizes}
    say(f"{where}: SlotAttention alone")
    return {
        "num_slots": setting.num_slots,
        "training_step": training,
        "inference": inferences,
        "stage_shares": shares,
        "module": module(setting, seconds, device),
    }


def inference_at(setting: Setting, batch_size: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Inference of all models on `batch_size` images."""
    names = (LITERAL, EXACT, FAST)
    turns = take_turns(
        {name: inference(setting, name, batch_size, device) for name in names}, seconds, device
    )
    sizes = dict.fromkeys(names, batch_size)
    return {name: row(turns, name, LITERAL, sizes, clock_of(device)) for name in names}


def module(setting: Setting, seconds: float, device: torch.device) -> dict[str, Any]:
    """`SlotAttention` and the package `slot-attention`, with one input per pixel, as the exact encoder."""
    if not peers.is_there():
        return {"skipped": peers.MISSING}
    calls = peers.grouping_calls(setting.num_slots, setting.resolution**2, setting.batch_size, device)
    turns = take_turns(calls, seconds, device)
    sizes = dict.fromkeys(calls, setting.batch_size)
    return {name: row(turns, name, peers.THEIRS, sizes, clock_of(device)) for name in calls}


def row(turns: dict[str, Turns], name: str, other: str, sizes: dict[str, int], clock: str) -> dict[str, Any]:
    """CPU and wall milliseconds per image, and the ratio to those of `other`."""
    size = sizes[name]

    def per_image(seconds: list[float]) -> dict[str, float]:
        return Spread.of([1000 * value / size for value in seconds]).to_dict()

    ratio = turns[name].ratio(turns[other], clock)
    share = sizes[other] / size
    ratio = Spread(ratio.median * share, ratio.low * share, ratio.high * share, ratio.count)
    return {
        "batch_size": size,
        "cpu_ms_per_picture": per_image(turns[name].cpu),
        "wall_ms_per_picture": per_image(turns[name].wall),
        "ratio": ratio.to_dict(),
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Values with four significant digits."""
    return {name: float(f"{value:.4g}") for name, value in values.items()}

"""Time to quality: CPU seconds of training until a score is reached, from learning curves.

The time is that of the first evaluation at or above the threshold, without interpolation, so it is late by up
to one interval. Seeds that do not reach it count as infinite in the median.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objecthood.runtime.files import parse_json
from objecthood.training.run_log import read_log


def curve_of(path: str | Path) -> list[dict[str, Any]]:
    """Evaluations of a run folder (metrics.jsonl) or of a results/*.json; ValueError if there are none."""
    path = Path(path)
    if path.is_dir():
        curve = [line for line in read_log(path / "metrics.jsonl") if line["kind"] == "evaluate"]
    else:
        curve = parse_json(path.read_bytes()).get("curve", [])
    if not curve:
        raise ValueError(
            f"{path} holds no evaluations; name a run folder or a JSON made by runs/experiments/seeds.py"
        )
    return curve


def time_to_quality(
    curve: Sequence[dict[str, Any]],
    thresholds: Sequence[float],
    score: str = "fg_ari",
    cost: str = "cpu_seconds",
) -> list[float]:
    """`cost` at the first evaluation where `score` reaches each threshold; inf if it never does.

    Example:
        >>> curve = [{"cpu_seconds": 20.0, "fg_ari": 0.86}, {"cpu_seconds": 40.0, "fg_ari": 0.93}]
        >>> time_to_quality(curve, [0.8, 0.9, 0.95])
        [20.0, 40.0, inf]
    """
    return [
        min((row[cost] for row in curve if row[score] >= threshold), default=math.inf)
        for threshold in thresholds
    ]


def over_seeds(
    curves: Sequence[Sequence[dict[str, Any]]], thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """For each threshold: median, minimum and maximum CPU seconds over seeds (None: never), and the number of
    seeds that reached it."""
    columns = zip(*(time_to_quality(curve, thresholds) for curve in curves), strict=True)
    return [
        {
            "threshold": threshold,
            "median": _or_none(statistics.median_low(column)),
            "least": _or_none(min(column)),
            "most": _or_none(max(column)),
            "reached": sum(value < math.inf for value in column),
            "seeds": len(column),
        }
        for threshold, column in zip(thresholds, columns, strict=True)
    ]


def _or_none(value: float) -> float | None:
    return value if value < math.inf else None

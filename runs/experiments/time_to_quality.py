"""CPU seconds of training until a foreground ARI is reached, over seeds, from the curves of results/*.json.

    python runs/experiments/time_to_quality.py  # the JSON and a table (--check: only the table)

Validation scores while training, best of 8 restarts where the recipe has them (curves of before 2026-11-29
hold no other, and those of before 2026-11-30 end with the score on test scenes); thresholds are taken at the
first evaluation that shows them, without interpolation, so late by up to one interval. Seeds that do not
reach one count as infinite in the median. Nothing is trained here.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
THRESHOLDS = {
    "tetrominoes": (0.90, 0.95, 0.98, 0.99),
    "tetrominoes-guided": (0.90, 0.95, 0.98, 0.99),
    "tetrominoes-unmodified": (0.80, 0.85, 0.90),
    "sprites-grey": (0.80, 0.90, 0.95),
    "sprites-coloured": (0.80, 0.90, 0.95),
    "clevr6-like": (0.80, 0.90, 0.95),
}
"""Foreground ARI, by the name of the files."""


def main() -> None:
    found = {}
    for name, thresholds in THRESHOLDS.items():
        files = sorted((ROOT / "results").glob(f"{name}-seed*.json"))
        if files:
            commits = sorted({json.loads(file.read_text())["machine"]["commit"] for file in files})
            curves = [best(json.loads(file.read_text())["curve"]) for file in files]
            rows = over_seeds(curves, thresholds)
            found[name] = {"commits": commits, "rows": rows}
    if "--check" not in sys.argv[1:]:
        (ROOT / "results" / "time-to-quality.json").write_text(json.dumps(found, indent=1) + "\n")
    print("| recipe | FG-ARI | CPU s, median | least to most | seeds that reached it |")
    print("|---|---|---|---|---|")
    for name, entry in found.items():
        for row in entry["rows"]:
            cells = [
                name,
                f"{row['threshold']:.2f}",
                words(row["median"]),
                f"{words(row['least'])} to {words(row['most'])}",
                f"{row['reached']} of {row['seeds']}",
            ]
            print("| " + " | ".join(cells) + " |")


def best(curve: list[dict]) -> list[dict]:
    """The curve of the best of 8 restarts, as `fg_ari`, where it was taken."""
    return [row | {"fg_ari": row.get("fg_ari_best_of_8", row["fg_ari"])} for row in curve]


def time_to_quality(curve: Sequence[dict[str, Any]], thresholds: Sequence[float]) -> list[float]:
    """CPU seconds at the first evaluation whose FG-ARI reaches each threshold; inf if it never does."""
    return [
        min((row["cpu_seconds"] for row in curve if row["fg_ari"] >= threshold), default=math.inf)
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


def words(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f}"


if __name__ == "__main__":
    main()

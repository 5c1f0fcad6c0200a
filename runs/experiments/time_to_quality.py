"""CPU seconds of training until a foreground ARI is reached, over seeds, from the curves of results/*.json.

    python runs/experiments/time_to_quality.py  # the JSON and a table (--check: only the table)

Validation scores while training, and the test score at the last step, best of 8 restarts where the recipe has
them (curves of before 2026-11-29 hold no other); thresholds are taken at the first
evaluation that shows them. Nothing is trained here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from objecthood.benchmarks.quality import curve_of, over_seeds

ROOT = Path(__file__).resolve().parents[2]
THRESHOLDS = {
    "tetrominoes": (0.90, 0.95, 0.98, 0.99),
    "tetrominoes-guided": (0.90, 0.95, 0.98, 0.99),
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
            rows = over_seeds([best(curve_of(file)) for file in files], thresholds)
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


def words(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f}"


if __name__ == "__main__":
    main()

"""What the pages share: published results, and Markdown tables."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> dict:
    """A JSON of results/."""
    return json.loads((ROOT / "results" / name).read_text())


def by_recipe() -> dict[str, list[dict]]:
    """Runs of object discovery, all seeds of a recipe together."""
    runs: dict[str, list[dict]] = {}
    for file in sorted((ROOT / "results").glob("*-seed*.json")):
        result = json.loads(file.read_text())
        # Set prediction, ablations, texture layers and votes for centres have their own pages.
        if "fg_ari" in result["scores"] and not file.stem.startswith(("ablation-", "texture-", "center-")):
            runs.setdefault(file.stem.rsplit("-seed", 1)[0], []).append(result)
    return runs


def runs_of(name: str) -> list[dict]:
    """All seeds of one recipe."""
    return [read(file.name) for file in sorted((ROOT / "results").glob(f"{name}-seed*.json"))]


def as_table(head: list[str], rows: list[list[str]], numbers: int = 1) -> str:
    """A Markdown table whose columns from `numbers` on are numbers, set to the right."""
    rule = ["---" if column < numbers else "---:" for column in range(len(head))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in [head, rule, *rows])


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and sample standard deviation; of one value, that alone."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"

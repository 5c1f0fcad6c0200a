"""Rows of tables from results/floors.json: scores without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from objecthood.analysis.floors import TITLES

RESULTS = Path(__file__).resolve().parents[2] / "results"


def floor_rows(
    name: str, columns: Sequence[str], results: Path = RESULTS, without: Sequence[str] = ()
) -> list[list[str]]:
    """A title and the scores of every floor of a published name; "-" for scores that it does not have."""
    file = results / "floors.json"
    found = json.loads(file.read_text()).get(name, {}) if file.exists() else {}
    return [
        [f"floor: {title}", *(f"{found[floor][key]:.3f}" if key in found[floor] else "-" for key in columns)]
        for floor, title in TITLES.items()
        if floor in found and floor not in without
    ]

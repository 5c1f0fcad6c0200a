"""The table of docs/data.md: scores without learning on every level of the texture scenes."""

from __future__ import annotations

import json
from pathlib import Path

from objecthood.analysis.floors import TITLES

RESULTS = Path(__file__).resolve().parents[2] / "results"


def floors_by_level() -> str:
    """A row for each level with the foreground ARI of every baseline, and how they were scored."""
    found = json.loads((RESULTS / "texture-floors.json").read_text())
    shown = [floor for floor in TITLES if floor in found["levels"]["solid"]]
    lines = ["| level | " + " | ".join(TITLES[floor] for floor in shown) + " |"]
    lines.append("| --- |" + " ---: |" * len(shown))
    for level, floors in found["levels"].items():
        cells = [f"{floors[floor]['fg_ari']['mean']:.3f}" for floor in shown]
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    machine = found["machine"]
    note = (
        f"FG-ARI; {found['recipe']['test_scenes']} test scenes a level, {found['recipe']['num_slots']} "
        f"slots; k-means and untrained models: mean over {len(found['seeds'])} seeds. "
        f"{found['cpu_seconds']:.0f} CPU seconds, {machine['processor']}, commit "
        f"{machine['commit'].rstrip('+')}."
    )
    return "\n".join([*lines, "", note, ""])

"""The tables of docs/leaderboard.md, from results/leaderboard/leaderboard.json."""

from __future__ import annotations

import json
from pathlib import Path

from objecthood.analysis.leaderboard import tables

ROOT = Path(__file__).resolve().parents[2]


def board() -> str:
    """For each set: how it was measured, a table and a picture."""
    facts = json.loads((ROOT / "results" / "leaderboard" / "leaderboard.json").read_text())
    parts = []
    for name, lines in tables(facts).items():
        found = facts["sets"][name]
        cells = [cell for columns in found["modules"].values() for cell in columns.values()]
        commits = ", ".join(sorted({commit for cell in cells for commit in commits_of(cell)}))
        how = f"{found['budget']} {found['machine']['processor']}, one thread; commits {commits}."
        what = f"The first test scenes of {name}, and their segmentation by each module"
        picture = f"![{what}](images/leaderboard-{name}.webp)"
        note = f"*{what} (seed 0, one restart, equal CPU seconds).*"
        parts += [f"### {name}", "", *lines, "", how, "", picture, "", note, ""]
    return "\n".join(parts)


def commits_of(cell: object) -> list[str]:
    """Commits of the runs of a cell; the verdict has none."""
    return cell["commits"] if isinstance(cell, dict) else []

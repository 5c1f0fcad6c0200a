"""The tables of docs/leaderboard.md, from results/leaderboard/leaderboard.json."""

from __future__ import annotations

import json
from pathlib import Path

from objecthood.analysis.leaderboard import tables

ROOT = Path(__file__).resolve().parents[2]


def board() -> str:
    """Protocol, then a table and a picture for each set."""
    facts = json.loads((ROOT / "results" / "leaderboard" / "leaderboard.json").read_text())
    modules = [cells for found in facts["sets"].values() for cells in found["modules"].values()]
    commits = sorted({commit for cells in modules for cell in cells.values() for commit in commits_of(cell)})
    where = f"{facts['machine']['processor']}, one thread; commits {', '.join(commits)}"
    parts = [f"{facts['protocol']} {where}.", ""]
    for name, lines in tables(facts).items():
        what = f"The first test scenes of {name}, and their segmentation by each module"
        picture = f"![{what}](images/leaderboard-{name}.webp)"
        note = f"*{what} (seed 0, one restart, equal CPU seconds).*"
        parts += [f"### {name}", "", *lines, "", picture, "", note, ""]
    return "\n".join(parts)


def commits_of(cell: object) -> list[str]:
    """Commits of the runs of a cell; the verdict has none."""
    return cell["commits"] if isinstance(cell, dict) else []

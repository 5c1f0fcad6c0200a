"""The tables of docs/reliability.md, from results/reliability.json, which `make test-long` writes;
`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
AREAS = {
    "A run that dies": "Crashes and resuming",
    "Checkpoints": "Damaged checkpoints",
    "Disks and folders": "Disks and folders",
    "Signals": "Signals",
    "The same again": "Reproducibility",
    "What goes wrong inside": "Non-finite values, leaks",
    "Several processes": "Several processes",
    "Files of strangers": "Untrusted files",
    "Data files": "Data files",
    "Pictures and videos": "Images and videos",
    "The demo's server": "Demo server",
    "The command": "Command line",
    "The functions": "Python functions",
    "The package": "Package",
    "Fuzzing": "Fuzzing",
    "The tests themselves": "Mutation tests",
}
"""Areas as the tests name them, and their titles on the page."""


def blocks() -> dict[str, Callable[[], str]]:
    """Content by marker."""
    facts = json.loads((ROOT / "results" / "reliability.json").read_text())
    return {
        "conditions": lambda: conditions(facts) + "\n",
        "scoreboard": lambda: scoreboard(facts["tests"]) + "\n",
    }


def conditions(facts: dict[str, Any]) -> str:
    """Machine, commits and totals of the run."""
    here, tests = facts["environment"], facts["tests"].values()
    tried = sum(note["tried"] for test in tests for note in test["notes"])
    survived = sum(note["survived"] for test in tests for note in test["notes"])
    failed = sum(not test["passed"] for test in tests)
    again = sum(test.get("tries", 1) > 1 for test in tests)
    commits = Counter(test["commit"] for test in tests)
    told = ", ".join(f"{name} ({count})" for name, count in commits.most_common())
    machine = f"{here['processor']}, {here['system']}, Python {here['python']}, torch {here['torch']}"
    return (
        f"{len(tests)} tests with {tried:,} trials: {survived:,} passed; tests that failed: "
        f"{failed}, repeated: {again}. {machine}; tests by commit: {told}."
    )


def scoreboard(tests: dict[str, dict[str, Any]]) -> str:
    """A row for every area: checks, trials, trials that passed, and trials in `make test`."""
    notes = [note for test in tests.values() for note in test["notes"]]
    lines = [
        "| area | checks | trials | passed | trials in `make test` |",
        "|---|---:|---:|---:|---:|",
    ]
    for area in dict.fromkeys([*AREAS, *(note["area"] for note in notes)]):
        here = [note for note in notes if note["area"] == area]
        if not here:
            continue
        kinds = len({note["what"] for note in here})
        tried, survived = (sum(note[name] for note in here) for name in ("tried", "survived"))
        quick = sum(note["tried"] for note in here if note["tier"] == "every push")
        lines.append(f"| {AREAS.get(area, area)} | {kinds} | {tried:,} | {survived:,} | {quick:,} |")
    return "\n".join(lines)

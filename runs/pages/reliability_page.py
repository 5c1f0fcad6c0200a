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
AREAS = (
    "A run that dies",
    "Checkpoints",
    "Disks and folders",
    "Signals",
    "The same again",
    "What goes wrong inside",
    "Several processes",
    "Files of strangers",
    "Data files",
    "Pictures and videos",
    "The demo's server",
    "The command",
    "The functions",
    "The package",
    "Fuzzing",
    "The tests themselves",
)


def blocks() -> dict[str, Callable[[], str]]:
    """What stands between which markers."""
    facts = json.loads((ROOT / "results" / "reliability.json").read_text())
    return {
        "conditions": lambda: conditions(facts) + "\n",
        "scoreboard": lambda: scoreboard(facts["tests"]) + "\n",
    }


def conditions(facts: dict[str, Any]) -> str:
    """Where the run took place, and how much it was."""
    here, tests = facts["environment"], facts["tests"].values()
    tried = sum(note["tried"] for test in tests for note in test["notes"])
    survived = sum(note["survived"] for test in tests for note in test["notes"])
    failed = sum(not test["passed"] for test in tests)
    again = sum(test.get("tries", 1) > 1 for test in tests)
    commits = Counter(test["commit"] for test in tests)
    told = ", ".join(f"{name} ({count})" for name, count in commits.most_common())
    machine = f"{here['processor']}, {here['system']}, Python {here['python']}, torch {here['torch']}"
    return (
        f"`results/reliability.json`: {len(tests)} tests, {tried:,} tries, {survived:,} of them ended as "
        f"promised, {failed} tests failed (listed there), {again} were tried again. {machine}; tests by "
        f"commit: {told}."
    )


def scoreboard(tests: dict[str, dict[str, Any]]) -> str:
    """A table for every area: what was tried, how often, and how often it ended as promised."""
    rows: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {area: {} for area in AREAS}
    for test in tests.values():
        for note in test["notes"]:
            rows[note["area"]].setdefault((note["what"], note["tier"]), []).append(note)
    parts = []
    for area, lines in rows.items():
        if lines:
            parts += [
                f"### {area}",
                "",
                "| tried | how often | as promised | measured | when |",
                "|---|---|---|---|---|",
            ]
            parts += [as_line(what, tier, notes) for (what, tier), notes in lines.items()] + [""]
    return "\n".join(parts).rstrip()


def as_line(what: str, tier: str, notes: list[dict[str, Any]]) -> str:
    """One kind of try; what was measured in one of its tests is told, in several only the first."""
    tried, survived = (sum(note[name] for note in notes) for name in ("tried", "survived"))
    measured = next((note["measured"] for note in notes if note["measured"]), "")
    return f"| {what} | {tried:,} | {survived:,} | {measured} | {tier} |"

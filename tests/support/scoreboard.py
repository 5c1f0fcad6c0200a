"""What tests tried, how often, and how often it ended as promised: gathered during a run, kept as JSON.

`pytest --scoreboard results/reliability.json` puts the numbers of the tests that ran in the place of their
old ones; `runs/pages/tables.py` makes docs/reliability.md of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Note = Callable[..., None]


class Scoreboard:
    """A plugin of the process that gathers reports, also those of xdist's workers."""

    def __init__(self, file: Path):
        self.file = file
        self.rows: dict[str, dict | None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        noted = [value for name, value in report.user_properties if name == "scoreboard"]
        asked = any(name == "on scoreboard" for name, _ in report.user_properties)
        if report.when == "call" and not report.skipped and asked:
            passed = report.passed
            self.rows[report.nodeid] = {
                "seconds": round(report.duration, 2),
                "passed": passed,
                "tries": next((value for name, value in report.user_properties if name == "tries"), 1),
                "notes": noted,
            }

    def pytest_sessionfinish(self) -> None:
        from objecthood.runtime.environment import describe

        before = json.loads(self.file.read_text())["tests"] if self.file.exists() else {}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        here = describe()
        rows = {name: {**row, "commit": here["commit"]} for name, row in self.rows.items() if row}
        tests = dict(sorted((before | rows).items()))
        self.file.write_text(json.dumps({"environment": here, "tests": tests}, indent=1) + "\n")


def note_of(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Note:
    """A function for the test at hand; see the fixture `scoreboard`."""
    record_property("on scoreboard", True)  # a test that fails before it notes anything is counted as well
    tier = "long" if request.node.get_closest_marker("long") else "every push"

    def note(area: str, what: str, tried: int, survived: int | None = None, measured: str = "") -> None:
        survived = tried if survived is None else survived
        row = {"area": area, "what": what, "tried": tried, "survived": survived}
        record_property("scoreboard", row | {"measured": measured, "tier": tier})
        assert survived == tried, f"{what}: {tried - survived} of {tried} did not end as promised"

    return note

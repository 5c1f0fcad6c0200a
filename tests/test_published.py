"""What README.md publishes: its tables are those of results/*.json, and its pictures and links are there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_tables_are_those_of_the_results():
    assert subprocess.run([sys.executable, ROOT / "runs" / "tables.py", "--check"]).returncode == 0


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*-seed*.json")), ids=lambda file: file.stem)
def test_results_say_how_they_came_about(file):
    result = json.loads(file.read_text())
    needed = ("recipe", "seed", "scores", "protocol", "wall_seconds", "cpu_seconds", "machine", "curve")
    assert set(needed) <= set(result)
    assert result["machine"]["commit"] and not result["machine"]["commit"].endswith("+")
    assert str(ROOT.parent) not in file.read_text()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
    ],
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert all(((ROOT / page).parent / link).exists() for link in targets), targets

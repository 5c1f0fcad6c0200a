"""The tables of docs/methods/set-prediction.md, from results/set-*.json.

`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from published import spread

ROOT = Path(__file__).resolve().parents[2]
TITLES = {"ap": "any", "ap_1": "1", "ap_0.5": "0.5", "ap_0.25": "0.25", "ap_0.125": "0.125"}
"""Scores, and the largest distance that counts as right."""
ROWS = {
    "set-clevr-like": "`set-clevr-like`",
    "set-clevr-like-no-geometry": "without `position_loss` and `attention_loss`",
}


def scores() -> str:
    """Mean and deviation of every row, its seeds, the floor, and how the scores were taken."""
    lines = [["", "seeds", *(f"AP, distance {title}" for title in TITLES.values()), "CPU s"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for name, title in ROWS.items():
        results = of_seeds(name)
        if not results:
            continue
        cost = f"{statistics.median(result['cpu_seconds'] for result in results):.0f}"
        means = [spread([result["scores"][score] for result in results]) for score in TITLES]
        lines.append([f"**{title}**", str(len(results)), *means, cost])
        for result in results:
            each = [f"{result['scores'][score]:.3f}" for score in TITLES]
            lines.append([f"seed {result['seed']}", "1", *each, f"{result['cpu_seconds']:.0f}"])
    floors = ROOT / "results" / "floors.json"
    floor = json.loads(floors.read_text()).get("set-clevr-like", {}) if floors.exists() else {}
    if "untrained" in floor:
        lines.append(
            ["floor: untrained", "-", *(f"{floor['untrained'][score]:.3f}" for score in TITLES), "-"]
        )
    result = of_seeds("set-clevr-like")[0]
    machine = f"{result['machine']['processor']}, {result['machine']['threads']} thread"
    protocol = result["protocol"].capitalize().replace("pictures", "images")
    return f"{as_markdown(lines)}\n{protocol}. Trained on {machine}.\n"


def iterations() -> str:
    """Means over seeds: a row for each number of iterations, a column for each threshold."""
    rows = json.loads((ROOT / "results" / "set-clevr-like-iterations.json").read_text())["rows"]
    lines = [["test iterations", *(f"AP, distance {title}" for title in TITLES.values())]]
    lines.append(["---:"] * len(lines[0]))
    for number in sorted({row["iterations"] for row in rows}):
        lines.append([str(number), *(f"{mean(rows, score, number):.3f}" for score in TITLES)])
    seeds = len({row["seed"] for row in rows})
    return f"{as_markdown(lines)}\nMean over {seeds} seed{'s' * (seeds > 1)}.\n"


def more_objects() -> str:
    """Trained on scenes of 3 to 6 objects, scored on these numbers and on 7 to 10: means over seeds."""
    rows = json.loads((ROOT / "results" / "set-more-objects.json").read_text())["rows"]
    lines = [["objects in the scene", "seeds", *(f"AP, distance {title}" for title in TITLES.values())]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for part, title in (("as_trained", "3 to 6, as in training"), ("more", "7 to 10")):
        means = [spread([row[part][score] for row in rows]) for score in TITLES]
        lines.append([title, str(len(rows)), *means])
    return as_markdown(lines)


def of_seeds(name: str) -> list[dict]:
    files = sorted((ROOT / "results").glob(f"{name}-seed*.json"))
    return [json.loads(file.read_text()) for file in files]


def mean(rows: list[dict], score: str, number: int) -> float:
    """Of a score over seeds, at a number of iterations."""
    return statistics.mean(row["scores"][score] for row in rows if row["iterations"] == number)


def as_markdown(lines: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def blocks() -> dict[str, Callable[[], str]]:
    return {"score": scores, "more": more_objects, "iterations": iterations}

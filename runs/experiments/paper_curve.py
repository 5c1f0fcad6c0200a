"""How much faster the unmodified model learns than by the paper's recipe, on one machine.

    objecthood train tetrominoes-paper --evaluate-every 100 --out runs/tetrominoes-paper
    objecthood train tetrominoes-unmodified --evaluate-every 100 --out runs/unmodified-here
    python runs/experiments/paper_curve.py runs/tetrominoes-paper runs/unmodified-here

Runs need not be finished; the curve of a recipe that is not named stays as it was. With `--elsewhere` the
runs are of another machine than the curves that the file has: a step then counts with the CPU seconds that
the file has for it, and later steps with those of its last. FG-ARI of validation scenes over CPU seconds goes
to results/paper-curve.json, and is drawn in docs/images/unmodified-speed.svg beside the floors of equal
blocks and of connected components of one colour (test scenes).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from objecthood.runtime.environment import describe
from objecthood.visualize.charts import score_curves

ROOT = Path(__file__).resolve().parents[2]
LATE = 300
"""The last steps of a curve, from which the cost of later ones is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, of this machine")
    parser.add_argument("--commit", help="which trained them (default: this one)")
    parser.add_argument("--elsewhere", action="store_true", help="they ran on another machine")
    arguments = parser.parse_args()
    target = ROOT / "results" / "paper-curve.json"
    known = json.loads(target.read_text()) if target.exists() else {"curves": []}
    here = describe() | ({"commit": arguments.commit} if arguments.commit else {})
    curves = {one["recipe"]: one for one in known["curves"]}
    for found in map(curve, arguments.runs):
        if arguments.elsewhere:
            count_as(found, curves[found["recipe"]])
        curves[found["recipe"]] = found
    facts = {
        "protocol": "128 validation scenes, three iterations, one restart; CPU seconds of one thread",
        "machine": known["machine"] if arguments.elsewhere else here,
        "curves": [*curves.values()],
    }
    target.write_text(json.dumps(facts, indent=1) + "\n")
    drawn = {
        one["recipe"]: [(point["cpu_seconds"] / 60, point["fg_ari"]) for point in one["points"]]
        for one in curves.values()
    }
    floors = json.loads((ROOT / "results" / "floors.json").read_text())["tetrominoes"]
    ends = [minutes for points in drawn.values() for minutes, _ in points]
    for name, title in (("components", "colour components"), ("blocks", "equal blocks")):
        drawn[f"{title} (no learning)"] = [(end, floors[name]["fg_ari"]) for end in (min(ends), max(ends))]
    chart = score_curves(drawn, name="FG-ARI over CPU minutes", axis="CPU minutes")
    (ROOT / "docs" / "images" / "unmodified-speed.svg").write_text(chart)


def curve(run: Path) -> dict[str, Any]:
    """What a run measured so far."""
    settings = json.loads((run / "recipe.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [
        {"step": line["step"]} | {key: round(line[key], 4) for key in ("cpu_seconds", "fg_ari", "ari", "mse")}
        for line in lines
        if line["kind"] == "evaluate"
    ]
    return {"recipe": settings["name"], "seed": settings["seed"], "settings": settings, "points": points}


def count_as(found: dict[str, Any], known: dict[str, Any]) -> None:
    """Replace a curve's CPU seconds by those of the `known` curve at the same steps, as `main` says."""
    found["measured_to"] = known.get("measured_to", known["points"][-1]["step"])
    measured = [point for point in known["points"] if point["step"] <= found["measured_to"]]
    steps, seconds = (np.array([point[key] for point in measured]) for key in ("step", "cpu_seconds"))
    late = steps >= steps[-1] - LATE
    cost = (seconds[-1] - seconds[late][0]) / (steps[-1] - steps[late][0])
    for point in found["points"]:
        beyond = max(0, point["step"] - steps[-1])
        point["cpu_seconds"] = round(float(np.interp(point["step"], steps, seconds) + cost * beyond), 3)


if __name__ == "__main__":
    main()

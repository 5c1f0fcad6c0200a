"""How much faster the unmodified model learns than by the paper's recipe, on one machine.

    objecthood train tetrominoes-paper --evaluate-every 100 --out runs/tetrominoes-paper
    objecthood train tetrominoes-unmodified --evaluate-every 100 --out runs/unmodified-here
    python runs/experiments/paper_curve.py runs/tetrominoes-paper runs/unmodified-here

Runs need not be finished; the curve of a recipe that is not named stays as it was. FG-ARI of validation
scenes over CPU seconds goes to results/paper-curve.json, and is drawn in docs/images/unmodified-speed.svg
beside the floors of equal blocks and of connected components of one colour (test scenes).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from objecthood.runtime.environment import describe
from objecthood.visualize.charts import score_curves

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, of this machine")
    parser.add_argument("--commit", help="which trained them (default: this one)")
    arguments = parser.parse_args()
    target = ROOT / "results" / "paper-curve.json"
    known = json.loads(target.read_text())["curves"] if target.exists() else []
    curves = [*({one["recipe"]: one for one in [*known, *map(curve, arguments.runs)]}).values()]
    facts = {
        "protocol": "128 validation scenes, three iterations, one restart; CPU seconds of one thread",
        "machine": describe() | ({"commit": arguments.commit} if arguments.commit else {}),
        "curves": curves,
    }
    target.write_text(json.dumps(facts, indent=1) + "\n")
    drawn = {
        one["recipe"]: [(point["cpu_seconds"] / 60, point["fg_ari"]) for point in one["points"]]
        for one in curves
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


if __name__ == "__main__":
    main()

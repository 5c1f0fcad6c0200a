"""Score trained set predictors at 1 to 7 test iterations and every distance threshold.

    python runs/experiments/set_iterations.py set-clevr-like runs/set-clevr-like-seed*

As Locatello et al. 2020, figure 5, on the recipe's test scenes. Written to results/NAME-iterations.json and
drawn into docs/images/NAME-iterations.svg. `--data-path` says where the scenes lie now.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import objecthood as oh
from objecthood.runtime.environment import describe
from objecthood.visualize.charts import score_curves

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "runs" / "pages"))
from set_page import TITLES, mean  # noqa: E402

ITERATIONS = range(1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the files")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one recipe with several seeds")
    parser.add_argument("--data-path", help="the recipe's own unless named")
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        model = oh.load(run / "weights.safetensors")
        known = model.recipe
        if arguments.data_path:
            known = dataclasses.replace(known, data_path=arguments.data_path)
        for iterations in ITERATIONS:
            recipe = dataclasses.replace(known, test_iterations=iterations)
            rows.append({"seed": known.seed, "iterations": iterations, "scores": oh.evaluate(model, recipe)})
            print(rows[-1], flush=True)
    protocol = f"iterations as in each row, otherwise: {known.protocol}"
    facts = {"recipe": known.name, "protocol": protocol, "machine": describe(), "rows": rows}
    target = ROOT / "results" / f"{arguments.name}-iterations.json"
    target.write_text(json.dumps(facts, indent=1) + "\n")
    curves = {
        "any distance" if score == "ap" else f"within {title}": [
            (number, mean(rows, score, number)) for number in ITERATIONS
        ]
        for score, title in TITLES.items()
    }
    chart = score_curves(curves, name="average precision over test iterations", axis="test iterations")
    (ROOT / "docs" / "images" / f"{arguments.name}-iterations.svg").write_text(chart)


if __name__ == "__main__":
    main()

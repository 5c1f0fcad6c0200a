"""Score trained set predictors at 1 to 7 test iterations and every distance threshold.

    python runs/set_iterations.py set-clevr-like runs/set-clevr-like-seed*

As Locatello et al. 2020, figure 5, on the recipe's test scenes. Written to results/NAME-iterations.json,
drawn into docs/images/NAME-iterations.svg, and as a table into docs/set-prediction.md. `--data-path` says
where the scenes lie now.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import statistics
from pathlib import Path

import objecthood as oh
from objecthood.charts import score_curves
from objecthood.environment import describe

ROOT = Path(__file__).resolve().parent.parent
ITERATIONS = range(1, 8)
TITLES = {"ap": "any", "ap_1": "1", "ap_0.5": "0.5", "ap_0.25": "0.25", "ap_0.125": "0.125"}
"""Scores, and the largest distance that counts as right."""


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
    chart = score_curves(curves, name="average precision over test iterations")
    (ROOT / "docs" / "images" / f"{arguments.name}-iterations.svg").write_text(chart)
    page = ROOT / "docs" / "set-prediction.md"
    text = fill(page.read_text(), "iterations", table(rows))
    page.write_text(fill(text, "score", scores(arguments.name)))


def fill(page: str, name: str, lines: str) -> str:
    """`page` with `lines` between its markers of that name."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return block.sub(lambda match: match[1] + lines + match[2], page)


def scores(name: str) -> str:
    """The test scores and costs of every seed, and how they were taken, from results/NAME-seedS.json."""
    head = ["seed", *(f"AP, distance {title}" for title in TITLES.values()), "CPU s", "wall s"]
    lines = [head, ["---:"] * len(head)]
    for file in sorted((ROOT / "results").glob(f"{name}-seed*.json")):
        result = json.loads(file.read_text())
        costs = [f"{result['cpu_seconds']:.0f}", f"{result['wall_seconds']:.0f}"]
        lines.append([str(result["seed"]), *(f"{result['scores'][score]:.3f}" for score in TITLES), *costs])
    machine = f"{result['machine']['processor']}, {result['machine']['threads']} thread of a shared machine"
    return as_markdown(lines) + f"\n{result['protocol'].capitalize()}. Trained on {machine}.\n"


def as_markdown(lines: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def table(rows: list[dict]) -> str:
    """Means over seeds: a row for each number of iterations, a column for each threshold."""
    head = ["test iterations", *(f"AP, distance {title}" for title in TITLES.values())]
    lines = [head, ["---:"] * len(head)]
    lines += [
        [str(number), *(f"{mean(rows, score, number):.3f}" for score in TITLES)] for number in ITERATIONS
    ]
    return as_markdown(lines)


def mean(rows: list[dict], score: str, iterations: int) -> float:
    """Of a score over seeds."""
    return statistics.mean(row["scores"][score] for row in rows if row["iterations"] == iterations)


if __name__ == "__main__":
    main()

"""What the precision of the warm-up at half the resolution does to the unmodified model.

    objecthood train tetrominoes-unmodified --steps 16000 --evaluate-every 500 --seed 4 --out runs/float32-4
    python runs/experiments/warm_up_precision.py --bfloat16 RUN ... --float32 RUN ...

On a processor with bfloat16; stop each run after 1,500 steps. Before commit 092c8653 the warm-up was in
bfloat16, from there in float32. Scores of validation scenes go to results/warm-up-precision.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
COMMITS = {"bfloat16": "88970c668e9c", "float32": "092c8653"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for precision in COMMITS:
        parser.add_argument(f"--{precision}", type=Path, nargs="+", required=True, help="run folders")
    arguments = vars(parser.parse_args())
    rows = [
        {"precision": precision, "commit": commit} | facts(run)
        for precision, commit in COMMITS.items()
        for run in arguments[precision]
    ]
    result = {
        "protocol": "128 validation scenes, three iterations, one restart; learning rates of 16,000 steps, "
        "of which 1,000 at half the resolution; CPU seconds of one thread beside other jobs",
        "machine": {key: value for key, value in describe().items() if key != "commit"},
        "rows": sorted(rows, key=lambda row: (row["seed"], row["precision"])),
    }
    (ROOT / "results" / "warm-up-precision.json").write_text(json.dumps(result, indent=1) + "\n")


def facts(run: Path) -> dict[str, object]:
    """Seed and scores of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [
        {key: line[key] for key in ("step", "cpu_seconds", "fg_ari", "ari", "mse")}
        for line in lines
        if line["kind"] == "evaluate"
    ]
    return {"seed": json.loads((run / "recipe.json").read_text())["seed"], "points": points}


if __name__ == "__main__":
    main()

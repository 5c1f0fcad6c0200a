"""Score trained runs on test scenes that guided no choice: those after the first 1,000 of the test split.

    python runs/fresh.py sprites runs/sprites-grey-seed* runs/sprites-coloured-seed*
    python runs/fresh.py tetrominoes-guided-one-start runs/tetrominoes-guided-seed* --starts 1 --count 1600

Written to results/NAME-fresh.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import objecthood as oh
from objecthood.environment import describe

ROOT = Path(__file__).resolve().parent.parent
FIRST = 1000


@torch.no_grad()
def score(run: Path, count: int, changes: dict[str, int]) -> dict[str, float]:
    """Scores as `evaluate` takes them, on other scenes of the same split."""
    model = oh.load(run / "weights.safetensors")
    recipe, dataset = dataclasses.replace(model.recipe, **changes), model.recipe.dataset("test")
    values: dict[str, list[torch.Tensor]] = {}
    for start in range(FIRST, FIRST + count, 32):
        indices = torch.arange(start, min(start + 32, FIRST + count))
        for name, value in recipe.scores(model, dataset[indices.numpy()], indices).items():
            values.setdefault(name, []).append(value)
    return recipe.summarize({name: torch.cat(value) for name, value in values.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the JSON file")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=320, help="scenes (default: 320)")
    parser.add_argument("--starts", type=int, help="of each picture; the recipe's unless named")
    arguments = parser.parse_args()
    changes = {} if arguments.starts is None else {"starts": arguments.starts}
    scores = {run.name: score(run, arguments.count, changes) for run in arguments.runs}
    protocol = (
        f"test scenes {FIRST} to {FIRST + arguments.count - 1}, on which no choice was made; "
        + "".join(f"{name} {value}, " for name, value in changes.items())
        + "otherwise as trained"
    )
    facts = {"protocol": protocol, "machine": describe(), "scores": scores}
    (ROOT / "results" / f"{arguments.name}-fresh.json").write_text(json.dumps(facts, indent=1) + "\n")

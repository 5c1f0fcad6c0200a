"""Score trained runs on test scenes that guided no choice: those after the first 1,000 of the test split.

    python runs/fresh.py sprites runs/sprites-grey-seed* runs/sprites-coloured-seed*

Written to results/NAME-fresh.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import objecthood as oh
from objecthood.environment import describe

ROOT = Path(__file__).resolve().parent.parent
FIRST, COUNT = 1000, 320


@torch.no_grad()
def score(run: Path) -> dict[str, float]:
    """Scores as `evaluate` takes them, on other scenes of the same split."""
    model = oh.load(run / "weights.safetensors")
    recipe, dataset = model.recipe, model.recipe.dataset("test")
    values: dict[str, list[torch.Tensor]] = {}
    for start in range(FIRST, FIRST + COUNT, 32):
        indices = torch.arange(start, start + 32)
        for name, value in recipe.scores(model, dataset[indices.numpy()], indices).items():
            values.setdefault(name, []).append(value)
    return recipe.summarize({name: torch.cat(value) for name, value in values.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the JSON file")
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    scores = {run.name: score(run) for run in arguments.runs}
    protocol = (
        f"test scenes {FIRST} to {FIRST + COUNT - 1}, on which no choice was made; otherwise as trained"
    )
    facts = {"protocol": protocol, "machine": describe(), "scores": scores}
    (ROOT / "results" / f"{arguments.name}-fresh.json").write_text(json.dumps(facts, indent=1) + "\n")

"""Score published weights by every protocol of images: results/protocols.json.

    python runs/experiments/protocols.py

On the test scenes of their recipes, one restart.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

import objecthood as oh
from objecthood.analysis.protocols import PROTOCOLS, protocol_scores
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "protocols.json"
WEIGHTS = ("sprites", "tetrominoes", "tetrominoes-guided")


def main() -> None:
    torch.set_num_threads(1)
    began = time.process_time()
    found: dict[str, Any] = {}
    for name in WEIGHTS:
        model = oh.load(name)
        scores = {
            protocol: protocol_scores(model, model.recipe, protocol)
            for protocol, facts in PROTOCOLS.items()
            if not facts.clips
        }
        found[name] = {
            "recipe": model.recipe.name,
            "seed": model.recipe.seed,
            "test_scenes": model.recipe.test_scenes,
            "protocol": model.recipe.protocol.split(";")[0],
            "scores": {
                protocol: {score: facts._asdict() for score, facts in own.items()}
                for protocol, own in scores.items()
            },
        }
        print(name, scores, flush=True)
    facts = {
        "weights": found,
        "protocols": {name: facts.description for name, facts in PROTOCOLS.items() if not facts.clips},
        "machine": describe(),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    # JSON has no NaN: an undefined score is null.
    TARGET.write_text(json.dumps(without_nan(facts), indent=1) + "\n")


def without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nan(own) for key, own in value.items()}
    return None if isinstance(value, float) and value != value else value


if __name__ == "__main__":
    main()

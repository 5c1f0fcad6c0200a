"""What recurrence buys: the weights of a video recipe's seeds, every frame taken for itself, same clips.

    python runs/experiments/video_alone.py moving-sprites

Reads runs/NAME-seedS/weights.safetensors, as runs/experiments/seeds.py left them, and writes
results/NAME-frame-by-frame.json: scores of the same weights on the same test clips when no slot is handed on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import objecthood as oh
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    name = parser.parse_args().name
    scores, protocol = {}, ""
    for run in sorted((ROOT / "runs").glob(f"{name}-seed*")):
        if not (run / "weights.safetensors").exists():
            continue
        model = oh.load(run / "weights.safetensors")
        alone = dataclasses.replace(model.recipe, frames=1)
        scores[str(alone.seed)] = oh.evaluate(model, alone)
        protocol = alone.protocol
    result = {"recipe": name, "protocol": protocol, "scores": scores, "machine": describe()}
    (ROOT / "results" / f"{name}-frame-by-frame.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

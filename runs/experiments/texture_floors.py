"""Score what needs no learning on every level of the texture scenes: results/texture-floors.json.

    python runs/experiments/texture_floors.py

320 test scenes a level, those of the recipe `sprites` with `--data texture-LEVEL`. k-means and untrained
models have the seeds 0, 1 and 2; the other baselines have no seed.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any, get_args

import torch

import objecthood as oh
from objecthood.analysis.floors import floors, of_labels
from objecthood.data.generated.texture import Level
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "texture-floors.json"
SEEDS = (0, 1, 2)
BASE = dataclasses.replace(oh.RECIPES["sprites"], data="texture-patterned", restarts=1)


def main() -> None:
    torch.set_num_threads(1)
    levels: dict[str, Any] = {}
    for level in get_args(Level):
        began = time.process_time()
        recipe = dataclasses.replace(BASE, data=f"texture-{level}")
        runs = []
        for seed in SEEDS:
            seeded = dataclasses.replace(recipe, seed=seed)
            runs.append(floors(seeded) | of_labels(seeded, seed=seed))
        levels[level] = {
            floor: {name: over_seeds([run[floor][name] for run in runs]) for name in runs[0][floor]}
            for floor in runs[0]
        }
        levels[level]["cpu_seconds"] = round(time.process_time() - began, 1)
        means = {floor: round(levels[level][floor]["fg_ari"]["mean"], 3) for floor in runs[0]}
        print(level, means, flush=True)
    facts = {
        "levels": levels,
        "recipe": BASE.to_dict(),
        "seeds": SEEDS,
        "protocol": BASE.protocol.replace("texture-patterned scenes", "texture scenes of each level")
        + "; k-means of `num_slots` clusters (position: coordinates in [0, 1] beside the colours) and "
        "untrained models: mean over seeds",
        "machine": describe(),
        "cpu_seconds": round(sum(level["cpu_seconds"] for level in levels.values()), 1),
    }
    TARGET.write_text(json.dumps(facts, indent=1) + "\n")


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation and values."""
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values), "values": values}


if __name__ == "__main__":
    main()

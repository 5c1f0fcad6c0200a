"""Score what needs no training of texture layers: results/texture-layers-floors.json.

    python runs/experiments/texture_layers.py
    python runs/experiments/texture_layers.py --levels patterned       # other levels of the file stay

The test scenes of the recipe `textures`: k-means and components on the statistics from which its slots start
(local Fourier coefficients), with as many clusters as slots and with 4, the largest number of surfaces; and
the model with the label field's start values.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import objecthood as oh
from objecthood.analysis.floors import of_statistics, untrained
from objecthood.evaluate import first_scenes
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "texture-layers-floors.json"
FREQUENCIES = {"oriented": 4, "shifted": 1, "patterned": 4, "hidden": 4}
"""Of the recipe, by level; chosen on validation scenes."""
KNOWN = 4


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--levels", nargs="+", choices=list(FREQUENCIES), default=["oriented", "shifted"])
    arguments = parser.parse_args()
    facts = json.loads(TARGET.read_text()) if TARGET.exists() else {"levels": {}}
    for level in arguments.levels:
        recipe: Any = oh.RECIPES["textures"]
        recipe = dataclasses.replace(recipe, data=f"texture-{level}", num_frequencies=FREQUENCIES[level])
        began = time.process_time()
        scores = statistics_floors(recipe) | {"untrained": untrained(recipe)}
        scores["cpu_seconds"] = round(time.process_time() - began, 1)
        facts["levels"][level] = scores | {"protocol": recipe.protocol, "machine": describe()}
        print(level, scores, flush=True)
        TARGET.write_text(json.dumps(facts, indent=1) + "\n")


def statistics_floors(recipe: Any) -> dict[str, Any]:
    """Mean scores of the baselines on local statistics; "_known": of `KNOWN` clusters."""
    values: dict[str, dict[str, list[torch.Tensor]]] = defaultdict(lambda: defaultdict(list))
    for indices, scenes in first_scenes(recipe, "test", None):
        statistics, first = recipe.statistics(scenes), int(indices[0])
        labels = of_statistics(statistics, recipe.num_slots, first)
        known = of_statistics(statistics, KNOWN, first)
        labels |= {f"{name}_known": found for name, found in known.items() if "kmeans" in name}
        for floor, masks in labels.items():
            for name, score in recipe.mask_scores(scenes, masks).items():
                values[floor][name].append(score.double())
    return {
        floor: recipe.summarize({name: torch.cat(parts) for name, parts in scores.items()})
        for floor, scores in values.items()
    }


if __name__ == "__main__":
    main()

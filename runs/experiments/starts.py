"""Scores over the number of starts: of the best painted one, and of the one that is truly best.

    python runs/experiments/starts.py sprites-coloured runs/sprites-coloured-seed*

On the recipe's test scenes, which guided no choice.
Written to results/starts.json, one entry a name; the table of docs/results.md is made by tables.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import objecthood as oh
from objecthood import metrics
from objecthood.data.randomness import restart_noise
from objecthood.runtime.environment import describe

RESULTS = Path(__file__).resolve().parents[2] / "results" / "starts.json"
COUNTS = (1, 2, 4, 8, 16)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of the recipe, or of what is special about it")
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--first", type=int, default=0, help="scene (default: 0)")
    parser.add_argument("--count", type=int, default=320, help="scenes (default: 320)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scenes = range(arguments.first, arguments.first + arguments.count)
    found = {
        "protocol": f"foreground ARI on test scenes {scenes[0]} to {scenes[-1]}, mean over them",
        "machine": describe(),
        "seeds": [over_starts(run, scenes) for run in arguments.runs],
    }
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[arguments.name] = found
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


@torch.no_grad()
def over_starts(run: Path, which: range) -> dict:
    """Mean foreground ARI of a run, by number of starts."""
    model = oh.load(run / "weights.safetensors")
    scores, errors = (torch.cat(parts, dim=1) for parts in zip(*looks(model, which), strict=True))
    chosen, best = {}, {}
    for restarts in COUNTS:
        least = errors[:restarts].argmin(dim=0, keepdim=True)
        chosen[restarts] = scores[:restarts].gather(0, least).nanmean().item()
        best[restarts] = scores[:restarts].nan_to_num(-1).amax(dim=0).mean().item()
    found = {"seed": model.recipe.seed, "best_painted": chosen, "truly_best": best}
    print(run.name, found, flush=True)
    return found


def looks(model: oh.SlotAutoencoder, which: range):
    """Foreground ARI and error [starts, scenes] of every start, batch after batch."""
    recipe, dataset = model.recipe, model.recipe.dataset("test")
    for indices in torch.tensor(which).split(BATCH):
        scenes = dataset[indices.numpy()]
        features = model.encode(scenes["image"])
        scores: list[Tensor] = []
        errors: list[Tensor] = []
        for noise in restart_noise(indices.numpy(), max(COUNTS), model.num_slots, model.slot_dim):
            painting, slots, attention = model.decode(features, None, recipe.test_iterations, noise)
            scene = model.output(painting, slots, attention)
            scores.append(metrics.adjusted_rand_index(scenes["masks"], scene.masks, ignore_background=True))
            errors.append(model.decoding_error(scenes["image"], painting, scene))
        yield torch.stack(scores), torch.stack(errors)


if __name__ == "__main__":
    main()

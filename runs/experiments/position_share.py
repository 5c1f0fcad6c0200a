"""How much of the paper's untrained encoder is position: results/position-share.json.

    python runs/experiments/position_share.py

The features that slots compete for vary with the position of a pixel and with what is there. The share of the
position is one minus the variance over images at a fixed position, divided by the whole variance; both are
summed over channels. Half a minute.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import objecthood as oh
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.recipes.discovery import halve
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "position-share.json"
GAINS = {"glorot": 1.0, "he": 2**0.5, "twice": 2.0}
SEEDS = range(5)
PROTOCOL = (
    "64 generated tetrominoes scenes of training, encoder of tetrominoes-unmodified with start values of "
    "each seed times the gain; layer norm of each feature without its weights; share of the position in the "
    "variance: 1 - (variance over images at a position, mean over positions) / variance over both"
)


@torch.no_grad()
def main() -> None:
    images, start = Tetrominoes("train")[range(64)]["image"], time.process_time()
    shares: dict[str, dict[str, list[float]]] = {}
    for some in (images, halve(images)):
        side = some.shape[-1]
        shares[str(side)] = {
            name: [round(share(some, gain, seed), 3) for seed in SEEDS] for name, gain in GAINS.items()
        }
        means = {name: round(statistics.mean(values), 3) for name, values in shares[str(side)].items()}
        print(f"{side} x {side}: {means}")
    facts = {"name": "position-share", "protocol": PROTOCOL, "gains": GAINS, "seeds": list(SEEDS)}
    facts |= {"share": shares, "cpu_seconds": round(time.process_time() - start, 1), "machine": describe()}
    TARGET.write_text(json.dumps(facts, indent=1) + "\n")


def share(images: torch.Tensor, gain: float, seed: int) -> float:
    """The share of the position at the start of a seed."""
    torch.manual_seed(seed)
    base = oh.RECIPES["tetrominoes-unmodified"]
    changed = {"encoder_gain": gain, "resolution": images.shape[-1], "low_resolution_steps": 0}
    model = dataclasses.replace(base, **changed).build_model()
    features = model.encoder(model.input_transform(images)).flatten(1, 2)
    features = F.layer_norm(features, features.shape[-1:], eps=1e-3)
    whole = features.var(dim=(0, 1), unbiased=False).sum()
    return 1 - (features.var(dim=0, unbiased=False).mean(dim=0).sum() / whole).item()


if __name__ == "__main__":
    main()

"""Make slots fail on purpose, cheaply, and keep what `diagnose` says: results/failures.json and its images.

    python runs/experiments/failures.py             # every case, one after the other, about ten CPU minutes
    python runs/experiments/failures.py gaussian-start    # one of them, kept beside the others' results

Each case is a short training on generated sprites that differs from the recipe `sprites` in what its name
says. A case whose training goes well shows no finding.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import objecthood as oh
from objecthood import checkpoint
from objecthood.analysis.diagnosis import diagnose
from objecthood.nn import GaussianSlots
from objecthood.recipes.discovery import SpatialBiasDiscovery
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "failures.json"
IMAGES = ROOT / "docs" / "images" / "failures"
SCENES = 160


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianStart(SpatialBiasDiscovery):
    """Slots that start from one Gaussian and are trained through all iterations, as in the paper."""

    def build_model(self):
        model = super().build_model()
        model.grouping.initial_slots = GaussianSlots(self.num_slots, model.slot_dim)
        model.grouping.slot_attention.gradient = "full"
        return model


def case(task: type[SpatialBiasDiscovery] = SpatialBiasDiscovery, **changes) -> SpatialBiasDiscovery:
    """The recipe `sprites` on coloured backgrounds with these changes."""
    fields = dataclasses.asdict(oh.RECIPES["sprites"]) | {"background": "coloured", "seed": 0} | changes
    fields |= {"evaluate_every": fields["steps"], "test_scenes": SCENES, "expected": ""}
    return task(**fields)


PLAIN = {"spatial_bias": 0.0, "merge_penalty": 0.0, "split_slots": False}
"""Neither compact nor distinct: attention compares contents alone."""
CASES = {
    "healthy": case(steps=1000),
    "stopped-early": case(steps=60),
    "too-fast": case(steps=300, learning_rate=0.03, muon_learning_rate=0.3, gradient_clip=0.0),
    "gaussian-start": case(
        GaussianStart, **PLAIN, attention_conditioned_masks=False, steps=500, test_iterations=3
    ),
    "no-spatial-bias": case(**PLAIN, steps=500),
    "compact-only": case(merge_penalty=0.0, split_slots=False, spatial_bias=2.0, steps=500),
    "few-slots": case(num_slots=3, steps=500),
    "many-slots": case(**PLAIN, num_slots=12, steps=500),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; all unless named")
    names = parser.parse_args().cases or list(CASES)
    torch.set_num_threads(1)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names:
        found = run(name, CASES[name])
        known = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
        known[name] = found
        facts = {"scenes": SCENES, "cases": {key: known[key] for key in CASES if key in known}}
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
        print(name, found["cpu_seconds"], found["scores"], found["diagnosis"]["summary"], flush=True)


def run(name: str, recipe: SpatialBiasDiscovery) -> dict:
    """Train, unless that is done, then score and diagnose; the image of the worst scenes is written."""
    out = ROOT / "runs" / "failures" / name
    result = oh.train(recipe, out, resume=(out / "recipe.json").exists(), device="cpu")
    model = checkpoint.load(out / "weights.safetensors", recipe)
    found = diagnose(model, recipe)
    found.figure(rows=4).save(IMAGES / f"{name}.webp", quality=85, method=6)
    return {
        "recipe": recipe.to_dict(),
        "protocol": result["protocol"],
        "cpu_seconds": result["cpu_seconds"],
        "machine": describe(),
        "scores": result["scores"],
        "diagnosis": found.to_dict(),
    }


if __name__ == "__main__":
    main()

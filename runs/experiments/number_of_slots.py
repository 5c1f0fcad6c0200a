"""How many slots: one trained model asked with other numbers, and models trained with other numbers.

    python runs/experiments/number_of_slots.py runs/sprites-coloured

The run is one of `objecthood train sprites --background coloured`; three more are trained here for 300 steps
each, with 3, 6 and 12 slots (two CPU minutes together). Written to results/number-of-slots.json, with
docs/images/slots-asked.webp; the tables and curves of docs/how-many-slots.md are made by tables.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import objecthood as oh
from objecthood.analysis.diagnosis import diagnose
from objecthood.runtime.environment import describe
from objecthood.visualize import figures

ROOT = Path(__file__).resolve().parents[2]
ASKED = (2, 3, 4, 5, 6, 7, 8, 10, 12)
TRAINED = (3, 6, 12)
DRAWN = (3, 6, 9)
SCENE, SCENES, STEPS = 22, 96, 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder of sprites on coloured backgrounds")
    torch.set_num_threads(1)
    model = oh.load(parser.parse_args().run / "weights.safetensors")
    facts = {
        "scenes": SCENES,
        "protocol": model.recipe.protocol,
        "machine": describe(),
        "trained_with": model.num_slots,
        "steps": model.recipe.steps,
        "asked": [measure(model, number) for number in ASKED],
        "short_steps": STEPS,
        "trained": [trained(number) for number in TRAINED],
    }
    (ROOT / "results" / "number-of-slots.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw(model)


def measure(model: torch.nn.Module, num_slots: int) -> dict:
    """Scores and signs of a model asked for so many slots."""
    learned = model.grouping.initial_slots.num_slots
    recipe = dataclasses.replace(model.recipe, num_slots=num_slots, test_scenes=SCENES)
    model.grouping.initial_slots.num_slots = num_slots
    try:
        scores, signs = oh.evaluate(model, recipe), diagnose(model, recipe).summary
    finally:
        model.grouping.initial_slots.num_slots = learned
    print(num_slots, scores, flush=True)
    return {"slots": num_slots, "scores": scores, "summary": signs}


def trained(num_slots: int) -> dict:
    """Scores and signs of a model trained with so many slots, for fewer steps than the recipe has."""
    recipe = dataclasses.replace(
        oh.RECIPES["sprites"], background="coloured", num_slots=num_slots, steps=STEPS, evaluate_every=STEPS
    )
    out = ROOT / "runs" / "number-of-slots" / str(num_slots)
    result = oh.train(recipe, out, resume=(out / "recipe.json").exists(), device="cpu")
    model = oh.load(out / "weights.safetensors")
    return measure(model, num_slots) | {"cpu_seconds": result["cpu_seconds"]}


@torch.no_grad()
def draw(model: torch.nn.Module) -> None:
    """One scene with three numbers of slots, a row each."""
    image = model.recipe.dataset("test")[[SCENE]]["image"]
    most = max(DRAWN)
    large = figures.enlarge(image[0], 2)
    rows, colors = [], figures.slot_colors(most)
    for number in DRAWN:
        noise = torch.randn(1, number, model.slot_dim, generator=torch.Generator().manual_seed(0))
        masks = model(image, num_slots=number, iterations=model.recipe.test_iterations, noise=noise).masks[0]
        masks = torch.cat([masks, torch.zeros(most - number, *masks.shape[1:])])
        alone = [figures.attention_cell(large, *pair) for pair in zip(masks, colors, strict=True)]
        rows.append([figures.to_image(large), figures.overlay_one(large, masks, figures.STRONG), *alone])
    names = [f"{number} slots" for number in DRAWN]
    figure = figures.grid(rows, ["image", "segmentation"], num_slots=most, row_names=names)
    figure.save(ROOT / "docs" / "images" / "slots-asked.webp", quality=88, method=6)


if __name__ == "__main__":
    main()

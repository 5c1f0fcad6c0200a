"""Train a row of docs/contrast.md with several seeds and probe its slots: results/contrast-*.json.

    python runs/experiments/contrast.py set clean --seeds 0 1 2
    python runs/experiments/contrast.py reconstruction textured

Rows and data are those of `ROWS` and `DATA` below. As with seeds.py, whose work this does, a seed whose
JSON is there is left alone. Properties are read out of the slots by least squares; for rows that paint
nothing a decoder is trained on the slots of the finished model, gradients stopped (`analysis.probes`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import seeds
import torch
from torch import Tensor

import objecthood as oh
from objecthood import metrics
from objecthood.analysis import probes

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"test_scenes": 40, "evaluate_every": 100}
SPRITES = QUICK | {"steps": 200, "single_frame_steps": 100, "warmup_steps": 50, "merge_penalty": 0.0}
SET, SINGLE = ({"contrast": kind, "temperature": 0.1} for kind in ("set", "single"))
VIDEO, CONTRAST = "moving-sprites", "moving-sprites-contrast"
ROWS: dict[str, tuple[str, dict]] = {
    "reconstruction": (VIDEO, SPRITES),
    "nearest": (CONTRAST, QUICK),
    "same-model-reconstruction": (CONTRAST, QUICK | {"contrast": "reconstruction"}),
    "set": (CONTRAST, QUICK | SET),
    "single": (CONTRAST, QUICK | SINGLE),
    "reconstruction-slots": (VIDEO, SPRITES | {"slot_contrast": 0.01}),
    "untrained": (CONTRAST, QUICK | {"steps": 1, "learning_rate": 0.0, "muon_learning_rate": 0.0}),
}
DATA = {
    "clean": {},
    "textured": {"background": "textured"},
    "camouflage": {"data": "camouflage", "modality": "motion", "num_slots": 4},
}
PROBED = (48, 48)
"""Clips of 4 frames that probes are fitted on (validation), and scored on (test)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=list(ROWS))
    parser.add_argument("data", choices=list(DATA))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    base, fields = ROWS[arguments.row]
    for seed in arguments.seeds:
        recipe = dataclasses.replace(oh.RECIPES[base], **fields | DATA[arguments.data], seed=seed)
        name = f"contrast-{arguments.row}-{arguments.data}-seed{seed}"
        target = ROOT / "results" / f"{name}.json"
        if target.exists():
            continue
        seeds.publish(recipe, name)
        result = json.loads(target.read_text())
        result["probes"] = probe(oh.load(ROOT / "runs" / name / "weights.safetensors"), recipe)
        target.write_text(json.dumps(result, indent=1) + "\n")


@torch.no_grad()
def probe(model: oh.recipes.base.Model, recipe: oh.recipes.Recipe) -> dict[str, float]:
    """R2 of position and colour, accuracy of kind; of a decoder trained afterwards ARI and error."""
    parts = [
        gather(model, recipe, split, count)
        for split, count in zip(("validation", "test"), PROBED, strict=True)
    ]
    objects = [probes.matched_objects(scenes, slots, masks) for scenes, slots, masks, _ in parts]
    scores = probes.property_scores(*objects)
    own = getattr(model, "decoder", None) is not None
    return scores | ({} if own else decode(*parts))


def gather(
    model: oh.recipes.base.Model, recipe: oh.recipes.Recipe, split: str, count: int
) -> tuple[dict, Tensor, Tensor, Tensor]:
    """Clips of 4 frames, their slots, attention masks, and what the model saw."""
    field = "lag" if hasattr(recipe, "lag") else "frames"
    longer = dataclasses.replace(recipe, test_frames=4, **{field: 3 if field == "lag" else 4})
    scenes = {
        key: part[:, :4] if key != "kind" else part
        for key, part in longer.dataset(split)[range(count)].items()
    }
    slots, masks, seen = [], [], []
    for first in range(0, count, 16):
        chosen = {key: part[first : first + 16] for key, part in scenes.items()}
        scene = recipe.discover(model, chosen, torch.arange(len(chosen["image"])))
        attention = torch.nn.functional.interpolate(
            scene.attention.flatten(0, 1), chosen["image"].shape[-2:], mode="bilinear"
        )
        masks.append(attention.unflatten(0, scene.slots.shape[:2]))
        slots.append(probes.placed(scene.slots, masks[-1]))
        seen.append(model.to_modality(chosen["image"]))
    return scenes, torch.cat(slots), torch.cat(masks), torch.cat(seen)


@torch.enable_grad()
def decode(fitted: tuple, asked: tuple, steps: int = 400) -> dict[str, float]:
    """A decoder trained on the slots of some clips, scored on others; error in [-1, 1] units."""
    torch.manual_seed(0)
    (_, slots, _, seen), begun = fitted, time.process_time()
    slots, seen = slots.flatten(0, 1), seen.flatten(0, 1)
    mean, deviation = slots.mean((0, 1)), slots.std((0, 1)).clamp_min(1e-6)
    mean[-3:], deviation[-3:] = 0, 1  # where a slot is
    slots = (slots - mean) / deviation
    decoder = probes.DecoderProbe(slots.shape[-1], seen.shape[-1])
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(slots), (8,))
        loss = (decoder(slots[batch])[0] - seen[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    scenes, slots, _, seen = asked
    with torch.no_grad():
        picture, masks = decoder((slots.flatten(0, 1) - mean) / deviation)
    truth = scenes["masks"].flatten(0, 1)
    return {
        "decoder_fg_ari": metrics.adjusted_rand_index(truth, masks, ignore_background=True).nanmean().item(),
        "decoder_ari": metrics.adjusted_rand_index(truth, masks, ignore_background=False).nanmean().item(),
        "decoder_mse": 4 * (picture - seen.flatten(0, 1)).square().mean().item(),
        "decoder_cpu_seconds": round(time.process_time() - begun, 2),
    }


if __name__ == "__main__":
    main()

"""The bundled model `video` on generated clips of several objects: results/video-generated.json.

    python runs/experiments/video_generated.py

It was fitted to real video. Beside it the bundled weights that were trained on such clips; floors are in
docs/methods/video.md and feature-video.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import objecthood as oh
from objecthood import metrics
from objecthood.data.scene import Scenes
from objecthood.hub.pretrained import PRETRAINED
from objecthood.inference.clip_frames import object_masks
from objecthood.recipes.clips import SHARES, ClipRecipe
from objecthood.recipes.moving_objects import video
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "video-generated.json"
CLIPS = 40
TEXTURED = {"data": "moving-sprites", "background": "textured", "camera": 1.0, "clips": 200}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "moving-sprites": ("moving-sprites", {}),
    "camouflage": ("camouflage", {}),
    "clips-slots-textured": ("clips-slots", TEXTURED | {"cached": False, "motion": 0.0}),
}
"""Name of the published result on the same clips: recipe and fields."""


@torch.no_grad()
def scores(recipe: ClipRecipe, find: Callable[[Scenes, int], Tensor]) -> dict[str, float]:
    """Means over the first `CLIPS` test clips; shares of sums over all of them. `find` gives the masks of a
    clip and its number."""
    data, rows = recipe.dataset("test"), []
    for number in range(CLIPS):
        clip = data.batch([number])
        masks = find(clip, number)
        known = recipe.mask_scores(clip, masks)
        known["video_mbo"] = metrics.video_mean_best_overlap(clip["masks"], masks)
        rows.append({name: value.item() for name, value in known.items()})
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    shares = {
        name: total.pop(part) / max(total.pop(whole), 1)
        for name, (part, whole) in SHARES.items()
        if part in total
    }
    return {name: value / CLIPS for name, value in total.items()} | shares


def objects(clip: Scenes, number: int) -> Tensor:
    """Masks of `video` at the clip's size [1, time, slots, height, width]."""
    frames = clip["image"][0].movedim(1, -1).mul(255).round().byte().numpy()
    masks = torch.stack(list(object_masks(video(), frames)))
    return functional.interpolate(masks, clip["image"].shape[-2:], mode="bilinear")[None]


def bundled(name: str) -> Callable[[Scenes, int], Tensor]:
    """Masks of bundled weights."""
    model = oh.load(name)
    return lambda clip, number: model.recipe.discover(model, clip, torch.tensor([number])).masks


def main() -> None:
    torch.set_num_threads(1)
    began, found, trained = time.process_time(), {}, {}
    for name, (recipe_name, fields) in SETS.items():
        recipe = dataclasses.replace(oh.RECIPES[recipe_name], **fields)
        found[name] = scores(recipe, objects)
        if name in PRETRAINED:
            trained[name] = scores(recipe, bundled(name))
        print(name, found[name], trained.get(name), flush=True)
    result = {
        "name": "video-generated",
        "protocol": f"the model `video`, not trained on these clips, on the first {CLIPS} test clips of "
        "the recipes of docs/methods/video.md and feature-video.md; their scores; bundled: those of the "
        "weights of that name on the same clips",
        "scores": found,
        "bundled": trained,
        "cpu_seconds": round(time.process_time() - began, 1),
        "machine": describe(),
    }
    TARGET.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

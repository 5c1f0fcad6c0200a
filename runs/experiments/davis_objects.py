"""Objects in DAVIS-2016 by motion and appearance: learn the head on three folds, score what is held out.

    python runs/experiments/davis_objects.py ../shared/data/davis2016
    python runs/experiments/davis_objects.py ../shared/data/davis2016 --release

Writes results/davis.json: J and F of every sequence at full size, of the model `video` and of baselines with
the same finishing steps. No step sees labels but the last, which scores. `--release` writes the head of all
sequences to objecthood/weights/video-head.safetensors.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from objecthood import metrics
from objecthood.analysis.leaderboard import paired_difference
from objecthood.analysis.protocols.boundaries import boundary_f
from objecthood.data.published.davis import Davis2016, folds
from objecthood.models.moving_objects import MovingObjects
from objecthood.motion import masks as motion_masks
from objecthood.motion.clip_objects import (
    COLOURS,
    ROUNDS,
    TOGETHER,
    Clip,
    clip_masks,
    clip_of,
    finished,
    motion_score,
    read_frame,
)
from objecthood.nn.objectness import ObjectnessHead
from objecthood.recipes.moving_objects import fit_head, save_head
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (
    "DAVIS-2016 sequences at 480p, held out of learning in one of three folds; J: intersection over union, "
    "F: agreement of boundaries, of one mask a frame with the annotation; means over frames without the "
    "first and the last of a sequence (DAVIS's toolkit), then over sequences; no labels but to score"
)
METHOD = "motion and appearance, adapted"
BASELINES = (
    "affine camera, along paths, Otsu, colours 0.6",
    "affine camera, along paths, Otsu, colours 1",
    "affine camera, along paths, soft",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("davis", type=Path, help="a copy of DAVIS-2016")
    parser.add_argument("--release", action="store_true", help="write the head of all sequences")
    arguments = parser.parse_args()
    davis = Davis2016(arguments.davis)
    model = MovingObjects(ObjectnessHead(304))
    begun = time.perf_counter(), time.process_time()
    clips = {
        name: clip_of([read_frame(model, frame) for frame in davis.frames(name)]) for name in davis.sequences
    }
    if arguments.release:
        save_head(fit_head(clips.values()), ROOT / "objecthood" / "weights" / "video-head.safetensors")
    sequences: dict[str, dict[str, dict[str, float]]] = {}
    held_out = [out for _, out in folds(davis.sequences)]
    for train, out in folds(davis.sequences):
        model.head = fit_head([clips[name] for name in train])
        for name in out:
            sequences[name] = scored(davis, model, name, clips[name])
            print(name, {key: round(row["J"], 3) for key, row in sequences[name].items()}, flush=True)
    cost = {
        "wall_seconds": time.perf_counter() - begun[0],
        "cpu_seconds": time.process_time() - begun[1],
    }
    write(dict(sorted(sequences.items())), held_out, cost)


def scored(davis: Davis2016, model: MovingObjects, name: str, clip: Clip) -> dict[str, dict[str, float]]:
    """Scores of all methods on a sequence."""
    truth = torch.from_numpy(davis.truth(name))
    return {key: scores(truth, mask) for key, mask in methods(model, clip).items()}


def methods(model: MovingObjects, clip: Clip) -> dict[str, Tensor]:
    """Masks of baselines, of parts of the method, and of the method, with the same finishing steps."""
    assert clip.fields is not None
    motion = motion_score(clip.fields.speed)
    nothing = torch.zeros(clip.features.shape[:-1])
    along = motion_masks.above_threshold(clip.fields.speed), clip.fields.flow, clip.images
    head = model.adaptation.slope * (model.head(clip.features) - model.adaptation.offset)
    alone, _ = model.adapt(clip.features)
    return {
        BASELINES[0]: motion_masks.finished(*along, 0.6, TOGETHER, ROUNDS),
        BASELINES[1]: motion_masks.finished(*along, COLOURS, TOGETHER, ROUNDS),
        BASELINES[2]: finished(nothing, None if motion is None else 2 * motion, clip),
        "appearance, adapted": finished(alone, None, clip),
        "motion and appearance, not adapted": finished(head, motion, clip),
        METHOD: clip_masks(model, clip)[0],
    }


def scores(truth: Tensor, masks: Tensor) -> dict[str, float]:
    """J without and with the ends of the sequence, and F without."""
    found = torch.stack([enlarged(mask, truth.shape[1:]) > 0.5 for mask in masks])
    region = metrics.region_similarity(truth, found)
    boundary = boundary_f(truth[1:-1], found[1:-1])
    return {"J": region[1:-1].mean().item(), "J_all": region.mean().item(), "F": boundary.mean().item()}


def enlarged(mask: Tensor, size: torch.Size) -> Tensor:
    """A soft mask at another size."""
    return functional.interpolate(mask[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]


def write(sequences: dict[str, dict[str, Any]], held_out: list[list[str]], cost: dict[str, float]) -> None:
    """results/davis.json."""
    names = list(next(iter(sequences.values())))
    mean = {
        key: {
            kind: float(np.mean([row[key][kind] for row in sequences.values()]))
            for kind in ("J", "J_all", "F")
        }
        for key in names
    }
    best = max(BASELINES, key=lambda key: mean[key]["J"])
    gain = {}
    for kind in ("J", "F"):
        ours, theirs = (np.array([[row[key][kind] for row in sequences.values()]]) for key in (METHOD, best))
        difference, *interval = paired_difference(ours, theirs)
        gain[kind] = {"mean": difference, "interval": interval}
    result = {
        **{"name": "davis", "model": "video", "protocol": PROTOCOL, "method": METHOD},
        **{"best_baseline": best, "gain": gain, "mean": mean, "sequences": sequences, "folds": held_out},
        **cost,
        "machine": describe(),
    }
    (ROOT / "results" / "davis.json").write_text(json.dumps(result, indent=1) + "\n")
    print({key: {kind: round(value, 3) for kind, value in row.items()} for key, row in mean.items()}, gain)


if __name__ == "__main__":
    main()

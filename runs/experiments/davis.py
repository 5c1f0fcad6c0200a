"""What moves in DAVIS-2016: train `motion-grouping` on three folds, score what is held out, at full size.

    python runs/experiments/davis.py ../shared/data/davis2016

Writes results/davis2016.json (J of every sequence, of each stage, and of simple baselines on the same flow,
of every seed; learning curves) and runs/davis.png, which holds photographs and stays out of the repository.
No step sees labels but the last, which scores. The weight of colours in finished masks is chosen for each
method and fold by J on the sequences of the other folds; the other constants of `objecthood.motion.masks` and
`objecthood.motion.paths` were chosen on these sequences (results/tries.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import objecthood as oh
from objecthood import metrics
from objecthood.data.io.images import resize_image
from objecthood.data.published.davis import Davis2016
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import SequenceFields, sequence_fields
from objecthood.recipes.motion_grouping import MotionGrouping
from objecthood.runtime.environment import describe
from objecthood.visualize import figures, video

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (
    "DAVIS-2016 sequences at 480p, held out of training in one of three folds; J: intersection over union of "
    "one mask a frame with the annotation, mean over all frames, then over sequences; under `skip_ends` the "
    "same without the first and the last frame of a sequence, the rule of DAVIS's toolkit; flow by OpenCV's "
    "DIS at 428 x 240; of finished masks, the weight of colours chosen by J over all frames of the sequences "
    "of the other folds"
)
LAST = "slots, speed where the main one is, finished"
WEIGHTS = (0.0, 0.3, 0.6, 1.0)
"""How much colours may count in finished masks."""

Masks = dict[str, Tensor]


class J(NamedTuple):
    """Region similarity of a sequence: over all its frames, and by the rule of DAVIS's toolkit."""

    all_frames: float
    skip_ends: float


Scores = dict[str, list[J]]
"""Of each method, J of one mask, or with each of `WEIGHTS`."""
Rows = dict[str, dict[str, J]]
"""J of every sequence and method."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("davis", type=Path, help="a copy of DAVIS-2016")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    path, davis = str(arguments.davis), Davis2016(arguments.davis)
    base = dataclasses.replace(oh.RECIPES["motion-grouping"], data_path=path)
    folds = [dataclasses.replace(base, fold=fold).dataset("test").sequences for fold in range(base.num_folds)]
    simple = {name: baselines(Sequence(davis, path, name)) for names in folds for name in names}
    runs: dict[int, Rows] = {}
    curves: dict[str, Any] = {}
    for seed in arguments.seeds:
        scores: dict[str, Scores] = {}
        for fold, names in enumerate(folds):
            model, curves[f"seed {seed}, fold {fold}"] = trained(
                dataclasses.replace(base, fold=fold, seed=seed)
            )
            for name in names:
                sequence = Sequence(davis, path, name)
                scores[name] = simple[name] | sequence.scores(found(model, sequence.fields))
        runs[seed] = chosen(scores, folds)
        print(
            f"seed {seed}",
            {key: round(value.all_frames, 4) for key, value in mean_of(runs[seed]).items()},
            flush=True,
        )
    write(runs, folds, curves, base.to_dict() | {"data_path": arguments.davis.name})
    seed = arguments.seeds[0]
    pictures = {}
    for fold, names in enumerate(folds):
        model, _ = trained(dataclasses.replace(base, fold=fold, seed=seed))
        pictures |= {name: Sequence(davis, path, name).pictured(model) for name in names}
    draw(pictures, {name: row[LAST].all_frames for name, row in runs[seed].items()})


def trained(recipe: MotionGrouping) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A fold's model, and its learning curve with what it cost."""
    out = ROOT / "runs" / f"davis-fold{recipe.fold}-seed{recipe.seed}"
    result = oh.train(recipe, out, resume=(out / "recipe.json").exists())
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    curve = [line for line in lines if line.pop("kind") == "evaluate"]
    return oh.load(out / "weights.safetensors"), {"cpu_seconds": result["cpu_seconds"], "curve": curve}


class Sequence:
    """One sequence of DAVIS: its motion, its small images, and what its annotations say of masks."""

    def __init__(self, davis: Davis2016, path: str, name: str):
        self.name, self.truth = name, torch.from_numpy(davis.truth(name))
        self.fields = SequenceFields(*(part.float() for part in sequence_fields(path, name)))
        size = tuple(self.fields.flow.shape[-2:])
        frames = np.stack([resize_image(frame, size) for frame in davis.frames(name)])
        self.pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(255)

    def finished(self, masks: Tensor, weight: float) -> Tensor:
        return motion_masks.finished(masks, self.fields.flow, self.pictures, weight)

    def scores(self, methods: Masks) -> Scores:
        """J of the masks [frames, rows, columns] of methods, or of fields [frames, directions, rows, columns]
        finished with each of `WEIGHTS`."""
        start, scores = time.process_time(), {}
        for key, masks in methods.items():
            options = [masks] if masks.ndim == 3 else [self.finished(masks, weight) for weight in WEIGHTS]
            scores[key] = [region(self.truth, option) for option in options]
        print(f"{self.name}: {time.process_time() - start:.0f} CPU s", flush=True)
        return scores

    def pictured(self, model: torch.nn.Module) -> list[Image.Image]:
        """Two frames with the mask of the last method."""
        with torch.no_grad():
            masks = model.recipe.objects(model, self.fields, self.pictures)
        count = len(masks)
        return [
            figures.overlay_one(self.pictures[now], (masks[now] > 0.5).long() * 2 - 1, 0.5)
            for now in (count // 4, 3 * count // 4)
        ]


def baselines(sequence: Sequence) -> Scores:
    """What needs no training; the last two get all the steps that slots get."""
    flow, residual, _, speed = sequence.fields
    along = motion_masks.above_threshold(speed)
    place = motion_masks.located(motion_masks.agreed(along))[:, None]
    return sequence.scores(
        {
            "two means of flow": torch.stack([two_means(field) for field in flow[:, 0]]).float(),
            "affine camera, Otsu": motion_masks.above_threshold(residual[:, 0].norm(dim=1)),
            "affine camera, along paths, Otsu": along[:, 0],
            "affine camera, along paths, Otsu, finished": along,
            "affine camera, along paths, Otsu, where most of it is, finished": along * place,
        }
    )


@torch.no_grad()
def found(model: torch.nn.Module, fields: SequenceFields) -> Masks:
    """What slots say, and the speed (over Otsu's threshold) where the main one of them is."""
    moving, main = model.recipe.moving(model, fields)
    fast = motion_masks.fast_near(main, fields.speed, fields.flow)
    return {"slots": moving[:, 0], "slots, finished": moving, LAST: fast}


def chosen(scores: dict[str, Scores], folds: list[list[str]]) -> Rows:
    """J of every sequence and method, with the weight of colours whose J over all frames is best on the other
    folds."""
    rows: Rows = {}
    for held_out in folds:
        others = [row for name, row in scores.items() if name not in held_out]
        best = {
            key: int(np.mean([[j.all_frames for j in row[key]] for row in others], axis=0).argmax())
            for key in next(iter(scores.values()))
        }
        rows |= {name: {key: scores[name][key][place] for key, place in best.items()} for name in held_out}
    return rows


def mean_of(rows: Rows) -> dict[str, J]:
    return {
        key: J(*map(statistics.mean, zip(*(row[key] for row in rows.values()), strict=True)))
        for key in next(iter(rows.values()))
    }


def write(runs: dict[int, Rows], folds: list[list[str]], curves: dict, settings: dict) -> None:
    """results/davis2016.json: J over all frames, and under `skip_ends` by the rule of DAVIS's toolkit."""
    result = {
        **{"name": "davis2016", "protocol": PROTOCOL, "seeds": list(runs)},
        **summary(runs, folds, "all_frames"),
        "skip_ends": summary(runs, folds, "skip_ends"),
        **{"folds": folds, "training": curves, "settings": settings, "machine": describe()},
    }
    (ROOT / "results" / "davis2016.json").write_text(json.dumps(result, indent=1) + "\n")


def summary(runs: dict[int, Rows], folds: list[list[str]], kind: str) -> dict[str, Any]:
    """Of one kind of J: mean over seeds, sample deviation, the means of every seed, and every sequence."""
    means = {
        f"seed {seed}": {key: getattr(value, kind) for key, value in mean_of(rows).items()}
        for seed, rows in runs.items()
    }
    keys = next(iter(means.values()))
    over = {key: [mean[key] for mean in means.values()] for key in keys}
    return {
        "mean": {key: statistics.mean(values) for key, values in over.items()},
        "deviation": {
            key: statistics.stdev(values) if len(values) > 1 else 0 for key, values in over.items()
        },
        "means": means,
        "sequences": {
            name: {
                key: statistics.mean(getattr(rows[name][key], kind) for rows in runs.values()) for key in keys
            }
            for names in folds
            for name in names
        },
    }


def region(truth: Tensor, masks: Tensor) -> J:
    """J at the truth's size; soft masks are enlarged frame by frame, so that memory stays small."""
    predicted = torch.stack([enlarged(mask[None], tuple(truth.shape[1:]))[0] > 0.5 for mask in masks])
    return J(
        *(metrics.sequence_region_similarity(truth, predicted, skip_ends=skip) for skip in (False, True))
    )


def enlarged(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft masks [frames, rows, columns] at another size."""
    return functional.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def two_means(field: Tensor, rounds: int = 10) -> Tensor:
    """Two clusters of flow vectors (Lloyd's rounds from the slowest and the fastest); the one with less of
    the border moves."""
    values = field.flatten(1).T
    speed = (values - values.median(dim=0).values).norm(dim=1)
    centres = values[torch.stack([speed.argmin(), speed.argmax()])]
    for _ in range(rounds):
        label = torch.cdist(values, centres).argmin(dim=1)
        parts = [values[label == k] for k in (0, 1)]
        centres = torch.stack([part.mean(dim=0) if len(part) else centres[k] for k, part in enumerate(parts)])
    mask = label.view(field.shape[1:]).bool()
    border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return ~mask if border.float().mean() > 0.5 else mask


def draw(pictures: dict[str, list[Image.Image]], scores: dict[str, float]) -> None:
    """All sequences, best first, four frames a row."""
    names = sorted(scores, key=lambda name: -scores[name])
    tiles = [
        video.label_columns(tile, [f"{name}  {scores[name]:.2f}"])
        for name in names
        for tile in pictures[name]
    ]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (4 * (width + 6), -(-len(tiles) // 4) * (height + 6)), figures.PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % 4 * (width + 6), place // 4 * (height + 6)))
    sheet.save(ROOT / "runs" / "davis.png")


if __name__ == "__main__":
    main()

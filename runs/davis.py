"""What moves in DAVIS-2016: train `motion-grouping` on three folds, score what is held out, at full size.

    python runs/davis.py ../shared/data/davis2016

Writes results/davis2016.json (J of every sequence, of each stage, and of simple baselines on the same flow)
and the pictures docs/images/davis.png. No step sees labels but the last, which scores; the constants of
`objecthood.motion_masks` were chosen on these sequences by their J, which results/tries.md tells of.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import objecthood as oh
from objecthood import metrics, motion_masks, video_figures, visualize
from objecthood.data.davis import Davis2016
from objecthood.data.images import resize_image
from objecthood.data.motion_fields import largest_speed, sequence_fields, shown
from objecthood.environment import describe

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = (
    "DAVIS-2016 sequences at 480p, held out of training in one of three folds; J: intersection over union of "
    "one mask a frame with the annotation, mean over all frames, then over sequences; flow by OpenCV's DIS "
    "at 428 x 240"
)
LAST = "slots, what the ground's does not paint, Otsu, both directions, carried, edges"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("davis", type=Path, help="a copy of DAVIS-2016")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    davis, rows, pictures = Davis2016(arguments.davis), {}, {}
    base = dataclasses.replace(
        oh.RECIPES["motion-grouping"], data_path=str(arguments.davis), seed=arguments.seed
    )
    cpu, folds = [], []
    for fold in range(base.num_folds):
        recipe = dataclasses.replace(base, fold=fold)
        out = ROOT / "runs" / f"davis-fold{fold}-seed{arguments.seed}"
        result = oh.train(recipe, out, resume=(out / "recipe.json").exists())
        cpu.append(result["cpu_seconds"])
        model = oh.load(out / "weights.safetensors")
        folds.append(recipe.dataset("test").sequences)
        for name in folds[-1]:
            rows[name], pictures[name] = score(model, davis, str(arguments.davis), name)
            print(name, {key: round(value, 3) for key, value in rows[name].items()}, flush=True)
    mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
    print("mean", {key: round(value, 3) for key, value in mean.items()})
    settings = base.to_dict() | {"data_path": arguments.davis.name}
    result = {"name": "davis2016", "protocol": PROTOCOL, "mean": mean, "sequences": rows, "folds": folds}
    result |= {"train_cpu_seconds": cpu, "settings": settings, "machine": describe()}
    suffix = f"-seed{arguments.seed}" if arguments.seed else ""
    (ROOT / "results" / f"davis2016{suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
    if not arguments.seed:
        draw(pictures, {name: row[LAST] for name, row in rows.items()})


@torch.no_grad()
def score(
    model: torch.nn.Module, davis: Davis2016, path: str, name: str
) -> tuple[dict[str, float], list[Image.Image]]:
    """J of every stage and baseline on one sequence, and two of its frames with the final mask."""
    start = time.process_time()
    truth = torch.from_numpy(davis.truth(name))
    flow, residual = (part.float() for part in sequence_fields(path, name))
    small = flow.shape[-2:]
    frames = np.stack([resize_image(frame, small) for frame in davis.frames(name)])
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(255)
    fields = shown(residual.flatten(0, 1), model.resolution)
    seen = [model.recipe.discover(model, part) for part in fields.split(64)]
    masks, appearance = (
        torch.cat(part) for part in zip(*((s.masks, s.appearance) for s in seen), strict=True)
    )
    slots = motion_masks.moving_mask(masks).unflatten(0, flow.shape[:2])
    both = motion_masks.agreed(slots)
    carried = motion_masks.carried_along(both, flow)
    final = motion_masks.drawn_to_edges(enlarged(carried, small), pictures)

    def thresholded(left: Tensor) -> tuple[Tensor, Tensor]:
        """Otsu's masks of fields, and the same agreed on, carried along and drawn to edges."""
        mask = torch.stack([otsu(field.norm(dim=0)) for field in left]).unflatten(0, flow.shape[:2]).float()
        carried = motion_masks.carried_along(motion_masks.agreed(mask), flow)
        return mask, motion_masks.drawn_to_edges(carried, pictures)

    threshold, finished = thresholded(residual.flatten(0, 1))
    left = unpainted(residual.flatten(0, 1), appearance, motion_masks.ground_slot(masks))
    stages = {
        "two means of flow": torch.stack([two_means(field) for field in flow[:, 0]]).float(),
        "affine camera, Otsu": threshold[:, 0],
        "affine camera, Otsu, both directions, carried, edges": finished,
        "slots": slots[:, 0],
        "slots, both directions": both,
        "slots, carried": carried,
        "slots, carried, edges": final,
        LAST: thresholded(left)[1],
    }
    scores = {key: region(truth, mask) for key, mask in stages.items()}
    print(f"{name}: {time.process_time() - start:.0f} CPU s")
    shown_frames = []
    for now in (len(truth) // 4, 3 * len(truth) // 4):
        mask = stages[LAST][now] > 0.5
        shown_frames.append(visualize.overlay_one(pictures[now], mask.long() * 2 - 1, 0.5))
    return scores, shown_frames


def unpainted(residual: Tensor, appearance: Tensor, ground: Tensor) -> Tensor:
    """What the slot of the ground does not paint of motion fields [fields, 2, rows, columns]: the camera's
    motion as that slot knows it, with depth, taken off as well."""
    painted = 2 * appearance[torch.arange(len(ground)), ground, :2] - 1
    scale = largest_speed(functional.interpolate(residual, painted.shape[-2:], mode="area"))
    wide = functional.interpolate(painted, residual.shape[-2:], mode="bilinear", align_corners=False)
    return (residual / scale).clamp(-1, 1) - wide


def region(truth: Tensor, masks: Tensor) -> float:
    """J at the truth's size, frame by frame, so that memory stays small."""
    values = [
        metrics.region_similarity(one[None], enlarged(mask[None], tuple(one.shape)) > 0.5)
        for one, mask in zip(truth, masks, strict=True)
    ]
    return torch.cat(values).mean().item()


def enlarged(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft masks [frames, rows, columns] at another size."""
    return functional.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def otsu(values: Tensor) -> Tensor:
    """Where `values` exceed the threshold that parts them best (Otsu 1979), 256 steps up to their 99 %."""
    steps = (values / values.quantile(0.99).clamp_min(1e-6)).clamp(0, 1).mul(255).long()
    counts = torch.bincount(steps.flatten(), minlength=256).double()
    below = counts.cumsum(0)
    sums = (counts * torch.arange(256)).cumsum(0)
    above = below[-1] - below
    between = (sums / below.clamp_min(1) - (sums[-1] - sums) / above.clamp_min(1)).square() * below * above
    return steps > between.argmax()


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
        video_figures.label_columns(tile, [f"{name}  {scores[name]:.2f}"])
        for name in names
        for tile in pictures[name]
    ]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (4 * (width + 6), -(-len(tiles) // 4) * (height + 6)), visualize.PAPER)
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % 4 * (width + 6), place // 4 * (height + 6)))
    (ROOT / "docs" / "images").mkdir(parents=True, exist_ok=True)
    sheet.save(ROOT / "docs" / "images" / "davis.png")


if __name__ == "__main__":
    main()

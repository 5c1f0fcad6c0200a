"""What brings the trained unmodified model further in equal CPU time: batch size, clipping, hard scenes.

    python runs/experiments/unmodified_forks.py runs/tetrominoes-unmodified-seed0 --batch 8 --clip 0.8

Goes on from a run's weights with new optimisers, half the learning rates and a cosine to zero over 320 CPU
seconds, and adds a row to results/unmodified-forks.json: scores of 512 validation scenes, with three and five
iterations, eight times on the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

import objecthood as oh
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.evaluate import evaluate
from objecthood.runtime.environment import choose_precision, describe
from objecthood.train import averaging, no_denormals, step_seed

RESULTS = Path(__file__).resolve().parents[2] / "results" / "unmodified-forks.json"
SCENES, EVALUATIONS, OTHER_SCENES = 512, 8, 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of tetrominoes-unmodified")
    parser.add_argument("--batch", type=int, default=16, help="scenes whose gradient is computed")
    parser.add_argument("--of", type=int, default=0, help="the hardest of so many; 0: all")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    parser.add_argument("--cpu-seconds", type=float, default=320)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = oh.load(arguments.run)
    row = {"recipe": model.recipe.name, "seed": model.recipe.seed}
    row |= {"batch": arguments.batch, "of": arguments.of, "clip": arguments.clip, "machine": describe()}
    with no_denormals():
        row["points"] = go_on(model, arguments)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    protocol = (
        f"{SCENES} generated tetrominoes scenes (validation), one restart; CPU seconds of training, one "
        "thread beside another job"
    )
    known = {"protocol": protocol, "rows": [*rows, row]}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


def go_on(model: Any, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Train for the CPU seconds; scores on the way."""
    recipe = model.recipe
    model.train().to(memory_format=torch.channels_last)
    optimizers = recipe.build_optimizers(model)
    average = AveragedModel(model, multi_avg_fn=averaging(recipe.ema_decay))
    dataset, count = Tetrominoes("train", recipe.seed + OTHER_SCENES), max(arguments.batch, arguments.of)
    precision = choose_precision("auto", model.device)
    points: list[dict[str, float]] = []
    spent, step = 0.0, 0
    while True:
        if spent >= len(points) * arguments.cpu_seconds / EVALUATIONS:
            points.append({"step": step, "cpu_seconds": round(spent, 1)} | scores(average.module, recipe))
            print(points[-1], flush=True)
            if spent >= arguments.cpu_seconds:
                return points
        begun = time.process_time()
        images = dataset[np.arange(step * count, (step + 1) * count)]["image"]
        torch.manual_seed(step_seed(recipe.seed, step))
        noise = torch.randn(count, model.num_slots, model.slot_dim)
        rise = min(1, (step + 1) / recipe.warmup_steps)
        factor = 0.25 * rise * (1 + math.cos(math.pi * min(1, spent / arguments.cpu_seconds)))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            if arguments.of:
                images, noise = hardest(model, images, noise, arguments.batch)
            loss = errors(model, images, noise).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        step += 1
        spent += time.process_time() - begun


def errors(model: Any, images: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of every image, [batch], in [-1, 1] units as the recipe's loss."""
    decoded, _, _ = model.decode(model.encode(images), noise=noise)
    reconstruction, _ = model.composite(decoded.appearance, decoded.mask_logits)
    return 4 * (reconstruction - images).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def hardest(model: Any, images: Tensor, noise: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The images with the largest errors, and their noise."""
    parts = zip(images.split(count), noise.split(count), strict=True)
    chosen = torch.cat([errors(model, *part) for part in parts]).topk(count).indices
    return images[chosen], noise[chosen]


def scores(model: Any, recipe: Any) -> dict[str, float]:
    """MSE and FG-ARI with three and five iterations."""
    found = {}
    for iterations in (3, 5):
        tested = dataclasses.replace(recipe, test_iterations=iterations, validation_scenes=SCENES)
        result = evaluate(model, tested, "validation", SCENES)
        found |= {f"{name}_{iterations}": result[name] for name in ("mse", "fg_ari")}
    return found


if __name__ == "__main__":
    main()

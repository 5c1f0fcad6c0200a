"""What a release wrote, kept in tests/releases/VERSION for later versions to read: weights, what they see in
their image, and a checkpoint. Run it once, at every release; tests/test_published.py reads all of them.

Weights that are those of the package cost the repository nothing: Git keeps equal files once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from torch import nn

import objecthood as oh
from objecthood.checkpoint.run import save_checkpoint
from objecthood.inference.masks import PredictedMasks

RELEASES = Path(__file__).resolve().parents[2] / "tests" / "releases"
NAMES = ("sprites", "set-clevr")


def training(steps: int) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A model of one layer and its optimiser, after some steps on an image of ones."""
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(model.parameters(), lr=0.25)]
    for _ in range(steps):
        optimizers[0].zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizers[0].step()
    return model, optimizers


def seen(file: Path, picture: Path) -> dict[str, object]:
    """What weights see in an image: of every pixel its slot, or all objects in numbers."""
    (result,) = oh.predict(file, picture)
    if isinstance(result, PredictedMasks):
        return {"labels": result.labels.tolist()}
    return {"properties": result.properties.tolist()}


def keep(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in NAMES:
        one = oh.PRETRAINED[name]
        for file in (one.file, one.example):
            shutil.copy(file, folder)
        found = json.dumps(seen(one.file, one.example), separators=(",", ":"))
        (folder / f"{name}.json").write_text(found + "\n")
    with tempfile.TemporaryDirectory() as temporary:
        saved = save_checkpoint(Path(temporary), 5, *training(5), {"skipped_steps": 1})
        shutil.copytree(saved, folder / "checkpoints" / saved.name)


if __name__ == "__main__":
    keep(RELEASES / oh.__version__)
    print(f"kept in {RELEASES / oh.__version__}")

"""Benchmarked models at each image size: reference implementation ("literal"), exact and fast.

Training steps are those of `train.py`: the recipe's model, optimisers, loss, precision, clipping and EMA.
Images are tetrominoes at 35 pixels and generated sprites at other sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from objecthood.benchmarks.reference_implementation import ReferenceAutoencoder
from objecthood.data.scene import Scenes, to_device
from objecthood.recipes import RECIPES, Recipe, from_dict
from objecthood.runtime.environment import choose_precision
from objecthood.train import averaging

LITERAL, EXACT, FAST = "literal", "exact", "fast"
_LATE_STEP = 1001
"""The timed step: after all warm-ups, and with the larger of alternating numbers of iterations."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Benchmark settings of one image size."""

    resolution: int
    num_slots: int
    exact: Recipe
    fast: Recipe
    batch_size: int
    """Batch size of a training step on a CPU; the paper's 64 would take minutes."""
    inference_sizes: tuple[int, ...]
    """Batch sizes of inference."""

    def recipe(self, name: str) -> Recipe:
        """The recipe of a model; the reference implementation has that of the exact model."""
        return self.fast if name == FAST else self.exact


def settings() -> dict[int, Setting]:
    """Settings by resolution: 35 (4 slots), 64 (6) and 128 (7).

    Example:
        >>> {side: setting.num_slots for side, setting in settings().items()}
        {35: 4, 64: 6, 128: 7}
    """
    paper = RECIPES["clevr6-paper"].to_dict() | {"data": "sprites"}
    fast = RECIPES["sprites"].to_dict() | {"resolution": 128, "num_slots": 7}
    return {
        35: Setting(35, 4, RECIPES["tetrominoes-paper"], RECIPES["tetrominoes"], 16, (1, 64)),
        64: Setting(64, 6, RECIPES["sprites-paper"], RECIPES["sprites"], 4, (1, 64)),
        128: Setting(128, 7, from_dict(paper), from_dict(fast), 1, (1, 8)),
    }


def scenes(recipe: Recipe, batch_size: int, device: torch.device) -> Scenes:
    """The first scenes of a recipe's training set."""
    return to_device(recipe.dataset("train")[np.arange(batch_size)], device)


class ReferenceStep:
    """A training step of the reference implementation: Adam, float32.

    Args:
        setting: image size and number of slots.
        batch_size: images per step.
        device: device of the model.
    """

    def __init__(self, setting: Setting, batch_size: int, device: torch.device):
        self.images = scenes(setting.exact, batch_size, device)["image"]
        self.model = ReferenceAutoencoder(setting.resolution, setting.num_slots).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setting.exact.learning_rate, eps=1e-8)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        reconstruction, _ = self.model(self.images)
        loss = ((reconstruction - (2 * self.images - 1)) ** 2).mean()
        loss.backward()
        self.optimizer.step()


class RecipeStep:
    """A training step of `train.py` for a recipe, repeated on one batch.

    Args:
        recipe: recipe of the model.
        batch_size: images per step.
        device: device of the model.
    """

    def __init__(self, recipe: Recipe, batch_size: int, device: torch.device):
        self.recipe, self.device = recipe, device
        self.precision = choose_precision(recipe.precision, device)
        self.scenes = scenes(recipe, batch_size, device)
        self.model = recipe.build_model().to(device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizers = recipe.build_optimizers(self.model)
        self.average = AveragedModel(self.model, multi_avg_fn=averaging(recipe.ema_decay))

    def __call__(self) -> None:
        with self.autocast():
            loss = self.recipe.loss(self.model, self.scenes, _LATE_STEP)
        loss.backward()
        self.optimize()

    def autocast(self) -> torch.autocast:
        """Autocast with the recipe's precision on this device."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def optimize(self) -> None:
        """Clipping, optimiser steps and EMA."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip or torch.inf)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)


def training_step(setting: Setting, name: str, batch_size: int, device: torch.device) -> Callable[[], None]:
    """The training step of model `name`."""
    if name == LITERAL:
        return ReferenceStep(setting, batch_size, device)
    return RecipeStep(setting.recipe(name), batch_size, device)


def inference(setting: Setting, name: str, batch_size: int, device: torch.device) -> Callable[[], object]:
    """A forward pass of model `name` on a batch, with the iterations of training."""
    recipe = setting.recipe(name)
    images = scenes(recipe, batch_size, device)["image"]
    if name == LITERAL:
        model = ReferenceAutoencoder(setting.resolution, setting.num_slots).to(device).eval()
    else:
        model = recipe.build_model().to(device).eval()

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run

"""Who is timed at which size: the literal model, our exact one, our fast one, and what each does in a step.

Steps are those of `train.py`: the recipe's model, optimisers, loss, precision, clipping and averaged weights.
Images are generated sprites at every size but Tetrominoes' own, where they are tetrominoes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from objecthood.benchmarks.reference_implementation import LiteralAutoencoder
from objecthood.data.scene import Scenes, to_device
from objecthood.recipes import RECIPES, Recipe, from_dict
from objecthood.runtime.environment import choose_precision
from objecthood.train import averaging

LITERAL, EXACT, FAST = "literal", "exact", "fast"
_LATE_STEP = 1001
"""The step that is timed: what a recipe switches on while it trains is on by then, and of two numbers of
iterations in turn it has the larger."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One size of image, and what is run there."""

    resolution: int
    num_slots: int
    exact: Recipe
    fast: Recipe
    batch_size: int
    """Of a training step on a CPU: the paper's 64 would last minutes."""
    inference_sizes: tuple[int, ...]

    def recipe(self, name: str) -> Recipe:
        """The recipe of a contestant; the literal model is trained as the exact one's says."""
        return self.fast if name == FAST else self.exact


def settings() -> dict[int, Setting]:
    """By resolution: 35 (4 slots), 64 (6) and 128 (7).

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


class LiteralStep:
    """Training as the paper has it, written plainly: Adam, float32, nothing else.

    Args:
        setting: size and slots.
        batch_size: images of a step.
        device: where it runs.
    """

    def __init__(self, setting: Setting, batch_size: int, device: torch.device):
        self.images = scenes(setting.exact, batch_size, device)["image"]
        self.model = LiteralAutoencoder(setting.resolution, setting.num_slots).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=setting.exact.learning_rate, eps=1e-8)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        reconstruction, _ = self.model(self.images)
        loss = ((reconstruction - (2 * self.images - 1)) ** 2).mean()
        loss.backward()
        self.optimizer.step()


class RecipeStep:
    """One step of `train.py` for a recipe, again and again on one batch.

    Args:
        recipe: what is trained.
        batch_size: images of a step.
        device: where it runs.
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
        """The precision that the recipe trains in on this device."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def optimize(self) -> None:
        """Everything between backward and the next step."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip or torch.inf)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)


def training_step(setting: Setting, name: str, batch_size: int, device: torch.device) -> Callable[[], None]:
    """What `name` does in a training step."""
    if name == LITERAL:
        return LiteralStep(setting, batch_size, device)
    return RecipeStep(setting.recipe(name), batch_size, device)


def inference(setting: Setting, name: str, batch_size: int, device: torch.device) -> Callable[[], object]:
    """What `name` does to find the objects of a batch; iterations as in training, for all alike."""
    recipe = setting.recipe(name)
    images = scenes(recipe, batch_size, device)["image"]
    if name == LITERAL:
        model = LiteralAutoencoder(setting.resolution, setting.num_slots).to(device).eval()
    else:
        model = recipe.build_model().to(device).eval()

    def look() -> object:
        with torch.inference_mode():
            return model(images)

    return look

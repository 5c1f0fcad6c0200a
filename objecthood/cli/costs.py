"""Cost of a recipe before training: parameters, scenes, memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from objecthood.nn.frozen import frozen_parts
from objecthood.recipes import Recipe
from objecthood.train import step_seed

FEW = 8
"""Scenes for which the loss is computed; memory of a batch is extrapolated linearly."""


def costs(recipe: Recipe) -> dict[str, Any]:
    """Costs of `recipe` as JSON values, from its model and the loss of a few scenes in float32.

    "parameters": counts by module and in total ("all"). "frozen_parameters": counts of frozen modules, if
    any. "training_scenes": a number or "endless". "weights_bytes": upper bound for weights, gradients, EMA
    and optimiser state, plus frozen weights. "activations_bytes": tensors saved for the backward pass of a
    batch. The global random state is unchanged. Raises ValueError if the data is missing.

    Example:
        >>> from objecthood.recipes import RECIPES
        >>> found = costs(RECIPES["tetrominoes"])
        >>> found["training_scenes"], found["parameters"]["all"]
        ('endless', 170884)
    """
    dataset = recipe.dataset("train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = recipe.build_model()
        few = dataclasses.replace(recipe, batch_size=min(FEW, recipe.batch_size))
        kept: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            alive.append(tensor)  # keep addresses unique
            return tensor

        alive: list[Tensor] = []
        torch.manual_seed(step_seed(recipe.seed, recipe.steps - 1))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            few.loss(model, dataset[range(few.batch_size)], recipe.steps - 1)
    parts = {
        name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()
    }
    every = sum(weight.numel() for weight in model.parameters())
    frozen = frozen_parts(model)
    facts: dict[str, Any] = {"parameters": parts | {"all": every}}
    if frozen:
        facts["frozen_parameters"] = {path: part.num_weights for path, part in frozen.items()}
    return facts | {
        "training_scenes": "endless" if dataset.endless else len(dataset),
        "weights_bytes": 4 * every * 5 + sum(part.num_bytes for part in frozen.values()),
        "activations_bytes": round(sum(kept.values()) * recipe.batch_size / few.batch_size),
    }

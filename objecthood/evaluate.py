"""Evaluation: mean scores of a model on a data set."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from objecthood.data.scene import Scenes, to_device
from objecthood.recipes import RECIPES, Recipe


@torch.no_grad()
def evaluate(
    model: nn.Module,
    recipe: Recipe | str,
    split: str = "test",
    num_scenes: int | None = None,
    batch_size: int = 32,
) -> dict[str, float]:
    """Mean scores of `model` on a recipe's scenes.

    Args:
        model: model of the recipe, moved to its device.
        recipe: recipe or name of one in `RECIPES`.
        split: "train", "validation" or "test".
        num_scenes: number of scenes, the first of the split (default: the recipe's `test_scenes`).
        batch_size: scenes per batch; affects rounding only.

    Returns:
        Scores by name, averaged in float64 over images where they are defined.

    Raises:
        ValueError: the recipe is unknown, or a number is below 1.

    Example:
        >>> import objecthood as oh
        >>> oh.evaluate(oh.RECIPES["tetrominoes"].build_model(), "tetrominoes", num_scenes=4).keys()
        dict_keys(['mse', 'fg_ari', 'ari', 'mbo', 'miou'])
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe {recipe!r} is not known; choose one of {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    for name, value in (("num_scenes", num_scenes), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    values: dict[str, list[Tensor]] = {}
    for indices, scenes in first_scenes(recipe, split, num_scenes, batch_size):
        for name, score in recipe.scores(model, to_device(scenes, device), indices).items():
            values.setdefault(name, []).append(score.double().cpu())
    model.train(was_training)
    return recipe.summarize({name: torch.cat(scores) for name, scores in values.items()})


def first_scenes(
    recipe: Recipe, split: str, num_scenes: int | None, batch_size: int = 32
) -> Iterator[tuple[Tensor, Scenes]]:
    """The first `num_scenes` scenes of a split (default: the recipe's `test_scenes`; all, if there are fewer)
    in batches, with their indices."""
    dataset = recipe.dataset(split)
    count = min(len(dataset), recipe.test_scenes if num_scenes is None else num_scenes)
    for start in range(0, count, batch_size):
        indices = torch.arange(start, min(start + batch_size, count))
        yield indices, dataset[indices.numpy()]

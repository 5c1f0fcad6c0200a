"""Weights times data gives signs of what is wrong, and pictures of the scenes where it is worst."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from PIL import Image

from objecthood.analysis import diagnostics
from objecthood.data.scene import to_device
from objecthood.recipes import Discovery, Recipe
from objecthood.recipes.base import Model
from objecthood.visualize import figures


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found on a number of pictures."""

    model: Model
    recipe: Recipe
    split: str
    summary: dict[str, float]
    """See `diagnostics.summarize`; and "swing", the error of the pictures after one test iteration more over
    that after as many as the recipe says, or the other way round: at least 1."""
    signs: diagnostics.Signs | None
    """Counts for every picture; None where they have no true masks."""
    worst: list[int]
    """Indices of pictures by falling trouble; without true masks, by falling entropy of attention."""

    @property
    def findings(self) -> list[diagnostics.Finding]:
        """What stands out, and where to read on."""
        return diagnostics.findings(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Summary, findings and worst scenes, ready for JSON."""
        found = [finding._asdict() for finding in self.findings]
        return {"summary": self.summary, "findings": found, "worst_scenes": self.worst[:20]}

    def picture(self, rows: int = 5) -> Image.Image:
        """The worst scenes: what is wrong, picture, truth (where known), segmentation, every slot's mask."""
        return scenes_figure(self.model, self.recipe, self.split, self.worst[:rows], self.signs)


def check(recipe: Recipe) -> Discovery:
    """The recipe, as one that finds masks in pictures; ValueError for another."""
    if isinstance(recipe, Discovery):
        return recipe
    raise ValueError(
        f"recipe {recipe.name!r} finds no masks in pictures; a diagnosis needs a recipe of object discovery"
    )


def alarms(model: Model, recipe: Recipe, num_scenes: int = 32) -> list[diagnostics.Finding]:
    """What stands out on validation scenes; nothing where a recipe finds no masks in pictures."""
    if not isinstance(recipe, Discovery):
        return []
    return diagnose(model, recipe, "validation", num_scenes).findings


@torch.no_grad()
def diagnose(
    model: Model, recipe: Recipe, split: str = "test", num_scenes: int | None = None, batch_size: int = 32
) -> Diagnosis:
    """Signs of trouble on the first `num_scenes` scenes of a recipe's `split` (default: its test scenes).

    Start noise is fixed by the index of the picture, as in `evaluate`. Raises ValueError for recipes whose
    models give no masks.

    Example:
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> sorted(diagnose(recipe.build_model(), recipe, num_scenes=2).summary)[:3]
        ['attention_entropy', 'background_slots', 'background_split']
    """
    finder = check(recipe)
    dataset = recipe.dataset(split)
    num_scenes = min(len(dataset), recipe.test_scenes if num_scenes is None else num_scenes)
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    further = dataclasses.replace(finder, test_iterations=finder.test_iterations + 1)
    entropy, used, found, errors = [], [], [], torch.zeros(2)
    for start in range(0, num_scenes, batch_size):
        indices = torch.arange(start, min(start + batch_size, num_scenes))
        scenes = to_device(dataset[indices.numpy()], device)
        seen = finder.discover(model, scenes["image"], indices)
        entropy.append(diagnostics.attention_entropy(seen.attention[:, -1]).cpu())
        used.append(diagnostics.used_slots(seen.masks).cpu())
        after = further.discover(model, scenes["image"], indices)
        pictures = torch.stack([seen.reconstruction, after.reconstruction])
        errors += (pictures - scenes["image"]).square().flatten(2).mean(dim=2).sum(dim=1).cpu()
        if "masks" in scenes:
            found.append(diagnostics.signs(scenes["masks"], seen.masks))
    model.train(was_training)
    every_entropy = torch.cat(entropy)
    signs = (
        diagnostics.Signs(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))
        if found
        else None
    )
    trouble = every_entropy if signs is None else signs.trouble + every_entropy.clamp(0, 0.99)
    summary = diagnostics.summarize(signs, every_entropy, torch.cat(used), model.num_slots)
    summary["swing"] = (errors.max() / errors.min().clamp_min(1e-12)).item()
    order = trouble.argsort(descending=True, stable=True).tolist()
    return Diagnosis(model, recipe, split, summary, signs, order)


@torch.no_grad()
def scenes_figure(
    model: Model, recipe: Any, split: str, indices: list[int], signs: diagnostics.Signs | None
) -> Image.Image:
    """The scenes of these indices, one a row, with what is wrong in each in words on the left."""
    scenes = to_device(recipe.dataset(split)[indices], next(model.parameters()).device)
    seen = recipe.discover(model, scenes["image"], torch.tensor(indices))
    scale = figures.legible_scale(scenes["image"])
    colors = figures.slot_colors(seen.masks.shape[1])
    rows = []
    for number, image in enumerate(scenes["image"]):
        large = figures.enlarge(image, scale)
        cells = [figures.to_picture(large)]
        if "masks" in scenes:
            cells.append(figures.overlay_one(large, scenes["masks"][number] - 1, figures.STRONG))
        masks = seen.masks[number]
        cells.append(figures.overlay_one(large, masks, figures.STRONG))
        cells += [
            figures.attention_cell(large, mask, color) for mask, color in zip(masks, colors, strict=True)
        ]
        rows.append(cells)
    headings = ["picture", "truth", "segmentation"] if "masks" in scenes else ["picture", "segmentation"]
    names = [in_words(index, signs) for index in indices]
    return figures.grid(rows, headings, num_slots=len(colors), row_names=names)


def in_words(index: int, signs: diagnostics.Signs | None) -> str:
    """What is wrong in one scene, a line each."""
    lines = [f"scene {index}"]
    if signs is not None:
        shared, split, hidden, pieces = (
            int(column[index])
            for column in (signs.shared, signs.split, signs.in_background, signs.background_slots)
        )
        lines += [f"{shared} share a slot"] * (shared > 0)
        lines += [f"{split} in pieces"] * (split > 0)
        lines += [f"{hidden} in background"] * (hidden > 0)
        lines += [f"background in {pieces}"] * (pieces > 1)
    return "\n".join(lines)

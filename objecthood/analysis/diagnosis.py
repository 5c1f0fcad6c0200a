"""Weights times data gives signs of what is wrong, and images of the scenes where it is worst."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from objecthood.analysis import diagnostics
from objecthood.data.randomness import restart_noise
from objecthood.data.scene import to_device
from objecthood.models import SlotModel, SlotOutput
from objecthood.recipes import Recipe
from objecthood.visualize import figures


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found on a number of images."""

    model: SlotModel
    recipe: Recipe
    split: str
    summary: dict[str, float]
    """See `diagnostics.summarize`; and "swing", the error of the images after one test iteration more over
    that after as many as the recipe says, or the other way round: at least 1 (of models that decode)."""
    signs: diagnostics.Signs | None
    """Counts for every image; None where they have no true masks."""
    worst: list[int]
    """Indices of images by falling trouble; without true masks, by falling entropy of attention."""

    @property
    def findings(self) -> list[diagnostics.Finding]:
        """What stands out, and where to read on."""
        return diagnostics.findings(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Summary, findings and worst scenes, ready for JSON."""
        found = [finding._asdict() for finding in self.findings]
        return {"summary": self.summary, "findings": found, "worst_scenes": self.worst[:20]}

    def figure(self, rows: int = 5) -> Image.Image:
        """The worst scenes: what is wrong, image, truth (where known), segmentation, every slot's mask."""
        return scenes_figure(self.model, self.recipe, self.split, self.worst[:rows], self.signs)


def check(model: object, recipe: Recipe, split: str = "test") -> SlotModel:
    """The model, as one that finds masks in images of the recipe's `split`; ValueError for another."""
    if isinstance(model, SlotModel) and model.result_kind == "masks":
        images = recipe.dataset(split)[[0]]["image"]
        if images.dim() == 4:  # clips have a time axis
            return model
    raise ValueError(
        f"recipe {recipe.name!r} finds no masks in images; a diagnosis needs a recipe of object discovery"
    )


def alarms(model: object, recipe: Recipe, num_scenes: int = 32) -> list[diagnostics.Finding]:
    """What stands out on validation scenes; nothing where a recipe finds no masks in images."""
    try:
        finder = check(model, recipe, "validation")
    except ValueError:
        return []
    return diagnose(finder, recipe, "validation", num_scenes).findings


def segment(
    model: SlotModel, recipe: Recipe, images: Tensor, indices: Tensor, more_iterations: int = 0
) -> SlotOutput:
    """The model's output for the recipe's images of these indices, with its test iterations and restarts."""
    settings: Any = recipe
    noise = restart_noise(
        np.asarray(indices), getattr(settings, "restarts", 1), model.num_slots, model.slot_dim
    )
    iterations = getattr(settings, "test_iterations", model.iterations) + more_iterations
    return model.segment(images, iterations=iterations, noise=noise.to(images.device))


@torch.no_grad()
def diagnose(
    model: object, recipe: Recipe, split: str = "test", num_scenes: int | None = None, batch_size: int = 32
) -> Diagnosis:
    """Signs of trouble on the first `num_scenes` scenes of a recipe's `split` (default: its test scenes).

    Start noise is fixed by the index of the image, as in `evaluate`. Raises ValueError for recipes whose
    models give no masks.

    Example:
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> sorted(diagnose(recipe.build_model(), recipe, num_scenes=2).summary)[:3]
        ['attention_entropy', 'background_slots', 'background_split']
    """
    finder = check(model, recipe, split)
    dataset = recipe.dataset(split)
    num_scenes = min(len(dataset), recipe.test_scenes if num_scenes is None else num_scenes)
    device, was_training = finder.device, finder.training
    finder.eval()
    entropy, used, found, errors = [], [], [], torch.zeros(2)
    for start in range(0, num_scenes, batch_size):
        indices = torch.arange(start, min(start + batch_size, num_scenes))
        scenes = to_device(dataset[indices.numpy()], device)
        seen = segment(finder, recipe, scenes["image"], indices)
        assert seen.masks is not None  # `check`
        entropy.append(diagnostics.attention_entropy(seen.attention[:, -1]).cpu())
        used.append(diagnostics.used_slots(seen.masks).cpu())
        if seen.reconstruction is not None:
            after = segment(finder, recipe, scenes["image"], indices, more_iterations=1)
            assert after.reconstruction is not None
            pictures = torch.stack([seen.reconstruction, after.reconstruction])
            errors += (pictures - scenes["image"]).square().flatten(2).mean(dim=2).sum(dim=1).cpu()
        if "masks" in scenes:
            found.append(diagnostics.signs(scenes["masks"], seen.masks))
    finder.train(was_training)
    every_entropy = torch.cat(entropy)
    signs = (
        diagnostics.Signs(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))
        if found
        else None
    )
    trouble = every_entropy if signs is None else signs.trouble + every_entropy.clamp(0, 0.99)
    summary = diagnostics.summarize(signs, every_entropy, torch.cat(used), finder.num_slots)
    if errors.any():
        summary["swing"] = (errors.max() / errors.min().clamp_min(1e-12)).item()
    order = trouble.argsort(descending=True, stable=True).tolist()
    return Diagnosis(finder, recipe, split, summary, signs, order)


@torch.no_grad()
def scenes_figure(
    model: SlotModel, recipe: Recipe, split: str, indices: list[int], signs: diagnostics.Signs | None
) -> Image.Image:
    """The scenes of these indices, one a row, with what is wrong in each in words on the left."""
    scenes = to_device(recipe.dataset(split)[indices], model.device)
    found = segment(model, recipe, scenes["image"], torch.tensor(indices)).masks
    assert found is not None  # `check`
    scale = figures.legible_scale(scenes["image"])
    colors = figures.slot_colors(found.shape[1])
    rows = []
    for number, image in enumerate(scenes["image"]):
        large = figures.enlarge(image, scale)
        cells = [figures.to_image(large)]
        if "masks" in scenes:
            cells.append(figures.overlay_one(large, scenes["masks"][number] - 1, figures.STRONG))
        masks = found[number]
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

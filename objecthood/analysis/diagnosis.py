"""Diagnosis of a model on a data set: failure modes and figures of the worst scenes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from objecthood.analysis import diagnostics
from objecthood.data.randomness import restart_noise
from objecthood.data.scene import to_device
from objecthood.evaluate import first_scenes
from objecthood.models import SlotModel, SlotOutput
from objecthood.recipes import Recipe
from objecthood.visualize import figures


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Failures on a number of images."""

    model: SlotModel
    recipe: Recipe
    split: str
    summary: dict[str, float]
    """See `diagnostics.summarize`; and, for models that decode, "error_ratio": the ratio, at least 1, of the
    errors with the recipe's test iterations and with one more."""
    signs: diagnostics.Signs | None
    """Counts for every image; None without true masks."""
    worst: list[int]
    """Indices of images by decreasing number of failures, or, without true masks, entropy of attention."""

    @property
    def findings(self) -> list[diagnostics.Finding]:
        """Notable failures, with documentation pages."""
        return diagnostics.findings(self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Summary, findings and worst scenes as JSON values."""
        found = [finding._asdict() for finding in self.findings]
        return {"summary": self.summary, "findings": found, "worst_scenes": self.worst[:20]}

    def figure(self, rows: int = 5) -> Image.Image:
        """Figure of the worst scenes: failures, image, true masks if known, segmentation, every slot's
        mask."""
        return scenes_figure(self.model, self.recipe, self.split, self.worst[:rows], self.signs)


def check(model: object, recipe: Recipe, split: str = "test") -> SlotModel:
    """The model, if it predicts masks of images and the recipe's `split` has images; ValueError otherwise."""
    if isinstance(model, SlotModel) and model.result_kind == "masks":
        images = recipe.dataset(split)[[0]]["image"]
        if images.dim() == 4:  # clips have a time axis
            return model
    raise ValueError(f"recipe {recipe.name!r} predicts no masks of images; use a recipe of object discovery")


def alarms(model: object, recipe: Recipe, num_scenes: int = 32) -> list[diagnostics.Finding]:
    """Notable failures on validation scenes; none for recipes that predict no masks of images."""
    try:
        checked = check(model, recipe, "validation")
    except ValueError:
        return []
    return diagnose(checked, recipe, "validation", num_scenes).findings


def segment(
    model: SlotModel, recipe: Recipe, images: Tensor, indices: Tensor, more_iterations: int = 0
) -> SlotOutput:
    """The model's output for images of these indices, with the recipe's test iterations and restarts."""
    settings: Any = recipe
    noise = restart_noise(indices, getattr(settings, "restarts", 1), model.num_slots, model.slot_dim)
    iterations = getattr(settings, "test_iterations", model.iterations) + more_iterations
    return model.segment(images, iterations=iterations, noise=noise.to(images.device))


@torch.no_grad()
def diagnose(
    model: object, recipe: Recipe, split: str = "test", num_scenes: int | None = None, batch_size: int = 32
) -> Diagnosis:
    """Failures on the first `num_scenes` scenes of a recipe's `split` (default: its `test_scenes`).

    Noise is seeded by the index of the image, as in `evaluate`.

    Raises:
        ValueError: the recipe's models predict no masks of images.

    Example:
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> sorted(diagnose(recipe.build_model(), recipe, num_scenes=2).summary)[:3]
        ['attention_entropy', 'background_slots', 'background_split']
    """
    checked = check(model, recipe, split)
    device, was_training = checked.device, checked.training
    checked.eval()
    entropy, used, found, errors = [], [], [], torch.zeros(2)
    for indices, scenes in first_scenes(recipe, split, num_scenes, batch_size):
        scenes = to_device(scenes, device)
        output = segment(checked, recipe, scenes["image"], indices)
        assert output.masks is not None  # `check`
        entropy.append(diagnostics.attention_entropy(output.attention[:, -1]).cpu())
        used.append(diagnostics.used_slots(output.masks).cpu())
        if output.reconstruction is not None:
            after = segment(checked, recipe, scenes["image"], indices, more_iterations=1)
            assert after.reconstruction is not None
            reconstructions = torch.stack([output.reconstruction, after.reconstruction])
            errors += (reconstructions - scenes["image"]).square().flatten(2).mean(dim=2).sum(dim=1).cpu()
        if "masks" in scenes:
            found.append(diagnostics.signs(scenes["masks"], output.masks))
    checked.train(was_training)
    entropies = torch.cat(entropy)
    signs = (
        diagnostics.Signs(*(torch.cat(column).cpu() for column in zip(*found, strict=True)))
        if found
        else None
    )
    trouble = entropies if signs is None else signs.trouble + entropies.clamp(0, 0.99)
    summary = diagnostics.summarize(signs, entropies, torch.cat(used), checked.num_slots)
    if errors.any():
        summary["error_ratio"] = (errors.max() / errors.min().clamp_min(1e-12)).item()
    order = trouble.argsort(descending=True, stable=True).tolist()
    return Diagnosis(checked, recipe, split, summary, signs, order)


@torch.no_grad()
def scenes_figure(
    model: SlotModel, recipe: Recipe, split: str, indices: list[int], signs: diagnostics.Signs | None
) -> Image.Image:
    """The scenes of these indices, one per row, with their failures in words on the left."""
    scenes = to_device(recipe.dataset(split)[indices], model.device)
    predicted = segment(model, recipe, scenes["image"], torch.tensor(indices)).masks
    assert predicted is not None  # `check`
    scale = figures.legible_scale(scenes["image"])
    colors = figures.slot_colors(predicted.shape[1])
    rows = []
    for number, image in enumerate(scenes["image"]):
        large = figures.enlarge(image, scale)
        cells = [figures.to_image(large)]
        if "masks" in scenes:
            cells.append(figures.overlay_one(large, scenes["masks"][number] - 1, figures.STRONG))
        masks = predicted[number]
        cells.append(figures.overlay_one(large, masks, figures.STRONG))
        cells += [
            figures.attention_cell(large, mask, color) for mask, color in zip(masks, colors, strict=True)
        ]
        rows.append(cells)
    headings = ["image", "truth", "segmentation"] if "masks" in scenes else ["image", "segmentation"]
    names = [describe_scene(index, signs) for index in indices]
    return figures.grid(rows, headings, num_slots=len(colors), row_names=names)


def describe_scene(index: int, signs: diagnostics.Signs | None) -> str:
    """The failures in one scene, one per line."""
    lines = [f"scene {index}"]
    if signs is not None:
        shared, split, in_background, background_slots = (
            int(column[index])
            for column in (signs.shared, signs.split, signs.in_background, signs.background_slots)
        )
        lines += [f"{shared} share a slot"] * (shared > 0)
        lines += [f"{split} split"] * (split > 0)
        lines += [f"{in_background} in background"] * (in_background > 0)
        lines += [f"background in {background_slots}"] * (background_slots > 1)
    return "\n".join(lines)

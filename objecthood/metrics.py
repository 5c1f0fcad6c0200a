"""How well masks match the truth: pure functions, float64, one value per picture.

True masks are label maps: 0 is background, 1, 2, ... are objects, -1 is ignored everywhere. Predicted masks
are label maps of any non-negative labels, or soft masks [batch, slots, height, width], of which the largest
counts.

Foreground ARI alone flatters: it never looks at background pixels, so a model that shatters the background,
or lets every mask spill over it, can still score 1. Quote ARI and mean best overlap beside it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from objecthood.nn.matching import assign

IGNORED = -1
"""Label of pixels that no metric counts."""


def adjusted_rand_index(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor, *, ignore_background: bool
) -> Float[Tensor, " batch"]:
    """Agreement of two partitions, corrected for chance: 1 if equal, about 0 if unrelated, possibly negative.

    Hubert and Arabie 1985. `ignore_background=True` is the foreground ARI of object discovery (Greff et al.
    2019, arXiv 1903.00450): pixels whose true label is 0 are left out, predictions keep all their slots.

    Where both partitions are trivial (each a single cluster, or each all singletons) the value is 1, as
    scikit-learn has it. A picture with one object thus scores 1 if one slot covers it and 0 otherwise. nan
    where no pixel is left to score: a picture without objects has no foreground ARI.

    Example:
        >>> truth = torch.tensor([[[0, 1, 1], [0, 2, 2]]])
        >>> adjusted_rand_index(truth, torch.tensor([[[5, 3, 3], [5, 4, 4]]]), ignore_background=True)
        tensor([1.], dtype=torch.float64)
    """
    table = contingency(true_masks, predicted_masks)
    if ignore_background:
        table = table[:, 1:]
    together = pairs(table).sum(dim=(1, 2))
    true_pairs, predicted_pairs = pairs(table.sum(dim=2)).sum(dim=1), pairs(table.sum(dim=1)).sum(dim=1)
    all_pairs = pairs(table.sum(dim=(1, 2)))
    expected = true_pairs * predicted_pairs / all_pairs.clamp_min(1)
    largest = (true_pairs + predicted_pairs) / 2
    trivial = largest == expected
    value = torch.where(trivial, 1.0, (together - expected) / torch.where(trivial, 1.0, largest - expected))
    return value.masked_fill(table.sum(dim=(1, 2)) == 0, torch.nan)


def mean_best_overlap(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """Mean over the objects present of the largest intersection over union with any predicted mask.

    Pont-Tuset et al. 2017, as used since Seitzer et al. 2023 (arXiv 2209.14860). The background is not an
    object here, but predicted masks pay for what they cover of it. One mask may serve several objects. nan
    where a picture has no object.

    Example:
        >>> truth = torch.tensor([[[0, 1, 1], [0, 2, 2]]])
        >>> mean_best_overlap(truth, torch.tensor([[[0, 1, 1], [0, 1, 1]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    overlap, present = object_overlaps(true_masks, predicted_masks)
    return mean_over(overlap.amax(dim=2), present)


def mean_iou(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """Mean over the objects present of the intersection over union with the mask assigned to each, one to
    one.

    The assignment of largest sum is found by the Hungarian method; objects beyond the number of masks count
    0. The background is not an object. nan where a picture has no object.
    """
    overlap, present = object_overlaps(true_masks, predicted_masks)
    if overlap.shape[1] == 0:
        return mean_over(overlap.sum(dim=2), present)
    rows, columns = assign(-overlap)
    matched = torch.zeros_like(overlap[:, :, 0])
    batch = torch.arange(len(overlap), device=overlap.device)[:, None]
    matched[batch, rows] = overlap[batch, rows, columns]
    return mean_over(matched, present)


def contingency(true_masks: Tensor, predicted_masks: Tensor) -> Float[Tensor, "batch true predicted"]:
    """Number of pixels with each true and each predicted label, -1 in the truth left out."""
    predicted = label_map(predicted_masks)
    if true_masks.ndim != 3 or true_masks.shape != predicted.shape:
        raise ValueError(
            f"true masks {list(true_masks.shape)} must be labels [batch, height, width], and predicted masks "
            f"{list(predicted_masks.shape)} labels of that shape or soft masks [batch, slots, height, "
            "width]. Enlarge soft masks to the size of the truth first (torch.nn.functional.interpolate)"
        )
    true = true_masks.long().flatten(1)
    predicted = predicted.long().flatten(1)
    if predicted.numel() and predicted.min() < 0:
        raise ValueError(f"predicted labels must be 0 or more; got {int(predicted.min())}")
    num_true, num_predicted = (int(labels.max()) + 1 if labels.numel() else 1 for labels in (true, predicted))
    num_true = max(num_true, 1)
    cell = true * num_predicted + predicted
    table = torch.zeros(len(true), num_true * num_predicted, dtype=torch.float64, device=true.device)
    table.scatter_add_(1, cell.clamp_min(0), (true > IGNORED).double())
    return table.view(len(true), num_true, num_predicted)


def label_map(masks: Tensor) -> Int[Tensor, "batch height width"]:
    """Label maps as they are; of soft masks [batch, slots, height, width] the index of the largest."""
    return masks.argmax(dim=1) if masks.ndim == 4 else masks


def object_overlaps(
    true_masks: Tensor, predicted_masks: Tensor
) -> tuple[Float[Tensor, "batch objects predicted"], Tensor]:
    """Intersection over union of every object with every predicted mask, and which objects are present."""
    table = contingency(true_masks, predicted_masks)
    objects = table[:, 1:]
    sizes = objects.sum(dim=2)
    union = sizes[:, :, None] + table.sum(dim=1)[:, None] - objects
    return objects / union.clamp_min(1), sizes > 0


def mean_over(values: Float[Tensor, "batch objects"], present: Tensor) -> Float[Tensor, " batch"]:
    """Mean of the values present in each row; nan where there is none."""
    return (values * present).sum(dim=1) / present.sum(dim=1)


def pairs(counts: Tensor) -> Tensor:
    """Number of ordered pairs of distinct members in groups of these sizes."""
    return counts * (counts - 1)

"""Scores of segments: covering, recovery, correct localisation, panoptic quality, best overlap of tubes.

Masks are those of `objecthood.metrics`: true label maps (0 background, -1 ignored), predicted label maps or
soft masks. Each function gives float64, one value per image or clip, nan where it is undefined.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from objecthood import metrics


def segmentation_covering(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """Segmentation covering (SC), in [0, 1]: the best overlap of every object, weighted by its pixels.

    Arbelaez et al. 2011 and Engelcke et al. 2020 (GENESIS, arXiv 1907.13052). The background is no object,
    but counts in the union. The unweighted mean (mSC) is `metrics.mean_best_overlap`. nan for an image
    without objects, where GENESIS' code counts 0.

    Example:
        >>> truth = torch.tensor([[[0, 1, 1, 1], [0, 2, 0, 0]]])
        >>> segmentation_covering(truth, torch.tensor([[[0, 1, 1, 1], [0, 0, 0, 0]]]))
        tensor([0.8000], dtype=torch.float64)
    """
    overlap, present = metrics.object_overlaps(true_masks, predicted_masks)
    sizes = metrics.contingency(true_masks, predicted_masks)[:, 1:].sum(dim=2)
    return (sizes * overlap.amax(dim=2) * present).sum(dim=1) / sizes.sum(dim=1)


def object_recovery(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor, threshold: float = 0.5
) -> Float[Tensor, " batch"]:
    """Object recovery, in [0, 1]: the share of objects whose best overlap with a mask is above `threshold`.

    Also called detection rate or recall; as `BestOverlapObjectRecoveryMetric` of
    amazon-science/object-centric-learning-framework, the code of Seitzer et al. 2023. nan for an image
    without objects.

    Raises:
        ValueError: `threshold` outside [0, 1).
    """
    _check_threshold(threshold)
    overlap, present = metrics.object_overlaps(true_masks, predicted_masks)
    return metrics.mean_over((overlap.amax(dim=2) > threshold).double(), present)


def correct_localization(
    true_masks: Int[Tensor, "batch height width"],
    predicted_masks: Tensor,
    threshold: float = 0.5,
    *,
    boxes: bool = True,
) -> Float[Tensor, " batch"]:
    """Whether at least one object is localised: 1 or 0 per image; the mean is CorLoc.

    Deselaers et al. 2010; for slots, Seitzer et al. 2023: any mask may match. The overlap with an object
    must be above `threshold`. Boxes contain their outermost pixels (DETR's code leaves the last row and
    column out). nan for an image without objects.

    Args:
        boxes: compare bounding boxes (the usual CorLoc); False compares masks.

    Raises:
        ValueError: `threshold` outside [0, 1).

    Example:
        >>> truth = torch.tensor([[[0, 1, 1], [0, 1, 1]]])
        >>> correct_localization(truth, torch.tensor([[[0, 1, 0], [0, 0, 1]]]))
        tensor([1.], dtype=torch.float64)
    """
    _check_threshold(threshold)
    overlap, present = metrics.object_overlaps(true_masks, predicted_masks)
    if boxes:
        true = metrics.renumbered(true_masks).clamp_min(-1)
        predicted = metrics.renumbered(metrics.label_map(predicted_masks))
        predicted = predicted.masked_fill(true_masks < 0, -1)
        overlap = box_overlaps(
            bounding_boxes(true, overlap.shape[1] + 1)[:, 1:], bounding_boxes(predicted, overlap.shape[2])
        )
    found = ((overlap > threshold) & present[:, :, None]).any(dim=2).any(dim=1)
    return found.double().masked_fill(~present.any(dim=1), torch.nan)


def bounding_boxes(
    labels: Int[Tensor, "batch height width"], num_labels: int
) -> Int[Tensor, "batch labels 4"]:
    """Boxes of labels 0 to `num_labels` - 1: first row and column, and the row and column after the last; all
    0 for an absent label.

    Example:
        >>> bounding_boxes(torch.tensor([[[0, 1, 1], [0, 0, 0]]]), 2)[0].tolist()
        [[0, 0, 2, 3], [0, 1, 1, 3]]
    """
    is_label = F.one_hot(labels.long() + 1, num_labels + 1)[..., 1:].bool().movedim(-1, 1)
    ends = []
    for axis in (3, 2):
        line = is_label.any(dim=axis).long()
        size = line.shape[2] * line.amax(dim=2)
        ends.append((line.argmax(dim=2), size - line.flip(2).argmax(dim=2)))
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=2)


def box_overlaps(
    first: Int[Tensor, "batch boxes 4"], second: Int[Tensor, "batch others 4"]
) -> Float[Tensor, "batch boxes others"]:
    """Intersection over union of every pair of boxes; 0 if both are empty."""
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (first, second)]
    low = torch.maximum(first[:, :, None, :2], second[:, None, :, :2])
    high = torch.minimum(first[:, :, None, 2:], second[:, None, :, 2:])
    common = (high - low).clamp_min(0).prod(dim=-1).double()
    union = areas[0][:, :, None] + areas[1][:, None] - common
    return common / union.clamp_min(1)


class PanopticQuality(NamedTuple):
    """Scores of each image, in [0, 1]; the first is the product of the others where these are defined."""

    quality: Float[Tensor, " batch"]
    segmentation: Float[Tensor, " batch"]
    """Mean overlap of matched segments; nan without one."""
    recognition: Float[Tensor, " batch"]
    """F1 score of matches."""


def panoptic_quality(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor, *, background: bool = True
) -> PanopticQuality:
    """Class-agnostic panoptic quality (PQ), segmentation quality (SQ) and recognition quality (RQ).

    Kirillov et al. 2019 (arXiv 1801.00868), equation 1. A true and a predicted segment match if their
    overlap is above 0.5, so that each has at most one partner; ignored pixels are left out, and predicted
    segments that lie by more than half on them are no false positives. Differences: one value per image
    (the paper adds counts over all images of a class), and no classes. nan for an image of ignored pixels.

    Args:
        background: whether the background is a true segment. Slots cover the image, so without it every
            mask of the background is a false positive.

    Example:
        >>> truth = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
        >>> panoptic_quality(truth, torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])).quality
        tensor([0.4000], dtype=torch.float64)
    """
    table = metrics.contingency(true_masks, predicted_masks)
    everywhere = metrics.contingency(torch.zeros_like(true_masks), predicted_masks)[:, 0]
    predicted = table.sum(dim=1)
    is_counted = (predicted > 0) & (everywhere - predicted <= 0.5 * everywhere)
    if not background:
        table = table[:, 1:]
    sizes = table.sum(dim=2)
    overlap = table / (sizes[:, :, None] + predicted[:, None] - table).clamp_min(1)
    matched = overlap > 0.5
    true_positives = matched.sum(dim=(1, 2)).double()
    false_negatives = (sizes > 0).sum(dim=1) - true_positives
    false_positives = (is_counted & ~matched.any(dim=1)).sum(dim=1)
    quality = (overlap * matched).sum(dim=(1, 2))
    weight = true_positives + (false_positives + false_negatives) / 2
    return PanopticQuality(quality / weight, quality / true_positives, true_positives / weight)


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` (={threshold}) must be at least 0 and below 1")

"""Boundary accuracy F (Perazzi et al. 2016, DAVIS): precision and recall of the pixels of outlines.

As `f_measure` of davisvideochallenge/davis2017-evaluation, which takes its outlines from the Berkeley
segmentation benchmark (Martin et al. 2004). No OpenCV or scikit-image is needed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy import ndimage
from torch import Tensor

from objecthood import metrics
from objecthood.nn.matching import assign

TOLERANCE = 0.008
"""Distance within which outlines match, as a share of the image's diagonal; rounded up to whole pixels."""


def boundary_f(
    true_masks: Shaped[Tensor, "frames height width"],
    predicted_masks: Shaped[Tensor, "frames height width"],
    tolerance: float = TOLERANCE,
) -> Float[Tensor, " frames"]:
    """F of predicted and true foreground, in [0, 1]; 1 if neither has an outline, 0 if only one has.

    Masks are bool or integers; values above 0 are foreground.

    Raises:
        ValueError: the shapes differ, masks are floating-point, or `tolerance` is not above 0 and below 1.

    Example:
        >>> mask = torch.zeros(1, 32, 32, dtype=torch.bool)
        >>> mask[:, 8:24, 8:24] = True
        >>> [boundary_f(mask, mask.roll(shift, dims=2)).item() > 0.99 for shift in (0, 1, 5)]
        [True, True, False]
    """
    metrics.region_similarity(true_masks, predicted_masks)  # checks shapes and types
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` (={tolerance}) must be above 0 and below 1, a share of the diagonal")
    pairs = zip((true_masks > 0).cpu().numpy(), (predicted_masks > 0).cpu().numpy(), strict=True)
    return torch.tensor([_f(true, predicted, tolerance) for true, predicted in pairs], dtype=torch.float64)


def object_boundary_f(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor, tolerance: float = TOLERANCE
) -> Float[Tensor, " batch"]:
    """Mean over objects of `boundary_f` with the mask assigned one to one by overlap (Hungarian method).

    Objects beyond the number of masks, or whose mask is empty, count 0. Predicted masks are cut at ignored
    pixels. nan for an image without objects.
    """
    overlap, present = metrics.object_overlaps(true_masks, predicted_masks)
    true = metrics.renumbered(true_masks)
    predicted = metrics.renumbered(metrics.label_map(predicted_masks)).masked_fill(true < 0, -1)
    values = torch.zeros(overlap.shape[:2], dtype=torch.float64)
    if overlap.shape[1]:
        for image, (rows, columns) in enumerate(zip(*(part.cpu() for part in assign(-overlap)), strict=True)):
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                if present[image, row]:
                    pair = true[image, None] == row + 1, predicted[image, None] == column
                    values[image, row] = boundary_f(*pair, tolerance)[0]
    return metrics.mean_over(values, present.cpu())


def outline(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels that differ from the next one to the right, below, or both ways; the frame is no outline."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _f(true: np.ndarray, predicted: np.ndarray, tolerance: float) -> float:
    reach = math.ceil(tolerance * math.hypot(*true.shape))
    edges = outline(true), outline(predicted)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    near = [ndimage.distance_transform_edt(~edge) <= reach for edge in edges]
    recall, precision = edges[0][near[1]].sum() / edges[0].sum(), edges[1][near[0]].sum() / edges[1].sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

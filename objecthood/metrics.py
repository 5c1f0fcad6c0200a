"""Metrics of masks and object properties: pure functions, float64, one value per image, clip or frame.

True masks are label maps: 0 is background, 1, 2, ... are objects, -1 is ignored. Predicted masks are label
maps of non-negative labels, soft masks [batch, slots, height, width] (argmax is taken), or one-hot bool masks
of that shape. Labels may have gaps.

Foreground ARI ignores background pixels: a model that splits the background, or whose masks extend into it,
can score 1. Report it with ARI and mean best overlap.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from objecthood.nn.matching import assign

MANY_LABELS = 256
"""Label from which labels are renumbered, to bound the contingency table."""
PROPERTY_GROUPS = {
    "size": slice(3, 5),
    "material": slice(5, 7),
    "shape": slice(7, 10),
    "color": slice(10, 18),
}
"""One-hot groups of CLEVR's 19 properties; 0 to 2 are coordinates, 18 is the real-object flag."""
IGNORED = -1
"""Label of pixels ignored by all metrics."""


def adjusted_rand_index(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor, *, ignore_background: bool
) -> Float[Tensor, " batch"]:
    """Adjusted Rand index (ARI): 1 for equal partitions, about 0 for unrelated ones, possibly negative.

    Hubert and Arabie 1985. `ignore_background=True` gives the foreground ARI of object discovery (Greff et
    al. 2019, arXiv 1903.00450): pixels whose true label is 0 are excluded.

    If both partitions are trivial (a single cluster, or all singletons) the value is 1, as in scikit-learn.
    The foreground ARI of an image with one object is thus 1 if one slot covers it and 0 otherwise; the same
    holds for the ARI of an image without objects.

    nan without a pixel to score, as the foreground ARI of an image without objects; means exclude nan. SAVi's
    code (google-research/slot-attention-video, `savi/lib/metrics.py`) counts such an image as 1.

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


def video_adjusted_rand_index(
    true_masks: Int[Tensor, "batch time height width"], predicted_masks: Tensor, *, ignore_background: bool
) -> Float[Tensor, " batch"]:
    """`adjusted_rand_index` over all pixels of a clip: an object that changes its slot counts as two.

    The foreground ARI of video object discovery (Kipf et al. 2022, arXiv 2111.12594). Predicted masks are
    labels [batch, time, height, width] or soft masks [batch, time, slots, height, width]. nan without a pixel
    to score, as the foreground ARI of a clip without objects (SAVi's code: 1).

    Neither it nor the per-frame ARI bounds the other: frames of -0.5 each can give a clip of -0.167. Large
    objects and frames with more foreground have more weight. Report it with `frame_adjusted_rand_index` and
    `id_switches`.

    Example:
        >>> truth = torch.tensor([[[[1, 2]], [[1, 2]]]])
        >>> video_adjusted_rand_index(truth, torch.tensor([[[[4, 3]], [[4, 3]]]]), ignore_background=True)
        tensor([1.], dtype=torch.float64)
    """
    labels = clip_labels(true_masks, predicted_masks)
    return adjusted_rand_index(
        true_masks.flatten(1, 2),
        labels.flatten(1, 2),
        ignore_background=ignore_background,
    )


def frame_adjusted_rand_index(
    true_masks: Int[Tensor, "batch time height width"], predicted_masks: Tensor, *, ignore_background: bool
) -> Float[Tensor, " batch"]:
    """`adjusted_rand_index` per frame, averaged over the frames of a clip where it is defined; nan if
    none."""
    labels = clip_labels(true_masks, predicted_masks)
    values = adjusted_rand_index(
        true_masks.flatten(0, 1), labels.flatten(0, 1), ignore_background=ignore_background
    )
    return values.view(true_masks.shape[:2]).nanmean(dim=1)


def id_switches(
    true_masks: Int[Tensor, "batch time height width"], predicted_masks: Tensor, *, least_overlap: float = 0.5
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Number of identity switches, and number of possible switches, per clip.

    In every frame objects and slots are assigned one to one by maximum intersection over union (Hungarian
    method); an object is found if the overlap is at least `least_overlap`. A switch is an object found by
    another slot than when it was last found (identity switches of CLEAR MOT, Bernardin and Stiefelhagen
    2008). The second value counts objects found that were found before; the ratio is the switch rate.

    Example:
        >>> truth = torch.tensor([[[[1, 2]], [[1, 2]], [[1, 2]]]])
        >>> switches, chances = id_switches(truth, torch.tensor([[[[0, 1]], [[1, 0]], [[1, 0]]]]))
        >>> switches.tolist(), chances.tolist()
        ([2.0], [4.0])
    """
    slot = found_by(true_masks, predicted_masks, least_overlap)
    last = torch.full_like(slot[:, 0], -1)
    switches, chances = (torch.zeros(len(slot), dtype=torch.float64) for _ in range(2))
    for now in slot.unbind(1):
        again = (now >= 0) & (last >= 0)
        chances += again.sum(dim=1)
        switches += (again & (now != last)).sum(dim=1)
        last = torch.where(now >= 0, now, last)
    return switches, chances


def found_by(
    true_masks: Int[Tensor, "batch time height width"], predicted_masks: Tensor, least_overlap: float = 0.5
) -> Int[Tensor, "batch time objects"]:
    """The slot assigned to each object in each frame, -1 if not found (see `id_switches`).

    Entry k of the last axis is the object with label k + 1, or, if labels reach `MANY_LABELS`, the k-th label
    above 0 that occurs; the same holds for slots.
    """
    labels = clip_labels(true_masks, predicted_masks)
    overlap, _ = object_overlaps(true_masks.flatten(0, 1), labels.flatten(0, 1))
    overlap = overlap.cpu()
    slot = torch.full(overlap.shape[:2], -1)
    if overlap.shape[1]:
        rows, columns = assign(-overlap)
        frame = torch.arange(len(overlap))[:, None]
        slot[frame, rows] = torch.where(overlap[frame, rows, columns] >= least_overlap, columns, -1)
    return slot.view(*labels.shape[:2], -1)


def region_similarity(
    true_masks: Shaped[Tensor, "frames height width"], predicted_masks: Shaped[Tensor, "frames height width"]
) -> Float[Tensor, " frames"]:
    """J: intersection over union of predicted and true foreground, 1 if both are empty.

    Masks are bool or integers; values above 0 are foreground.

    Perazzi et al. 2016, "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
    (DAVIS). For a sequence see `sequence_region_similarity`; a data set has the mean over sequences.

    Raises:
        ValueError: the shapes differ, or masks are floating-point.

    Example:
        >>> region_similarity(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    check_tensors(true_masks, predicted_masks)
    if true_masks.shape != predicted_masks.shape:
        raise ValueError(
            f"true masks {list(true_masks.shape)} and predicted masks {list(predicted_masks.shape)} must be "
            "of one shape [frames, height, width]; resize the predicted ones to the size of the true masks"
        )
    if any(masks.is_floating_point() for masks in (true_masks, predicted_masks)):
        raise ValueError(
            f"masks must be bool or whole numbers; got {true_masks.dtype} and {predicted_masks.dtype}. Apply "
            "a threshold first, e.g. masks > 0.5"
        )
    true_masks, predicted_masks = true_masks > 0, predicted_masks > 0
    both, either = true_masks & predicted_masks, true_masks | predicted_masks
    common, union = both.sum(dim=(1, 2)).double(), either.sum(dim=(1, 2)).double()
    return torch.where(union > 0, common / union.clamp_min(1), 1.0)


def sequence_region_similarity(
    true_masks: Shaped[Tensor, "frames height width"],
    predicted_masks: Shaped[Tensor, "frames height width"],
    *,
    skip_ends: bool,
) -> float:
    """J of a sequence, in [0, 1]: the mean of `region_similarity` over its frames.

    Args:
        skip_ends: exclude the first and the last frame, as the toolkit of DAVIS-2016
            (github.com/fperazzi/davis, `python/lib/davis/dataset/loader.py`) does, for comparison with
            published results.

    Raises:
        ValueError: the shapes differ, or no frame is left.

    Example:
        >>> true = torch.tensor([[[True, True]]] * 3)
        >>> predicted = torch.tensor([[[True, True]], [[True, False]], [[True, True]]])
        >>> [round(sequence_region_similarity(true, predicted, skip_ends=skip), 3) for skip in (False, True)]
        [0.833, 0.5]
    """
    values = region_similarity(true_masks, predicted_masks)
    scored = values[1:-1] if skip_ends else values
    if not len(scored):
        needed = "3 frames with `skip_ends`" if skip_ends else "1 frame"
        raise ValueError(f"masks of {len(values)} frames have no J; give at least {needed}")
    return scored.mean().item()


def clip_labels(true_masks: Tensor, masks: Tensor) -> Int[Tensor, "batch time height width"]:
    """Label maps of clips unchanged; soft masks [batch, time, slots, height, width] as argmax over slots.

    Raises ValueError if these or `true_masks` are no tensors, or not of clips.
    """
    check_tensors(true_masks, masks)
    if true_masks.ndim != 4 or masks.ndim not in (4, 5) or true_masks.shape[:2] != masks.shape[:2]:
        raise ValueError(
            f"true masks {list(true_masks.shape)} must be labels [batch, time, height, width], and predicted "
            f"masks {list(masks.shape)} labels of that shape or soft masks [batch, time, slots, height, "
            "width]"
        )
    return largest(masks, dim=2) if masks.ndim == 5 else masks


def mean_best_overlap(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """Mean best overlap (mBO): mean over objects of the largest intersection over union with a predicted
    mask.

    Pont-Tuset et al. 2017, as used since Seitzer et al. 2023 (arXiv 2209.14860). The background is no object,
    but counts in the union. Several objects may use the same mask. nan for an image without objects.

    Example:
        >>> truth = torch.tensor([[[0, 1, 1], [0, 2, 2]]])
        >>> mean_best_overlap(truth, torch.tensor([[[0, 1, 1], [0, 1, 1]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    overlap, present = object_overlaps(true_masks, predicted_masks)
    return mean_over(overlap.amax(dim=2), present)


def video_mean_best_overlap(
    true_masks: Int[Tensor, "batch time height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """`mean_best_overlap` over all pixels of a clip: a slot that changes its object loses.

    Overlaps of tubes, as in Seitzer et al. 2023 and Zadaianchuk et al. 2023 (VideoSAUR, arXiv 2306.04829).
    Predicted masks are labels [batch, time, height, width] or soft masks [batch, time, slots, height,
    width]. nan for a clip without objects.

    Example:
        >>> truth = torch.tensor([[[[1, 2]], [[1, 2]]]])
        >>> video_mean_best_overlap(truth, torch.tensor([[[[4, 3]], [[3, 4]]]])).round(decimals=4)
        tensor([0.3333], dtype=torch.float64)
    """
    labels = clip_labels(true_masks, predicted_masks)
    return mean_best_overlap(true_masks.flatten(1, 2), labels.flatten(1, 2))


def mean_iou(
    true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor
) -> Float[Tensor, " batch"]:
    """Mean over objects of the intersection over union with the mask assigned one to one (Hungarian method).

    Objects beyond the number of masks count 0. The background is no object. nan for an image without objects.
    """
    overlap, present = object_overlaps(true_masks, predicted_masks)
    if overlap.shape[1] == 0:
        return mean_over(overlap.sum(dim=2), present)
    rows, columns = assign(-overlap)
    matched = torch.zeros_like(overlap[:, :, 0])
    batch = torch.arange(len(overlap), device=overlap.device)[:, None]
    matched[batch, rows] = overlap[batch, rows, columns]
    return mean_over(matched, present)


def discovery_scores(true_masks: Tensor, predicted_masks: Tensor) -> dict[str, Float[Tensor, " batch"]]:
    """FG-ARI, ARI, mBO and mIoU of images, as papers on generated scenes report them (nan where undefined).

    Arguments as of `adjusted_rand_index`.
    """
    return {
        "fg_ari": adjusted_rand_index(true_masks, predicted_masks, ignore_background=True),
        "ari": adjusted_rand_index(true_masks, predicted_masks, ignore_background=False),
        "mbo": mean_best_overlap(true_masks, predicted_masks),
        "miou": mean_iou(true_masks, predicted_masks),
    }


def dinosaur_scores(
    true_masks: Tensor, predicted_masks: Tensor, classes: Tensor | None = None
) -> dict[str, Float[Tensor, " batch"]]:
    """FG-ARI and mBO of photographs over instances, and over classes where their masks are given, as DINOSAUR
    scores them (Seitzer et al. 2023, arXiv 2209.14860). Pixels of label -1 (crowds, overlaps) do not count.
    """
    scores = {
        "fg_ari": adjusted_rand_index(true_masks, predicted_masks, ignore_background=True),
        "mbo_i": mean_best_overlap(true_masks, predicted_masks),
    }
    if classes is not None:
        scores["mbo_c"] = mean_best_overlap(classes, predicted_masks)
    return scores


def average_precision(
    predicted: Float[Tensor, "images slots 19"],
    target: Float[Tensor, "images objects 19"],
    *,
    distance_threshold: float = math.inf,
) -> float:
    """Area under the precision-recall curve of predicted CLEVR objects, over all images together.

    Predictions are ranked by the real-object flag, descending. A prediction is correct if, among the real
    objects of its image with equal size, material, shape and colour (argmax of each group), the nearest is
    closer than `distance_threshold` (in CLEVR's units: coordinates span 6) and was not found before.
    Precision is made monotone before summation. Zhang et al. 2019 (arXiv 1906.06565), as in Locatello et al.
    2020, appendix F.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> objects = torch.zeros(1, 2, 19)
        >>> objects[0, 0, [3, 5, 7, 10, 18]] = 1.0
        >>> average_precision(objects, objects)
        1.0
    """
    if predicted.ndim != 3 or len(predicted) != len(target) or {predicted.shape[2], target.shape[2]} != {19}:
        raise ValueError(
            f"predicted {list(predicted.shape)} and target {list(target.shape)} must be [images, slots, 19] "
            "and [images, objects, 19]"
        )
    is_real = target[:, :, 18] > 0.5
    agree = is_real[:, None] & torch.ones(len(target), predicted.shape[1], 1, dtype=torch.bool)
    for group in PROPERTY_GROUPS.values():
        chosen = predicted[:, :, group].argmax(dim=-1), target[:, :, group].argmax(dim=-1)
        agree = agree & (chosen[0][:, :, None] == chosen[1][:, None])
    distance = 6 * (predicted[:, :, None, :3].double() - target[:, None, :, :3].double()).norm(dim=-1)
    nearest, which = distance.masked_fill(~agree, math.inf).min(dim=2)
    near_enough = agree.any(dim=2) & (nearest < distance_threshold if distance_threshold < math.inf else True)

    # NumPy's ascending order, reversed, as in the reference. The order of equal flags depends on the
    # processor, and affects the fourth decimal of the score.
    order = torch.from_numpy(np.argsort(predicted[:, :, 18].flatten().numpy())[::-1].copy())
    object_id = (torch.arange(len(target))[:, None] * target.shape[1] + which).flatten()[order]
    candidate = near_enough.flatten()[order]
    _, first = np.unique(object_id[candidate].numpy(), return_index=True)
    correct = torch.zeros(len(order), dtype=torch.float64)
    correct[candidate.nonzero().squeeze(1)[first]] = 1.0
    precision = correct.cumsum(0) / torch.arange(1, len(order) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float((envelope * correct).sum() / is_real.sum())


def contingency(true_masks: Tensor, predicted_masks: Tensor) -> Float[Tensor, "batch true predicted"]:
    """Number of pixels of each pair of true and predicted label (`renumbered`), without ignored pixels."""
    check_kinds(true_masks, predicted_masks)
    predicted = label_map(predicted_masks)
    if true_masks.ndim != 3 or true_masks.shape != predicted.shape:
        raise ValueError(
            f"true masks {list(true_masks.shape)} must be labels [batch, height, width], and predicted masks "
            f"{list(predicted_masks.shape)} labels of that shape or soft masks [batch, slots, height, "
            "width]. Resize soft masks to the size of the true masks first (torch.nn.functional.interpolate)"
        )
    true = true_masks.long().flatten(1)
    predicted = predicted.long().flatten(1)
    if predicted.numel() and predicted.min() < 0:
        raise ValueError(f"predicted labels must be 0 or more; got {int(predicted.min())}")
    true, predicted = renumbered(true), renumbered(predicted)
    num_true, num_predicted = (int(labels.max()) + 1 if labels.numel() else 1 for labels in (true, predicted))
    num_true = max(num_true, 1)
    cell = true * num_predicted + predicted
    table = torch.zeros(len(true), num_true * num_predicted, dtype=torch.float64, device=true.device)
    table.scatter_add_(1, cell.clamp_min(0), (true > IGNORED).double())
    return table.view(len(true), num_true, num_predicted)


def check_kinds(true_masks: Tensor, predicted_masks: Tensor) -> None:
    """Raise ValueError if masks are no tensors, or labels are not integers."""
    both = (true_masks, predicted_masks)
    check_tensors(*both)
    if any(masks.ndim == 3 and masks.is_floating_point() for masks in both):
        kinds = " and ".join(str(masks.dtype) for masks in both)
        raise ValueError(f"labels must be whole numbers; got {kinds}. Round them, or give soft masks 4 axes")


def check_tensors(*both: object) -> None:
    """Raise ValueError if masks are no tensors."""
    if not all(isinstance(masks, Tensor) for masks in both):
        kinds = " and ".join(type(masks).__name__ for masks in both)
        raise ValueError(f"masks must be tensors; got {kinds}. Convert arrays with torch.as_tensor")


def label_map(masks: Tensor) -> Int[Tensor, "batch height width"]:
    """Label maps unchanged; soft masks [batch, slots, height, width] as argmax over slots."""
    return largest(masks, dim=1) if masks.ndim == 4 else masks


def largest(masks: Tensor, dim: int) -> Tensor:
    """The index of the largest soft mask along `dim`, or of the one bool mask that is True.

    Raises:
        ValueError: bool masks are not one-hot, or soft masks contain nan.
    """
    if masks.isnan().any():
        raise ValueError("soft masks contain nan; find the step that produced them")
    if masks.dtype != torch.bool:
        return masks.argmax(dim=dim)
    counts = masks.sum(dim=dim)
    if (counts != 1).any():
        raise ValueError(
            "bool masks must be one-hot: exactly one slot True at each pixel; got pixels with "
            f"{int(counts[counts != 1][0])}. Give label maps, or add a slot for the remaining pixels"
        )
    return masks.to(torch.uint8).argmax(dim=dim)


def renumbered(labels: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Labels above 0 renumbered to 1, 2, ... in order if one is `MANY_LABELS` or more; others unchanged.

    Example:
        >>> renumbered(torch.tensor([-1, 0, 5_000_000, 7])).tolist()
        [-1, 0, 2, 1]
    """
    if not labels.numel() or labels.max() < MANY_LABELS:
        return labels
    present = labels[labels > 0].unique()
    return torch.where(labels > 0, torch.searchsorted(present, labels) + 1, labels)


def object_overlaps(
    true_masks: Tensor, predicted_masks: Tensor
) -> tuple[Float[Tensor, "batch objects predicted"], Tensor]:
    """Intersection over union of every object with every predicted mask, and the objects present [batch,
    objects]."""
    table = contingency(true_masks, predicted_masks)
    objects = table[:, 1:]
    sizes = objects.sum(dim=2)
    union = sizes[:, :, None] + table.sum(dim=1)[:, None] - objects
    return objects / union.clamp_min(1), sizes > 0


def mean_over(values: Float[Tensor, "batch objects"], present: Tensor) -> Float[Tensor, " batch"]:
    """Mean over the present values of each row; nan if there are none."""
    return (values * present).sum(dim=1) / present.sum(dim=1)


def pairs(counts: Tensor) -> Tensor:
    """Number of ordered pairs of distinct members in groups of these sizes."""
    return counts * (counts - 1)

"""Failure modes of masks: pure functions, one value per image.

Scores such as ARI do not distinguish failures with different remedies: slots are identical, one slot covers
the image, objects share a slot, an object or the background is split, an object is in the background's slot.
Definitions and thresholds are ours; docs/when-slots-fail.md has an example of each.

True masks are label maps (0 background, 1, 2, ... objects, -1 ignored); predicted masks are label maps or
soft masks [batch, slots, height, width], as in `metrics`. The *main slot* of an object has most of its
pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objecthood.metrics import contingency, label_map, renumbered

LEAST_AREA = 0.005
"""Minimum share of the image of a used slot: 20 pixels of 64 x 64."""
WHOLE = 0.8
"""Share of an object's pixels in its main slot below which the object counts as split."""
BACKGROUND_PIECE = 0.05
"""Minimum share of the background of a background slot."""


class Signs(NamedTuple):
    """Number of objects of each image with each failure; an object may have several."""

    objects: Int[Tensor, " batch"]
    """Objects present."""
    shared: Int[Tensor, " batch"]
    """Objects that share their main slot with another object; the background's slot is excluded."""
    split: Int[Tensor, " batch"]
    """Objects with less than 80 % of their pixels in one slot."""
    in_background: Int[Tensor, " batch"]
    """Objects whose main slot is the one with most of the background."""
    background_slots: Int[Tensor, " batch"]
    """Slots with at least 5 % of the background: 1 if it is whole, 0 if there is none."""

    @property
    def trouble(self) -> Int[Tensor, " batch"]:
        """Number of failures over objects, plus surplus background slots."""
        return self.shared + self.split + self.in_background + (self.background_slots - 1).clamp_min(0)


def attention_entropy(attention: Float[Tensor, "batch slots *inputs"]) -> Float[Tensor, " batch"]:
    """Normalised entropy of attention over slots: 0 if every input belongs to one slot, 1 if it is uniform.

    In units of log(slots), averaged over inputs; 0 with one slot.

    >>> attention_entropy(torch.full((1, 4, 2, 2), 0.25))
    tensor([1.], dtype=torch.float64)
    """
    share = attention.flatten(2).double()
    if share.shape[1] == 1:
        return torch.zeros_like(share[:, 0, 0])
    return torch.special.entr(share).sum(dim=1).mean(dim=1) / math.log(share.shape[1])


def used_slots(predicted_masks: Tensor, least_area: float = LEAST_AREA) -> Int[Tensor, " batch"]:
    """Number of slots whose mask is largest on at least `least_area` of the image (a share in [0, 1]).

    >>> used_slots(torch.tensor([[[0, 0, 1], [0, 0, 2]]]), least_area=0.1)
    tensor([3])
    """
    labels = renumbered(label_map(predicted_masks).long().flatten(1))
    area = torch.zeros(len(labels), int(labels.max()) + 1, device=labels.device)
    area.scatter_add_(1, labels, torch.ones_like(labels, dtype=area.dtype))
    return (area >= max(1.0, least_area * labels.shape[1])).sum(dim=1)


def signs(true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor) -> Signs:
    """Failures of every image: objects shared, split or in the background's slot, and background slots.

    Raises:
        ValueError: the shapes do not match.

    >>> truth = torch.tensor([[[0, 1, 1], [0, 2, 2]]])
    >>> found = signs(truth, torch.tensor([[[0, 1, 1], [0, 1, 1]]]))      # both objects in slot 1
    >>> found.shared.item(), found.split.item(), found.background_slots.item()
    (2, 0, 1)
    """
    table = contingency(true_masks, predicted_masks)
    background, objects = table[:, 0], table[:, 1:]
    sizes = objects.sum(dim=2)
    present = sizes > 0
    largest, main_slot = objects.max(dim=2)
    in_background = present & (main_slot == background.argmax(dim=1)[:, None])
    in_background &= background.sum(dim=1, keepdim=True) > 0
    split = present & (largest < WHOLE * sizes)
    needed = (BACKGROUND_PIECE * background.sum(dim=1, keepdim=True)).clamp_min(1)
    counts = (
        present,
        shares_main_slot(main_slot, present & ~in_background),
        split,
        in_background,
        background >= needed,
    )
    return Signs(*(count.sum(dim=1) for count in counts))


def shares_main_slot(
    main_slot: Int[Tensor, "batch objects"], counts: Bool[Tensor, "batch objects"]
) -> Bool[Tensor, "batch objects"]:
    """Objects, among those that count, that share their main slot with another."""
    same = (main_slot[:, :, None] == main_slot[:, None]) & counts[:, :, None] & counts[:, None]
    return same.sum(dim=2) >= 2


def summarize(
    found: Signs | None, entropy: Float[Tensor, " images"], used: Int[Tensor, " images"], num_slots: int
) -> dict[str, float]:
    """Failures of a data set: means over images, and shares of objects and of images.

    `found` is None for images without true masks; the values that need them are then missing.
    """
    summary = {
        "num_slots": float(num_slots),
        "attention_entropy": entropy.double().mean().item(),
        "used_slots": used.double().mean().item(),
    }
    if found is None:
        return summary
    objects = found.objects.sum().clamp_min(1).double()
    with_background = (found.background_slots > 0).sum().clamp_min(1)
    return summary | {
        "objects": found.objects.double().mean().item(),
        "shared_objects": (found.shared.sum() / objects).item(),
        "split_objects": (found.split.sum() / objects).item(),
        "objects_in_background": (found.in_background.sum() / objects).item(),
        "background_slots": found.background_slots.double().mean().item(),
        "background_split": ((found.background_slots > 1).sum() / with_background).item(),
    }


class Finding(NamedTuple):
    """A notable failure in words, and the documentation page with remedies."""

    text: str
    page: str


PAGE = "docs/when-slots-fail.md"
NOTABLE = 0.1
"""Share of objects above which a failure is reported."""
NOTABLE_BACKGROUND = 0.3
"""Share of images with a split background above which it is reported."""
IN_USE = 0.6
"""Share of the slots needed (one per object and the background) below which too few are used."""
NOT_CONVERGED = 1.5
"""Ratio of the errors after consecutive iterations above which slots do not converge."""
UNDECIDED = 0.5
"""Entropy above which attention is reported; it is below 0.25 in successful runs."""


def findings(summary: dict[str, float]) -> list[Finding]:
    """Notable failures of a summary, most severe first. Thresholds are heuristic.

    >>> summary = {"num_slots": 6.0, "attention_entropy": 0.97, "used_slots": 1.0}
    >>> [finding.page for finding in findings(summary)]
    ['docs/when-slots-fail.md#slots-stay-alike', 'docs/when-slots-fail.md#one-slot-takes-everything']
    """
    slots, need = summary["num_slots"], summary.get("objects", 0.0) + 1
    share = {name: f"{100 * value:.0f} % of" for name, value in summary.items()}
    found = []
    if summary["attention_entropy"] > UNDECIDED:
        text = (
            f"slots stay alike: attention is nearly uniform (entropy {summary['attention_entropy']:.2f} of 1)"
        )
        found.append(Finding(text, f"{PAGE}#slots-stay-alike"))
    if summary["used_slots"] < IN_USE * min(need if "objects" in summary else 2.0, slots):
        text = f"only {summary['used_slots']:.1f} of {slots:.0f} slots are used"
        found.append(Finding(text, f"{PAGE}#one-slot-takes-everything"))
    if slots < need:
        text = f"{slots:.0f} slots for {need - 1:.1f} objects on average and a background"
        found.append(Finding(text, "docs/how-many-slots.md"))
    if summary.get("error_ratio", 1.0) > NOT_CONVERGED:
        ratio = summary["error_ratio"]
        text = f"slots do not converge: one more iteration changes the error {ratio:.1f} times"
        found.append(Finding(text, f"{PAGE}#slots-do-not-converge"))
    for name, threshold, words, anchor in _SHARES:
        if summary.get(name, 0.0) > threshold:
            found.append(Finding(f"{share[name]} {words}", f"{PAGE}#{anchor}"))
    return found


_SHARES = (
    (
        "background_split",
        NOTABLE_BACKGROUND,
        "images have a split background",
        "the-background-in-pieces",
    ),
    ("shared_objects", NOTABLE, "objects share a slot with another", "objects-share-a-slot"),
    ("split_objects", NOTABLE, "objects are split", "an-object-in-pieces"),
    ("objects_in_background", NOTABLE, "objects are in the background's slot", "objects-in-the-background"),
)

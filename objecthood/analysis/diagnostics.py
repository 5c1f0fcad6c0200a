"""What is wrong with masks: signs that one score hides. Pure functions, one value per image.

Scores such as ARI say that something went wrong, not what. Slots fail in a few ways that call for different
remedies: they stay alike, one takes everything, objects share one, an object or the background falls into
pieces, an object is painted by the background's slot. Each sign here counts one of these. The definitions and
thresholds are ours; docs/when-slots-fail.md shows each on a run that failed.

True masks are label maps (0 background, 1, 2, ... objects, -1 ignored); predicted masks are label maps or
soft masks [batch, slots, height, width], as in `metrics`. An object's *home* is the slot with most of its
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
"""Share of the image from which a slot counts as used: 20 pixels of 64 x 64."""
WHOLE = 0.8
"""Share of an object's pixels that its home must hold, or the object counts as split."""
BACKGROUND_PIECE = 0.05
"""Share of the background from which a slot counts among those that hold it."""


class Signs(NamedTuple):
    """How many objects of each image are in trouble, and in which; an object may be split and shared."""

    objects: Int[Tensor, " batch"]
    """Objects present."""
    shared: Int[Tensor, " batch"]
    """Objects that have their home in common with another one, that home not being the background's."""
    split: Int[Tensor, " batch"]
    """Objects of which no slot holds 80 %."""
    in_background: Int[Tensor, " batch"]
    """Objects whose home is the slot that holds most of the background."""
    background_slots: Int[Tensor, " batch"]
    """Slots that hold at least 5 % of the background; 1 is a whole background, 0 none there."""

    @property
    def trouble(self) -> Int[Tensor, " batch"]:
        """Objects in trouble (one counts for each kind), and surplus slots on the background."""
        return self.shared + self.split + self.in_background + (self.background_slots - 1).clamp_min(0)


def attention_entropy(attention: Float[Tensor, "batch slots *inputs"]) -> Float[Tensor, " batch"]:
    """How undecided slots are: 0 where every place belongs to one slot, 1 where all share all of it alike.

    Entropy over slots of the softmax over slots, in units of log(slots), mean over places; 0 with one slot.

    >>> attention_entropy(torch.full((1, 4, 2, 2), 0.25))
    tensor([1.], dtype=torch.float64)
    """
    share = attention.flatten(2).double()
    if share.shape[1] == 1:
        return torch.zeros_like(share[:, 0, 0])
    return torch.special.entr(share).sum(dim=1).mean(dim=1) / math.log(share.shape[1])


def used_slots(predicted_masks: Tensor, least_area: float = LEAST_AREA) -> Int[Tensor, " batch"]:
    """Number of slots that are strongest on at least `least_area` of the image (a share in [0, 1]).

    >>> used_slots(torch.tensor([[[0, 0, 1], [0, 0, 2]]]), least_area=0.1)
    tensor([3])
    """
    labels = renumbered(label_map(predicted_masks).long().flatten(1))
    area = torch.zeros(len(labels), int(labels.max()) + 1, device=labels.device)
    area.scatter_add_(1, labels, torch.ones_like(labels, dtype=area.dtype))
    return (area >= max(1.0, least_area * labels.shape[1])).sum(dim=1)


def signs(true_masks: Int[Tensor, "batch height width"], predicted_masks: Tensor) -> Signs:
    """Objects shared, split and in the background's slot, and pieces of the background, of every image.

    Raises ValueError where the masks do not fit each other.

    >>> truth = torch.tensor([[[0, 1, 1], [0, 2, 2]]])
    >>> found = signs(truth, torch.tensor([[[0, 1, 1], [0, 1, 1]]]))      # both objects in slot 1
    >>> found.shared.item(), found.split.item(), found.background_slots.item()
    (2, 0, 1)
    """
    table = contingency(true_masks, predicted_masks)
    background, objects = table[:, 0], table[:, 1:]
    sizes = objects.sum(dim=2)
    present = sizes > 0
    largest, home = objects.max(dim=2)
    in_background = present & (home == background.argmax(dim=1)[:, None])
    in_background &= background.sum(dim=1, keepdim=True) > 0
    split = present & (largest < WHOLE * sizes)
    needed = (BACKGROUND_PIECE * background.sum(dim=1, keepdim=True)).clamp_min(1)
    counts = (
        present,
        shared_homes(home, present & ~in_background),
        split,
        in_background,
        background >= needed,
    )
    return Signs(*(count.sum(dim=1) for count in counts))


def shared_homes(
    home: Int[Tensor, "batch objects"], counts: Bool[Tensor, "batch objects"]
) -> Bool[Tensor, "batch objects"]:
    """Which of the objects that count have their home in common with another that counts."""
    same = (home[:, :, None] == home[:, None]) & counts[:, :, None] & counts[:, None]
    return same.sum(dim=2) >= 2


def summarize(
    found: Signs | None, entropy: Float[Tensor, " images"], used: Int[Tensor, " images"], num_slots: int
) -> dict[str, float]:
    """Signs of a whole run: means over images, shares of all objects, and of images.

    `found` is None where the images have no true masks; what needs them is then left out.
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
    """What stands out, in a sentence, and where the documentation says what to do about it."""

    text: str
    page: str


PAGE = "docs/when-slots-fail.md"
NOTABLE = 0.1
"""Share of objects in one kind of trouble from which it is named."""
NOTABLE_BACKGROUND = 0.3
"""Share of images with a divided background from which it is named."""
IN_USE = 0.6
"""Share of the slots needed (an object each and the background) below which too few are used."""
SWINGING = 1.5
"""From which on the error of one iteration more is another one: slots do not stand still."""
UNDECIDED = 0.5
"""Entropy from which slots count as undecided; runs that ended well here lie below 0.25."""


def findings(summary: dict[str, float]) -> list[Finding]:
    """What stands out in a summary, gravest first; empty where nothing does. Thresholds are judgement.

    >>> summary = {"num_slots": 6.0, "attention_entropy": 0.97, "used_slots": 1.0}
    >>> [finding.page for finding in findings(summary)]
    ['docs/when-slots-fail.md#slots-stay-alike', 'docs/when-slots-fail.md#one-slot-takes-everything']
    """
    slots, need = summary["num_slots"], summary.get("objects", 0.0) + 1
    share = {name: f"{100 * value:.0f} % of" for name, value in summary.items()}
    found = []
    if summary["attention_entropy"] > UNDECIDED:
        text = f"slots stay alike: attention is undecided (entropy {summary['attention_entropy']:.2f} of 1)"
        found.append(Finding(text, f"{PAGE}#slots-stay-alike"))
    if summary["used_slots"] < IN_USE * min(need if "objects" in summary else 2.0, slots):
        text = f"only {summary['used_slots']:.1f} of {slots:.0f} slots are used"
        found.append(Finding(text, f"{PAGE}#one-slot-takes-everything"))
    if slots < need:
        text = f"{slots:.0f} slots for {need - 1:.1f} objects and a background, in the mean"
        found.append(Finding(text, "docs/how-many-slots.md"))
    if summary.get("swing", 1.0) > SWINGING:
        text = (
            f"slots swing: after one iteration more the error is another one ({summary['swing']:.1f} times)"
        )
        found.append(Finding(text, f"{PAGE}#slots-swing"))
    for name, least, words, anchor in _SHARES:
        if summary.get(name, 0.0) > least:
            found.append(Finding(f"{share[name]} {words}", f"{PAGE}#{anchor}"))
    return found


_SHARES = (
    (
        "background_split",
        NOTABLE_BACKGROUND,
        "images have a divided background",
        "the-background-in-pieces",
    ),
    ("shared_objects", NOTABLE, "objects share a slot with another", "objects-share-a-slot"),
    ("split_objects", NOTABLE, "objects are in pieces", "an-object-in-pieces"),
    ("objects_in_background", NOTABLE, "objects lie in the background's slot", "objects-in-the-background"),
)

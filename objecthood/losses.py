"""What training minimises: pure functions of model outputs and targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objecthood.nn.matching import assign


def reconstruction_error(
    reconstruction: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    view: Callable[..., Tensor] = lambda image, reference=None: 2 * image - 1,
) -> Float[Tensor, ""]:
    """Mean squared error over pixels, channels and batch, in the paper's units: pictures in [-1, 1].

    Both arguments are in [0, 1] units; `view` says in what they are compared, given the picture (see
    `nn.color_transforms`). Locatello et al. 2020 (arXiv 2006.15055), section 3.1.
    """
    return (view(reconstruction, images) - view(images)).square().mean()


def set_error(
    predicted: Float[Tensor, "batch slots properties"], target: Float[Tensor, "batch objects properties"]
) -> Float[Tensor, ""]:
    """Huber cost of predicted and target sets, matched one to one where the sum is least; mean over batch.

    The cost of a pair is the Huber loss (threshold 1) averaged over properties; costs of matched pairs are
    summed. Targets are padded with objects whose properties are all 0, which a slot that stands for nothing
    must predict. Locatello et al. 2020 (arXiv 2006.15055), section 3.2.
    """
    each, other = torch.broadcast_tensors(predicted[:, :, None], target[:, None])
    cost = F.huber_loss(each, other, reduction="none").mean(dim=-1)
    rows, columns = assign(cost)
    batch = torch.arange(len(cost), device=cost.device)[:, None]
    return cost[batch, rows, columns].sum(dim=1).mean()


def set_contrast(
    predicted: Float[Tensor, "frames slots dim"],
    found: Float[Tensor, "frames slots dim"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """How well each predicted set tells the set that was found from those of other frames, as cross entropy.

    The mean over its slots stands for a set, whatever their order; logits are cosines over `temperature`,
    every other frame is a negative, so that a guess costs log(frames). Löwe et al. 2020 (arXiv 2011.10287).
    """
    logits = _cosines(predicted.mean(dim=1), found.mean(dim=1)) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def nearest_contrast(
    predicted: Float[Tensor, "frames slots dim"],
    found: Float[Tensor, "frames slots dim"],
    temperature: float = 0.03,
) -> Float[Tensor, ""]:
    """The same with another likeness of sets: the mean cosine of each vector with that of the other set most
    like it, both ways.

    Mixed slots, like nothing in particular, cost more than in the mean of a set. The likeness of late
    interaction (Khattab and Zaharia 2020, ColBERT, arXiv 2004.12832), both ways as in Chamfer's distance.
    """
    cosines = _cosines(predicted[:, None], found[None])
    likeness = (cosines.amax(dim=-1).mean(dim=-1) + cosines.amax(dim=-2).mean(dim=-1)) / 2
    return F.cross_entropy(likeness / temperature, torch.arange(len(likeness), device=likeness.device))


def single_slot_contrast(
    predicted: Float[Tensor, "frames slots dim"],
    found: Float[Tensor, "frames slots dim"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """`set_contrast` of each slot alone: slot k of other frames are the negatives of slot k; mean over slots.

    The pairs of C-SWM (Kipf et al. 2020, arXiv 1911.12247), with the softmax of `set_contrast` in place of
    its hinge, so that only what is contrasted differs. It is as low where all slots say the same of a frame
    as where each says something else. The order of slots does not matter if it is that of both arguments.
    """
    logits = _cosines(predicted.transpose(0, 1), found.transpose(0, 1)) / temperature
    right = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), right.flatten())


def slot_slot_contrast(
    slots: Float[Tensor, "batch time slots dim"],
    temperature: float = 0.1,
    holds: Bool[Tensor, "batch time slots"] | None = None,
) -> Float[Tensor, ""]:
    """How well each slot of a frame identifies itself among the slots of all clips one frame earlier.

    For slot j of frame t + 1, a softmax over the slots i of frame t of every clip, its own included, with
    cosine(i, j) / `temperature` as logits; the cost is the cross entropy with i = j. It is the mean over
    slots, clips and the time - 1 pairs of adjacent frames. All other slots of the earlier frame, of the same
    clip and of other clips, are negatives; slots of other frames are not. The gradient reaches both frames.
    Guessing costs log(clips * slots), and so do identical slots, which therefore cannot
    be the optimum.

    Manasyan et al. 2025, "Temporally Consistent Object-Centric Learning by Contrasting Slots" (SlotContrast,
    arXiv 2412.14295), equation 4, in the direction of the released code (martius-lab/slotcontrast,
    `Slot_Slot_Contrastive_Loss` with `batch_contrast`, temperature 0.1). The softmax over the slots of the
    later frame is another loss; the two are equal on a clip and its time reversal, not on one clip.

    Args:
        slots: of at least 2 frames.
        temperature: above 0.
        holds: our addition, not in the paper: which slots hold an object or a part. Of a pair of frames only
            slots that hold something in both count in the mean, and only slots that hold something in the
            earlier frame are candidates. 0 where no slot counts. Without it, the loss is SlotContrast's.

    Raises:
        ValueError: fewer than 2 frames.
    """
    if slots.shape[1] < 2:
        raise ValueError(f"`slots` (time {slots.shape[1]}) must have at least 2 frames to contrast")
    each = slots.transpose(0, 1).flatten(1, 2)
    logits = _cosines(each[1:], each[:-1]) / temperature  # [pair, later slot, earlier slot]
    itself = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:2])
    if holds is None:
        return F.cross_entropy(logits.flatten(0, 1), itself.flatten())
    held = holds.transpose(0, 1).flatten(1, 2)
    counted = held[:-1] & held[1:]
    diagonal = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    # A slot that is not counted keeps itself as candidate, so that its (ignored) cost is finite.
    logits = logits.masked_fill(~(held[:-1, None] | diagonal), -torch.inf)
    costs = F.cross_entropy(logits.flatten(0, 1), itself.flatten(), reduction="none")
    return (costs * counted.flatten()).sum() / counted.sum().clamp_min(1)


def attention_distillation(
    attention: Float[Tensor, "batch slots patches"], masks: Float[Tensor, "batch segments patches"]
) -> Float[Tensor, ""]:
    """How far slots' attention is from the masks of a teacher, matched one to one: cross entropy per patch.

    Both are made hard (each patch to its largest) and matched where the sum of their intersections over
    unions is largest; the cost is the mean over patches of -log of the attention of the slot that is matched
    to the patch's segment. Patches of segments without a partner, and of none (all masks 0), do not count.

    Kakogeorgiou et al. 2024, "SPOT" (arXiv 2312.00648), section 3.2. Of the teacher no gradient is taken.
    """
    owner = masks.argmax(dim=1)
    theirs = F.one_hot(owner, masks.shape[1]).transpose(1, 2).float() * (masks.amax(dim=1) > 0)[:, None]
    ours = F.one_hot(attention.argmax(dim=1), attention.shape[1]).transpose(1, 2).float()
    shared = ours @ theirs.transpose(1, 2)
    union = ours.sum(dim=-1)[:, :, None] + theirs.sum(dim=-1)[:, None] - shared
    slots, segments = assign(-shared / union.clamp_min(1))
    batch = torch.arange(len(masks), device=masks.device)[:, None]
    counted = theirs[batch, segments]
    cost = -(attention[batch, slots].clamp_min(1e-8).log() * counted).sum()
    return cost / counted.sum().clamp_min(1)


def _cosines(
    ours: Float[Tensor, "*#batch rows dim"], theirs: Float[Tensor, "*#batch columns dim"]
) -> Float[Tensor, "*#batch rows columns"]:
    """Cosine of every row with every row of the other, in no less than 32 bits."""
    with torch.autocast(ours.device.type, enabled=False):
        wide = (rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (ours, theirs))
        one, other = (F.normalize(rows, dim=-1) for rows in wide)
        return one @ other.transpose(-1, -2)

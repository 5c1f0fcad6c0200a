"""Training losses: pure functions of model outputs and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objecthood.nn.matching import assign
from objecthood.runtime import renamed


def reconstruction_error(
    reconstruction: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    view: Callable[..., Tensor] = lambda image, reference=None: 2 * image - 1,
) -> Float[Tensor, ""]:
    """Mean squared error over pixels, channels and batch, in the paper's units: images in [-1, 1].

    Both arguments are in [0, 1] units and are compared after the input transform `view` (see
    `nn.color_transforms`). Locatello et al. 2020 (arXiv 2006.15055), section 3.1.
    """
    return (view(reconstruction, images) - view(images)).square().mean()


def matching_loss(
    predicted: Float[Tensor, "batch slots properties"], target: Float[Tensor, "batch objects properties"]
) -> Float[Tensor, ""]:
    """Hungarian matching loss of predicted and target sets: summed over matched pairs, mean over batch.

    The cost of a pair is the Huber loss (threshold 1) averaged over properties. Targets are padded with
    objects whose properties are all 0, which slots without an object must predict. Locatello et al. 2020
    (arXiv 2006.15055), section 3.2.
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
    """Contrastive loss of predicted and found sets of slots: cross entropy over frames.

    A set is represented by the mean of its slots, independent of their order. Logits are cosines divided by
    `temperature`; all other frames are negatives, so chance level is log(frames). Löwe et al. 2020 (arXiv
    2011.10287).
    """
    logits = _cosines(predicted.mean(dim=1), found.mean(dim=1)) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def nearest_contrast(
    predicted: Float[Tensor, "frames slots dim"],
    found: Float[Tensor, "frames slots dim"],
    temperature: float = 0.03,
) -> Float[Tensor, ""]:
    """`set_contrast` with another similarity of sets: the mean over slots of the largest cosine with a slot
    of the other set, in both directions.

    Slots that mix objects cost more than with the mean of a set. The similarity is that of late interaction
    (Khattab and Zaharia 2020, ColBERT, arXiv 2004.12832), symmetric as in Chamfer distance.
    """
    cosines = _cosines(predicted[:, None], found[None])
    similarity = (cosines.amax(dim=-1).mean(dim=-1) + cosines.amax(dim=-2).mean(dim=-1)) / 2
    return F.cross_entropy(similarity / temperature, torch.arange(len(similarity), device=similarity.device))


def slot_infonce(
    predicted: Float[Tensor, "frames slots dim"],
    found: Float[Tensor, "frames slots dim"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Slot-wise InfoNCE: slot k of other frames is the negative of slot k; mean over slots.

    The pairs are those of C-SWM (Kipf et al. 2020, arXiv 1911.12247), with the softmax of `set_contrast` in
    place of its hinge loss. It is also minimised by collapsed slots. Both arguments must have the same slot
    order.
    """
    logits = _cosines(predicted.transpose(0, 1), found.transpose(0, 1)) / temperature
    target = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def slot_slot_contrast(
    slots: Float[Tensor, "batch time slots dim"],
    temperature: float = 0.1,
    holds: Bool[Tensor, "batch time slots"] | None = None,
) -> Float[Tensor, ""]:
    """Slot-slot contrastive loss between adjacent frames of a batch of clips.

    For slot j of frame t + 1, the cross entropy with i = j of a softmax over the slots i of frame t of all
    clips, with logits cosine(i, j) / `temperature`; mean over slots, clips and pairs of adjacent frames.
    Slots of other frames are not negatives. The gradient reaches both frames. Chance level is log(clips *
    slots), also for identical slots, so collapse is not optimal.

    Manasyan et al. 2025, "Temporally Consistent Object-Centric Learning by Contrasting Slots" (SlotContrast,
    arXiv 2412.14295), equation 4, in the direction of the released code (martius-lab/slotcontrast,
    `Slot_Slot_Contrastive_Loss` with `batch_contrast`, temperature 0.1).

    Args:
        slots: slots of at least 2 frames.
        temperature: above 0.
        holds: mask of non-empty slots (not in the paper; default: all). The mean is over slots that are
            non-empty in both frames, and candidates are slots that are non-empty in the earlier frame. The
            loss is 0 if no slot counts.

    Raises:
        ValueError: fewer than 2 frames.
    """
    if slots.shape[1] < 2:
        raise ValueError(f"`slots` (time {slots.shape[1]}) must have at least 2 frames")
    each = slots.transpose(0, 1).flatten(1, 2)
    logits = _cosines(each[1:], each[:-1]) / temperature  # [pair, later slot, earlier slot]
    target = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape[:2])
    if holds is None:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())
    held = holds.transpose(0, 1).flatten(1, 2)
    counted = held[:-1] & held[1:]
    diagonal = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    # The diagonal keeps the ignored costs of empty slots finite.
    logits = logits.masked_fill(~(held[:-1, None] | diagonal), -torch.inf)
    costs = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return (costs * counted.flatten()).sum() / counted.sum().clamp_min(1)


def temporal_similarity(
    features: Float[Tensor, "batch time patches dim"], temperature: float = 0.25, least: float = 0.0
) -> Float[Tensor, "batch pairs patches patches"]:
    """Where each patch of a frame probably is in the next frame: a softmax over the next frame's patches of
    cosines / `temperature`, for each pair of adjacent frames.

    Cosines below `least` get probability 0; a patch without any other is spread evenly. No gradient.
    Zadaianchuk et al. 2023, "Object-Centric Learning for Real-World Videos by Predicting Temporal Feature
    Similarities" (VideoSAUR, arXiv 2306.04829), section 3.2; `least` is that of its code.
    """
    with torch.no_grad():
        cosines = _cosines(features[:, :-1], features[:, 1:])
        logits = (cosines / temperature).masked_fill(cosines < least, -torch.inf)
        nowhere = (cosines < least).all(dim=-1, keepdim=True)
        return logits.masked_fill(nowhere, 0.0).softmax(dim=-1)


def similarity_loss(
    logits: Float[Tensor, "batch pairs patches patches"],
    similarity: Float[Tensor, "batch pairs patches patches"],
) -> Float[Tensor, " batch"]:
    """Temporal feature similarity: cross entropy of predicted `logits` and `temporal_similarity`, mean over
    patches and pairs of frames, for each clip. Zadaianchuk et al. 2023 (VideoSAUR, arXiv 2306.04829), section
    3.2.
    """
    return -(similarity * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean(dim=(1, 2))


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
    """Cosine similarity of every pair of rows, in at least float32."""
    with torch.autocast(ours.device.type, enabled=False):
        wide = (rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in (ours, theirs))
        one, other = (F.normalize(rows, dim=-1) for rows in wide)
        return one @ other.transpose(-1, -2)


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

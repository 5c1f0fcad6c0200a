"""The model `video` of `hub.load`, and how its head is learned from what moves in other videos."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from objecthood.models.moving_objects import MovingObjects
from objecthood.motion import masks as motion_masks
from objecthood.motion.clip_objects import Clip
from objecthood.nn.objectness import Moments, ObjectnessHead, class_moments, ridge

PENALTY = 0.04
"""Of the squared weights, for each video; the two classes of a video weigh 1 each."""
EVERY = 4
"""Frames between those that are learned from; neighbours are alike."""


def video() -> MovingObjects:
    """The bundled backbone and the head that was learned from 12 sequences of DAVIS-2016 without labels.

    Example:
        >>> video().num_slots
        9
    """
    return MovingObjects(ObjectnessHead.bundled()).eval()


def fit_head(clips: Iterable[Clip]) -> ObjectnessHead:
    """A head fitted to what moves: cells above Otsu's threshold of speed in both directions, every clip with
    the same weight.

    Raises:
        ValueError: no clip, or one of a single frame.
    """
    features, labels = [], []
    for clip in clips:
        if clip.fields is None:
            raise ValueError("a clip has 1 frame; motion needs at least two")
        moves = motion_masks.agreed(motion_masks.above_threshold(clip.fields.speed))[::EVERY]
        labels.append(F.interpolate(moves[:, None], clip.features.shape[1:3], mode="area").flatten())
        features.append(clip.features[::EVERY].flatten(0, 2).float())
    if not features:
        raise ValueError("there are no clips to learn from; give at least one")
    head = ObjectnessHead(features[0].shape[1])
    head.mean.copy_(torch.stack([one.mean(dim=0) for one in features]).mean(dim=0))
    head.scale.copy_(torch.stack([one.std(dim=0).mean() for one in features]).mean())
    parts = [class_moments(head.inputs(one), label) for one, label in zip(features, labels, strict=True)]
    moments = Moments(*(torch.stack(part).sum(dim=0) for part in zip(*parts, strict=True)))
    head.weight.copy_(ridge(moments, PENALTY * len(parts)))
    return head


def save_head(head: ObjectnessHead, file: Path) -> None:
    """Write the weights of `video`."""
    save_file({name: value.contiguous() for name, value in head.state_dict().items()}, file)

"""Masks of the objects of a clip: motion, appearance, and finishing steps that motion grouping has too.

`models.moving_objects` gives log odds on the grid of the backbone; here the motion of pixels is added, and
the masks are compared with the motion nearby, averaged along the flow, refined by colour and filtered to
edges (`motion.masks.finished`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood.data.io.images import resize_image
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import KEPT, SequenceFields, fields_of, flow_size

LEAST_THRESHOLD = 0.15
"""Smallest threshold of motion in pixels of the flow's grid per frame; slower motion is noise of the flow."""
MOTION_RANGE = (-2.0, 1.0)
"""Range of the motion score, a natural logarithm."""
LARGEST_ODDS = 4.0
"""Bound of the log odds of appearance, so that the motion and colour of a pixel can outweigh them."""
COLOURS = 1.0
"""Weight of colours in finished masks."""
TOGETHER = 4.0
"""Weight of motion like that of the object nearby, against that of the background nearby."""
ROUNDS = 2
"""How often the colours of objects are taken from the masks."""


@runtime_checkable
class Adaptive(Protocol):
    """The part of `models.moving_objects.MovingObjects` that is used here."""

    def embed(self, frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Tensor: ...

    def adapt(
        self, features: Tensor, motion: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


class Clip(NamedTuple):
    """What masks of a clip are made of; the flow's grid has half the rows of the frames `flow_size`."""

    fields: SequenceFields | None
    """Motion; None for a single frame."""
    images: Float[Tensor, "frames 3 height width"]
    """Frames in [0, 1] on the flow's grid."""
    features: Float[Tensor, "frames rows columns dim"]


class Frame(NamedTuple):
    """What is kept of a frame: about a megabyte at 480p."""

    small: UInt8[np.ndarray, "height width 3"]
    """The frame at `flow_size`."""
    features: Float[Tensor, "rows columns dim"]


def read_frame(model: Adaptive, frame: UInt8[np.ndarray, "height width 3"]) -> Frame:
    """A small copy and the features of a frame."""
    return Frame(resize_image(frame, flow_size(frame.shape[:2])), model.embed([frame])[0].cpu())


def clip_of(frames: Sequence[Frame]) -> Clip:
    """Motion, small images and features of frames of one size."""
    small = [frame.small for frame in frames]
    fields = None
    if len(frames) > 1:
        fields = SequenceFields(*(part.float() for part in fields_of(small)))
    grid = small[0].shape[0] // KEPT, small[0].shape[1] // KEPT
    images = torch.from_numpy(np.stack([resize_image(frame, grid) for frame in small]))
    features = torch.stack([frame.features for frame in frames])
    return Clip(fields, images.permute(0, 3, 1, 2).float().div(255), features)


def clip_masks(
    model: Adaptive, clip: Clip, start: Tensor | None = None, colours: float = COLOURS
) -> tuple[Float[Tensor, "frames height width"], Tensor]:
    """Soft masks of all objects on the grid of the flow, and the weights fitted to the clip."""
    motion = None if clip.fields is None else motion_score(clip.fields.speed)
    grid = clip.features.shape[1:3]
    coarse = None if motion is None else F.interpolate(motion[:, None], grid, mode="area")[:, 0]
    odds, weights = model.adapt(clip.features, coarse, start)
    return finished(odds.cpu(), motion, clip, colours), weights


def finished(
    odds: Float[Tensor, "frames rows columns"],
    motion: Float[Tensor, "frames height width"] | None,
    clip: Clip,
    colours: float = COLOURS,
) -> Float[Tensor, "frames height width"]:
    """Masks of log odds on the grid of features: enlarged, with the motion of pixels added, and finished."""
    size = clip.images.shape[2:]
    large = F.interpolate(odds[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    large = large.clamp(-LARGEST_ODDS, LARGEST_ODDS)
    if clip.fields is None:
        return motion_masks.drawn_to_edges(large.sigmoid(), clip.images)
    if motion is not None:
        large = large + motion
    if not (large > 0).any():  # nothing for colours to learn from
        return large.sigmoid()
    flow = clip.fields.flow
    both = large.sigmoid()[:, None].expand(-1, flow.shape[1], -1, -1)  # directions of equal masks
    return motion_masks.finished(both, flow, clip.images, colours, TOGETHER, ROUNDS)


def motion_score(
    speed: Float[Tensor, "frames directions rows columns"],
) -> Float[Tensor, "frames rows columns"] | None:
    """Logarithm of the speed relative to Otsu's threshold of each field, mean over directions, in
    `MOTION_RANGE`; None where no pixel of the clip is faster than `LEAST_THRESHOLD`.

    Example:
        >>> speed = torch.full((1, 2, 4, 6), 0.01)
        >>> motion_score(speed) is None
        True
        >>> speed[:, :, 1:3, 1:3] = 2.0
        >>> (motion_score(speed)[0, 1] > 0).tolist()
        [False, True, True, False, False, False]
    """
    if speed.max() < LEAST_THRESHOLD:
        return None
    fields = speed.flatten(0, 1)
    levels = torch.stack([motion_masks.otsu_threshold(field) for field in fields])
    relative = fields / levels.clamp_min(LEAST_THRESHOLD)[:, None, None]
    score = relative.clamp_min(1e-3).log().clamp(*MOTION_RANGE)
    return score.unflatten(0, speed.shape[:2]).mean(dim=1)

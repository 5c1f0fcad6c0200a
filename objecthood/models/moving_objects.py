"""Objects of a video from frozen features and motion, with one linear head adapted to each clip.

This is not slot attention: objectness and motion of every cell give the log odds of an object
(`nn.objectness`), with one set of weights for all frames of a clip, so that an object that stops is still
found. The backbone was trained with class labels of ImageNet (`nn.backbones`), the head on motion, without
labels. `motion.clip_objects` makes masks of the log odds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from objecthood.models.base import SlotModel, SlotOutput
from objecthood.nn.backbones import EfficientNetLite0
from objecthood.nn.encoders import check_images
from objecthood.nn.objectness import FEWEST, ObjectnessHead, class_moments, log_odds, ridge
from objecthood.nn.precision import check_float32


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Constants of the adaptation to a clip.

    Attributes:
        slope, offset: the first log odds are slope * (objectness - offset) + motion_slope * motion.
        motion_slope: see `slope`.
        rounds: how often labels and weights alternate.
        penalty: of the squared distance to the general weights; the two classes weigh 1 each.
        caution: log odds that are subtracted in every round.
        every: frames between those that are fitted.
    """

    slope: float = 5.0
    offset: float = 0.5
    motion_slope: float = 2.0
    rounds: int = 2
    penalty: float = 0.2
    caution: float = 1.0
    every: int = 2


class MovingObjects(SlotModel):
    """Objects in clips (`motion.clip_objects.clip_masks`), or in single images by appearance alone.

    Args:
        head: general weights.
        backbone: frozen features, `EfficientNetLite0.bundled()` by default.
        adaptation: constants.
        side: frames enter the backbone with a shorter side of about this many pixels.
        num_objects: how many objects have a slot at a time, beside the background.

    Example:
        >>> model = MovingObjects(ObjectnessHead(304), side=64)
        >>> model.embed([np.zeros((90, 120, 3), np.uint8)]).shape
        torch.Size([1, 4, 5, 304])
    """

    modality = "motion"
    clips = True
    iterations = 1

    def __init__(
        self,
        head: ObjectnessHead,
        backbone: EfficientNetLite0 | None = None,
        adaptation: Adaptation | None = None,
        side: int = 448,
        num_objects: int = 8,
    ):
        super().__init__()
        self.head = head
        self.backbone = EfficientNetLite0.bundled() if backbone is None else backbone
        self.adaptation = Adaptation() if adaptation is None else adaptation
        self.side, self.num_objects = side, num_objects
        self.image_size = (64, 64)  # of small frames, for block matching
        self.feature_grid = (self.image_size[0] // self.backbone.stride,) * 2

    @property
    def num_slots(self) -> int:
        """The background and all objects."""
        return 1 + self.num_objects

    @property
    def slot_dim(self) -> int:
        """Channels of the backbone's features."""
        return self.backbone.feature_dim

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels of the backbone's input for frames of `height` x `width`; the longer
        side is at most four times the shorter."""
        stride, scale = self.backbone.stride, self.side / min(height, width)
        rows, columns = (
            stride * max(round(min(side * scale, 4 * self.side) / stride), 1) for side in (height, width)
        )
        return rows, columns

    @torch.no_grad()
    def embed(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]]
    ) -> Float[Tensor, "frames rows columns dim"]:
        """Features of frames of one size, in units of `EfficientNetLite0.normalise`; float16."""
        check_float32(self)
        size, found = self.working_size(*frames[0].shape[:2]), []
        for frame in frames:
            image = torch.from_numpy(np.ascontiguousarray(frame)).to(self.device).permute(2, 0, 1)[None]
            small = F.interpolate(image.float() / 255, size, mode="bilinear", antialias=True)
            found.append(self.backbone.normalise(self.backbone(small)).half())
        return torch.cat(found)

    @torch.no_grad()
    def adapt(
        self,
        features: Float[Tensor, "frames rows columns dim"],
        motion: Float[Tensor, "frames rows columns"] | None = None,
        start: Float[Tensor, " inputs"] | None = None,
    ) -> tuple[Float[Tensor, "frames rows columns"], Float[Tensor, " inputs"]]:
        """Log odds of an object in each cell of a clip, the mean of those adapted to it and those of the
        general head, and the weights fitted to it.

        Args:
            features: of `embed`.
            motion: about 0 at the threshold between static and moving, positive where it moves
                (`motion.clip_objects.motion_score`); None where nothing moves.
            start: weights that the fitted ones stay close to; the head's unless given.
        """
        how, weights = self.adaptation, self.head.weight if start is None else start
        inputs, shape = self.head.inputs(features), features.shape[:-1]
        values = [inputs @ weights] + ([] if motion is None else [motion.flatten()])
        general = how.slope * (inputs @ self.head.weight - how.offset)
        odds = how.slope * (values[0] - how.offset)
        if motion is not None:
            odds = odds + how.motion_slope * values[1]
        some = (torch.arange(shape[0]) % how.every == 0).repeat_interleave(shape[1] * shape[2])
        fitted = weights
        for _ in range(how.rounds):
            labels = (odds > 0).float()
            if labels[some].sum() < FEWEST or (1 - labels[some]).sum() < FEWEST:
                break
            fitted = ridge(class_moments(inputs[some], labels[some]), how.penalty, weights)
            values[0] = inputs @ fitted
            odds = log_odds(torch.stack(values), labels) - how.caution
        if fitted is not weights:  # the general head keeps what a short clip cannot show
            odds = (odds + general) / 2
        return odds.view(shape), fitted

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Tensor | None = None,
    ) -> SlotOutput:
        """Background and objects of `images` in [0, 1], whose sides are multiples of 16, by appearance alone;
        other arguments are ignored."""
        check_images(images, None)
        check_float32(self, images)
        with torch.no_grad():
            features = self.backbone.normalise(self.backbone(images))
            how = self.adaptation
            objects = (how.slope * (self.head(features) - how.offset)).sigmoid()
        attention = torch.stack([1 - objects, objects], dim=1)
        slots = torch.einsum("bsrc,brcd->bsd", attention, features)
        slots = slots / attention.sum(dim=(2, 3)).clamp_min(1e-6)[..., None]
        masks = F.interpolate(attention, images.shape[2:], mode="bilinear", align_corners=False)
        return SlotOutput(slots, attention[:, None], masks)

    forward = segment

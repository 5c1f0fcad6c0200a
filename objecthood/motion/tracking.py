"""Track slots: centre, area and velocity of every slot in every frame, and whether it moves.

Block matching (`nn.block_matching.slot_motion`) gives the displacement of each slot; that of the background
(camera motion) is subtracted, and velocities are averaged over a few frames. The average is the only state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objecthood import metrics
from objecthood.data.scene import Scenes
from objecthood.nn.block_matching import slot_motion

LEAST_SPEED = 0.3
"""Speed in pixels per frame, at the model's resolution, from which a slot counts as moving; the slowest
sprites have 0.5."""
KEPT = 0.8
"""Decay of the average velocity per frame: a window of about 1 / (1 - 0.8) frames."""
REACH = 4
"""Search range of a slot's displacement per frame, in pixels at the model's resolution."""
EMPTY = 4
"""Area in pixels below which a slot counts as empty and static."""


class Tracks(NamedTuple):
    """Tracks of slots; for one frame without the time axis."""

    centre: Float[Tensor, "batch *time slots 2"]
    """Mean coordinates (across, down) of a slot's segment, in pixels; -1 for an empty slot."""
    area: Int[Tensor, "batch *time slots"]
    """Area of the segment in pixels."""
    velocity: Float[Tensor, "batch *time slots 2"]
    """Averaged velocity relative to the background (the largest slot), in pixels per frame."""
    moving: Bool[Tensor, "batch *time slots"]
    """Whether the speed exceeds `LEAST_SPEED`."""


class Tracker:
    """Tracks the slots of a stream, frame by frame.

    Example:
        >>> tracker = Tracker()
        >>> frame, masks = torch.rand(1, 3, 16, 16), torch.rand(1, 4, 16, 16).softmax(1)
        >>> tracker.update(frame, masks, following=frame).moving.any()
        tensor(False)
    """

    def __init__(self) -> None:
        self._average: Tensor | None = None
        self._weight: Tensor | None = None
        self._last: Tensor | None = None

    def update(
        self,
        frame: Float[Tensor, "batch 3 height width"],
        masks: Float[Tensor, "batch slots height width"],
        following: Float[Tensor, "batch 3 height width"] | None,
    ) -> Tracks:
        """Add `frame` [0, 1] with its masks; `following` is the next frame, None at the end (keeps
        velocities)."""
        held = torch.nn.functional.one_hot(masks.argmax(dim=1), masks.shape[1]).permute(0, 3, 1, 2).float()
        area = held.sum(dim=(2, 3))
        seen = area >= EMPTY
        if self._average is None or self._weight is None:
            self._average = torch.zeros(*area.shape, 2, device=area.device)
            self._weight = torch.zeros_like(area)
        if following is not None:
            steps = slot_motion(
                frame, following, torch.cat([clear_of_others(held), ground_within(held)], 1), REACH
            )
            steps = steps[:, :-1] - steps[:, -1:]
            steps.scatter_(1, area.argmax(dim=1)[:, None, None].expand(-1, 1, 2), 0.0)
            kept = KEPT * seen
            self._weight = kept * self._weight + (1 - KEPT) * seen
            self._average = kept[..., None] * self._average + (1 - KEPT) * steps * seen[..., None]
        velocity = self._average / self._weight.clamp_min(1e-6)[..., None] * seen[..., None]
        moving = velocity.norm(dim=-1) > LEAST_SPEED
        return Tracks(centres(held, seen), area.long(), velocity, moving)


def track(
    frames: Float[Tensor, "batch time 3 height width"], masks: Float[Tensor, "batch time slots height width"]
) -> Tracks:
    """The tracks of whole clips, equal to those of `Tracker` frame by frame."""
    tracker, every = Tracker(), frames.unbind(1)
    parts = [
        tracker.update(frame, its_masks, following)
        for frame, its_masks, following in zip(every, masks.unbind(1), [*every[1:], None], strict=True)
    ]
    return Tracks(*(torch.stack(part, dim=1) for part in zip(*parts, strict=True)))


def verdicts_right(
    tracks: Tracks, masks: Float[Tensor, "batch time slots height width"], clips: Scenes
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The number of correct moving/static decisions, and of all decisions: one per found object and frame.

    An object is found if its assigned slot has an IoU of at least 0.5 (`metrics.found_by`); it moves if its
    true velocity is not 0. Objects that are not found are ignored.
    """
    slot = metrics.found_by(clips["masks"], masks)
    objects = slot.shape[2]
    found = slot >= 0
    moves = clips["velocity"].cpu()[:, :, :objects].norm(dim=-1) > 0
    says = tracks.moving.cpu().gather(2, slot.clamp_min(0))
    return ((says == moves) & found).sum(dim=(1, 2)).double(), found.sum(dim=(1, 2)).double()


def ground_within(held: Float[Tensor, "batch slots height width"]) -> Float[Tensor, "batch 1 height width"]:
    """The background (the largest slot) further than `REACH` pixels from other slots.

    Closer pixels are covered and uncovered by moving objects, which biases block matching. If nothing is
    left, the camera counts as static.
    """
    largest = held.sum(dim=(2, 3)).argmax(dim=1)[:, None, None, None].expand(-1, 1, *held.shape[-2:])
    return 1 - torch.nn.functional.max_pool2d(1 - held.gather(1, largest), 2 * REACH + 1, 1, REACH)


def clear_of_others(
    held: Float[Tensor, "batch slots height width"],
) -> Float[Tensor, "batch slots height width"]:
    """The segments further than `REACH` pixels from other foreground slots.

    Closer pixels may be covered and uncovered by moving objects. A slot that would keep less than a fifth of
    its segment keeps all of it.
    """
    area = held.sum(dim=(2, 3), keepdim=True)
    background = area.argmax(dim=1, keepdim=True).expand(-1, 1, *held.shape[-2:])
    foreground = held.scatter(1, background, 0.0)
    others = foreground.sum(dim=1, keepdim=True) - foreground
    clear = held * (1 - torch.nn.functional.max_pool2d(others, 2 * REACH + 1, 1, REACH))
    return torch.where(clear.sum(dim=(2, 3), keepdim=True) > 0.2 * area, clear, held)


def centres(
    held: Float[Tensor, "batch slots height width"], seen: Bool[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots 2"]:
    """Mean coordinates (across, down) of each segment, in pixels; -1 for an empty slot."""
    area = held.sum(dim=(2, 3)).clamp_min(1)
    rows, columns = (torch.arange(size, device=held.device).float() for size in held.shape[-2:])
    across = (held.sum(dim=2) * columns).sum(dim=-1) / area
    down = (held.sum(dim=3) * rows).sum(dim=-1) / area
    return torch.stack([across, down], dim=-1).masked_fill(~seen[..., None], -1.0)

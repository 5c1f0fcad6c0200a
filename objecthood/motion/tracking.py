"""Does it move? Speed of every slot in every frame, and the verdict: moving or static.

What a slot shows is looked for in the next frame (`nn.block_matching.slot_motion`), the background's own
displacement, which is the camera's, is taken off, and velocities are averaged over a few frames. A stream
needs the average of each slot and nothing else.
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
"""Pixels per frame, at the model's resolution, from which a slot counts as moving: the slowest sprites make
0.5."""
KEPT = 0.8
"""Share of the average that stays when a frame is added: it looks back about 1 / (1 - 0.8) frames."""
REACH = 4
"""Pixels that a slot may move in a frame, at the model's resolution."""
EMPTY = 4
"""Pixels; a slot with fewer is not seen, and stands still."""


class Tracks(NamedTuple):
    """Where slots are, how fast, and whether they move; for one frame without the time axis."""

    centre: Float[Tensor, "batch *time slots 2"]
    """Mean place (across, down) of the pixels that a slot holds, in pixels; -1 where it is not seen."""
    area: Int[Tensor, "batch *time slots"]
    """Pixels held."""
    velocity: Float[Tensor, "batch *time slots 2"]
    """Against the background (the slot that holds most), averaged, in pixels per frame."""
    moving: Bool[Tensor, "batch *time slots"]


class Tracker:
    """Follows the slots of a stream, frame by frame.

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
        """The next frame; `following` is the one after it, None at the end (speeds then stay)."""
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
    """The tracks of whole clips, as `Tracker` gives them frame by frame."""
    tracker, every = Tracker(), frames.unbind(1)
    parts = [
        tracker.update(frame, its_masks, following)
        for frame, its_masks, following in zip(every, masks.unbind(1), [*every[1:], None], strict=True)
    ]
    return Tracks(*(torch.stack(part, dim=1) for part in zip(*parts, strict=True)))


def verdicts_right(
    tracks: Tracks, masks: Float[Tensor, "batch time slots height width"], clips: Scenes
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """How many verdicts are right, and how many there are: one for each object found in each frame.

    An object is found by the slot assigned to it, overlap at least 0.5 (`metrics.found_by`); it moves where
    its true velocity in the world is not 0. Objects that are not found are not judged.
    """
    slot = metrics.found_by(clips["masks"], masks)
    objects = slot.shape[2]
    found = slot >= 0
    moves = clips["velocity"].cpu()[:, :, :objects].norm(dim=-1) > 0
    says = tracks.moving.cpu().gather(2, slot.clamp_min(0))
    return ((says == moves) & found).sum(dim=(1, 2)).double(), found.sum(dim=(1, 2)).double()


def ground_within(held: Float[Tensor, "batch slots height width"]) -> Float[Tensor, "batch 1 height width"]:
    """The background (the slot that holds most) further than `REACH` pixels from anything else.

    Nearer, what moves beside plain ground covers and uncovers it, so that ground seems to move along. Where
    nothing is so far, the camera counts as still.
    """
    ground = held.sum(dim=(2, 3)).argmax(dim=1)[:, None, None, None].expand(-1, 1, *held.shape[-2:])
    return 1 - torch.nn.functional.max_pool2d(1 - held.gather(1, ground), 2 * REACH + 1, 1, REACH)


def clear_of_others(
    held: Float[Tensor, "batch slots height width"],
) -> Float[Tensor, "batch slots height width"]:
    """What each slot holds further than `REACH` pixels from other slots, the background aside.

    Nearer, what moves covers and uncovers what stands still. A slot that would keep less than a fifth keeps
    all.
    """
    area = held.sum(dim=(2, 3), keepdim=True)
    ground = area.argmax(dim=1, keepdim=True).expand(-1, 1, *held.shape[-2:])
    things = held.scatter(1, ground, 0.0)
    others = things.sum(dim=1, keepdim=True) - things
    clear = held * (1 - torch.nn.functional.max_pool2d(others, 2 * REACH + 1, 1, REACH))
    return torch.where(clear.sum(dim=(2, 3), keepdim=True) > 0.2 * area, clear, held)


def centres(
    held: Float[Tensor, "batch slots height width"], seen: Bool[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots 2"]:
    """Mean place (across, down) of what each slot holds, in pixels; -1 where it is not seen."""
    area = held.sum(dim=(2, 3)).clamp_min(1)
    rows, columns = (torch.arange(size, device=held.device).float() for size in held.shape[-2:])
    across = (held.sum(dim=2) * columns).sum(dim=-1) / area
    down = (held.sum(dim=3) * rows).sum(dim=-1) / area
    return torch.stack([across, down], dim=-1).masked_fill(~seen[..., None], -1.0)

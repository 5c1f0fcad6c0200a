"""Motion by matching: where a patch, or a slot, of one frame is found in another.

Block matching (Jain and Jain 1981): of all displacements of up to `reach` pixels per axis the one with the
least difference, here summed over a window or over a mask, refined by the parabola through its neighbours.
No parameters, no training. It finds what moves by whole or part pixels over texture, and, summed over a whole
mask, things without texture too, from their outline; flat ground it cannot see move.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Modality = Literal["frame", "motion"]


def matching_errors(
    frame: Float[Tensor, "batch 3 height width"], other: Float[Tensor, "batch 3 height width"], reach: int
) -> Float[Tensor, "batch rows columns height width"]:
    """Mean squared difference over colours of each pixel of `frame` and the one at a displacement in `other`.

    Entry [b, i, j] is for a displacement of i - reach down and j - reach across; beyond the border the
    nearest pixel of `other` serves.
    """
    height, width = frame.shape[-2:]
    padded = F.pad(other, (reach,) * 4, mode="replicate")
    side = 2 * reach + 1
    errors = [
        (padded[..., i : i + height, j : j + width] - frame).square().mean(dim=1)
        for i in range(side)
        for j in range(side)
    ]
    return torch.stack(errors, dim=1).unflatten(1, (side, side))


def block_flow(
    frame: Float[Tensor, "batch 3 height width"],
    other: Float[Tensor, "batch 3 height width"],
    reach: int = 2,
    window: int = 3,
) -> Float[Tensor, "batch 2 height width"]:
    """Where each pixel of `frame` is in `other`: across and down, in pixels, at most `reach` + 1/2 each.

    A pixel is judged by whichever `window` around it fits best, so that one at the border of a thing need not
    match what lies behind (shiftable windows: Kang, Szeliski and Chai 2001). Where several displacements fit
    equally, as on flat ground, the shortest is taken.

    Example:
        >>> frame = torch.rand(1, 3, 16, 16)
        >>> block_flow(frame, frame.roll(2, dims=-1))[0, :, 8, 8].tolist()
        [2.0, 0.0]
    """
    errors = matching_errors(frame, other, reach)
    batch, side = len(errors), 2 * reach + 1
    flat = F.avg_pool2d(errors.flatten(1, 2), window, 1, window // 2, count_include_pad=False)
    flat = -F.max_pool2d(-flat, window, 1, window // 2)
    best = best_displacement(flat.permute(0, 2, 3, 1).reshape(-1, side, side), reach)
    return best.view(batch, *frame.shape[-2:], 2).permute(0, 3, 1, 2)


def slot_motion(
    frame: Float[Tensor, "batch 3 height width"],
    other: Float[Tensor, "batch 3 height width"],
    masks: Float[Tensor, "batch slots height width"],
    reach: int = 4,
) -> Float[Tensor, "batch slots 2"]:
    """By how much what each slot shows in `frame` is displaced in `other`: across and down, in pixels.

    `masks` lie on `frame`; a slot that holds nothing gets 0.

    Example:
        >>> frame = torch.zeros(1, 3, 32, 32)
        >>> frame[..., 8:16, 8:16] = 1.0
        >>> mask = frame[:, :1].clone()
        >>> slot_motion(frame, frame.roll((3, -1), dims=(-1, -2)), mask)[0, 0].tolist()
        [3.0, -1.0]
    """
    errors = matching_errors(frame, other, reach)
    mass = masks.sum(dim=(2, 3))
    sums = torch.einsum("bijhw,bshw->bsij", errors, masks) / mass.clamp_min(1e-6)[..., None, None]
    best = best_displacement(sums.flatten(0, 1), reach).view(*mass.shape, 2)
    return best * (mass > 1)[..., None]


def motion_image(
    flow: Float[Tensor, "batch 2 height width"], largest: float = 3.0
) -> Float[Tensor, "batch 3 height width"]:
    """A motion field as an image in [0, 1]: across and down around 1/2, and the speed.

    `largest` is the component, in pixels, that gets 0 or 1; what exceeds it is clipped.

    Example:
        >>> motion_image(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)).flatten().tolist()
        [1.0, 0.5, 1.0]
    """
    scaled = (flow / largest).clamp(-1, 1)
    speed = scaled.norm(dim=1, keepdim=True).clamp_max(1)
    return torch.cat([0.5 + 0.5 * scaled, speed], dim=1)


def to_modality(
    frames: Float[Tensor, "batch time 3 height width"], modality: Modality
) -> Float[Tensor, "batch time 3 height width"]:
    """What a model of video groups, in [0, 1]: the frames, or the motion of each as an image."""
    if modality == "frame":
        return frames
    every = frames.unbind(1)
    around = zip(every, [*every[1:], None], [None, *every[:-1]], strict=True)
    return torch.stack([motion_of_frame(*three) for three in around], dim=1)


def motion_of_frame(
    frame: Float[Tensor, "batch 3 height width"],
    following: Float[Tensor, "batch 3 height width"] | None,
    previous: Float[Tensor, "batch 3 height width"] | None,
) -> Float[Tensor, "batch 3 height width"]:
    """Motion towards the following frame, or from the previous one, as an image; of one alone, rest."""
    if following is not None:
        flow = block_flow(frame, following)
    elif previous is not None:
        flow = -block_flow(frame, previous)
    else:
        flow = torch.zeros_like(frame[:, :2])
    return motion_image(flow)


def best_displacement(errors: Float[Tensor, "places side side"], reach: int) -> Float[Tensor, "places 2"]:
    """The displacement (across, down) of least error, refined between whole pixels."""
    side = 2 * reach + 1
    steps = torch.arange(-reach, reach + 1, device=errors.device)
    length = (steps[:, None].square() + steps.square()).sqrt().to(errors)
    # The shortest of equals: 1e-7 a pixel is less than one grey level of 255 in one pixel of a mask.
    index = (errors + 1e-7 * length).flatten(1).argmin(dim=1)
    row, column = index // side, index % side
    place = torch.arange(len(errors), device=errors.device)

    def part(values: Tensor, at: Tensor) -> Tensor:
        """Where between its neighbours the least of a parabola lies, from -1/2 to 1/2; 0 at the rim."""
        inner = at.clamp(1, side - 2)
        before, here, after = (values[place, inner + step] for step in (-1, 0, 1))
        bend = before - 2 * here + after
        offset = (before - after) / (2 * bend.clamp_min(1e-12))
        wanted = (inner == at) & (bend > 1e-9) & (here > 1e-7)  # an exact match needs no refinement
        return torch.where(wanted, offset, 0).clamp(-0.5, 0.5)

    across = column + part(errors[place, row], column)
    down = row + part(errors.transpose(1, 2)[place, column], row)
    return torch.stack([across, down], dim=-1) - reach

"""Block matching: displacement of a patch, or of a slot's mask, between two frames.

Jain and Jain 1981: among all displacements of up to `reach` pixels per axis, take the one of smallest squared
difference, summed over a window or a mask, and refine it by a parabola through its neighbours. There are no
parameters. Motion of textureless regions is found only over a whole mask, from the outline.
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
    """Mean squared colour difference between each pixel of `frame` and the displaced pixel of `other`.

    Entry [b, i, j] is for a displacement of i - reach down and j - reach across; `other` is extended by its
    border pixels.
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
    """Optical flow from `frame` to `other`: across and down, in pixels, at most `reach` + 1/2 each.

    Each pixel uses the best-matching `window` that contains it, so object borders are not matched against the
    background (shiftable windows: Kang, Szeliski and Chai 2001). Of equal matches the shortest displacement
    is taken.

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
    """Displacement of each slot's mask from `frame` to `other`: across and down, in pixels.

    `masks` are those of `frame`; an empty slot gets 0.

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
    """A motion field as an image in [0, 1]: across and down centred at 1/2, and the speed.

    Components are clipped at `largest` pixels, which maps to 0 or 1.

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
    """The model input in [0, 1]: the frames, or the motion field of each frame as an image."""
    if modality == "frame":
        return frames
    all_frames = frames.unbind(1)
    triples = zip(all_frames, [*all_frames[1:], None], [None, *all_frames[:-1]], strict=True)
    return torch.stack([motion_of_frame(*triple) for triple in triples], dim=1)


def motion_of_frame(
    frame: Float[Tensor, "batch 3 height width"],
    following: Float[Tensor, "batch 3 height width"] | None,
    previous: Float[Tensor, "batch 3 height width"] | None,
) -> Float[Tensor, "batch 3 height width"]:
    """Motion towards the following frame, else from the previous one, as an image; zero without either."""
    if following is not None:
        flow = block_flow(frame, following)
    elif previous is not None:
        flow = -block_flow(frame, previous)
    else:
        flow = torch.zeros_like(frame[:, :2])
    return motion_image(flow)


def best_displacement(errors: Float[Tensor, "windows side side"], reach: int) -> Float[Tensor, "windows 2"]:
    """The displacement (across, down) of smallest error, with subpixel refinement."""
    side = 2 * reach + 1
    steps = torch.arange(-reach, reach + 1, device=errors.device)
    length = (steps[:, None].square() + steps.square()).sqrt().to(errors)
    # Prefer the shortest: 1e-7 per pixel is below one grey level of 255 in one pixel of a mask.
    index = (errors + 1e-7 * length).flatten(1).argmin(dim=1)
    row, column = index // side, index % side
    index_in_batch = torch.arange(len(errors), device=errors.device)

    def refinement(values: Tensor, at: Tensor) -> Tensor:
        """Offset of the parabola's minimum, from -1/2 to 1/2; 0 at the border of the search range."""
        inner = at.clamp(1, side - 2)
        before, here, after = (values[index_in_batch, inner + step] for step in (-1, 0, 1))
        curvature = before - 2 * here + after
        offset = (before - after) / (2 * curvature.clamp_min(1e-12))
        is_refined = (inner == at) & (curvature > 1e-9) & (here > 1e-7)  # an exact match needs no refinement
        return torch.where(is_refined, offset, 0).clamp(-0.5, 0.5)

    across = column + refinement(errors[index_in_batch, row], column)
    down = row + refinement(errors.transpose(1, 2)[index_in_batch, column], row)
    return torch.stack([across, down], dim=-1) - reach

"""From slots on motion fields to one mask of what moves: chosen, agreed on, carried along, drawn to edges.

No step knows labels. Each takes and gives soft masks in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def moving_mask(masks: Float[Tensor, "fields slots rows columns"]) -> Float[Tensor, "fields rows columns"]:
    """What does not belong to the slot that has most of the picture's border, which is the background.

    Example:
        >>> masks = torch.zeros(1, 2, 4, 4)
        >>> masks[0, 0], masks[0, 0, 1:3, 1:3], masks[0, 1, 1:3, 1:3] = 1.0, 0.0, 1.0
        >>> moving_mask(masks)[0, 1].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    return 1 - masks[torch.arange(len(masks), device=masks.device), ground_slot(masks)]


def ground_slot(masks: Float[Tensor, "fields slots rows columns"]) -> Int[Tensor, " fields"]:
    """Which slot has most of the picture's border."""
    sides = (masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1])
    return torch.cat(sides, dim=-1).mean(dim=-1).argmax(dim=1)


def agreed(
    masks: Float[Tensor, "frames directions rows columns"],
) -> Float[Tensor, "frames rows columns"]:
    """The geometric mean over the fields of a frame: blur beside an object is in one of them only."""
    return masks.prod(dim=1) ** (1 / masks.shape[1])


def carried_along(
    masks: Float[Tensor, "frames rows columns"],
    flow: Float[Tensor, "frames directions 2 height width"],
    weight: float = 2.0,
) -> Float[Tensor, "frames rows columns"]:
    """Masks averaged with those of the frames before and after, brought here by the flow.

    A running average each way, in which what came before counts `weight` times the frame itself; the two are
    joined so that the frame itself counts once. `flow` goes to the next frame and comes from the last, in
    pixels of its own grid.
    """
    past, future = masks.clone(), masks.clone()
    for now in range(1, len(masks)):
        brought = warped(past[now - 1], -flow[now, 1])
        past[now] = (masks[now] + weight * brought) / (1 + weight)
    for now in range(len(masks) - 2, -1, -1):
        brought = warped(future[now + 1], flow[now, 0])
        future[now] = (masks[now] + weight * brought) / (1 + weight)
    return ((1 + weight) * (past + future) - masks) / (1 + 2 * weight)


def warped(
    mask: Float[Tensor, "rows columns"], flow: Float[Tensor, "2 height width"]
) -> Float[Tensor, "rows columns"]:
    """`mask` of another frame, seen from this one, whose pixels are found at `flow` (its own grid) from here.

    Example:
        >>> mask = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).expand(4, 4)
        >>> warped(mask, torch.tensor([1.0, 0.0])[:, None, None].expand(2, 4, 4))[0].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    rows, columns = mask.shape
    scale = torch.tensor([2 / flow.shape[2], 2 / flow.shape[1]], device=mask.device)
    small = F.interpolate(flow[None].float(), (rows, columns), mode="bilinear", align_corners=False)[0]
    y, x = ((2 * torch.arange(size, device=mask.device) + 1) / size - 1 for size in (rows, columns))
    here = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1)
    place = here + small.permute(1, 2, 0) * scale
    return F.grid_sample(mask[None, None], place[None], padding_mode="border", align_corners=False)[0, 0]


def drawn_to_edges(
    masks: Float[Tensor, "frames rows columns"],
    pictures: Float[Tensor, "frames 3 rows columns"],
    radius: int = 5,
    epsilon: float = 1e-3,
) -> Float[Tensor, "frames rows columns"]:
    """Masks as locally linear functions of colour: the guided filter (He et al. 2013, equations 19 to 21).

    `radius` in pixels, `epsilon` in squared units of `pictures`, which are in [0, 1].
    """

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 2 * radius + 1, 1, radius, count_include_pad=False)

    colour, mask = mean(pictures), mean(masks[:, None])
    r, g, b = pictures.unbind(1)
    pairs = mean(torch.stack([r * r, r * g, r * b, g * g, g * b, b * b], dim=1))
    (mr, mg, mb) = colour.unbind(1)
    rr, rg, rb, gg, gb, bb = (
        pairs - torch.stack([mr * mr, mr * mg, mr * mb, mg * mg, mg * mb, mb * mb], dim=1)
    ).unbind(1)
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    # The inverse of a symmetric 3 x 3 matrix, written out: solving for each pixel takes long.
    inverse = torch.stack(
        [
            *(gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg),
            *(rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb),
            *(rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg),
        ],
        dim=1,
    ).unflatten(1, (3, 3))
    determinant = (rr * inverse[:, 0, 0] + rg * inverse[:, 0, 1] + rb * inverse[:, 0, 2])[:, None]
    with_mask = mean(pictures * masks[:, None]) - colour * mask
    slope = torch.einsum("fijhw,fjhw->fihw", inverse, with_mask) / determinant
    level = mask - (slope * colour).sum(dim=1, keepdim=True)
    return ((mean(slope) * pictures).sum(dim=1) + mean(level)[:, 0]).clamp(0, 1)

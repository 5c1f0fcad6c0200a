"""Average values along pixel trajectories, which cancels noise of single frames.

A running average in each direction of time is warped from frame to frame by the flow, weighted by
forward-backward consistency (Sundaram et al. 2010, "Dense point trajectories by GPU-accelerated large
displacement optical flow", equation 5; a soft version here).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LEAST = 0.05  # smallest weight of a pixel's own value, with inconsistent flow


def along_paths(
    values: Float[Tensor, "frames channels rows columns"],
    flow: Float[Tensor, "frames directions 2 rows columns"],
    memory: float = 5.0,
) -> Float[Tensor, "frames channels rows columns"]:
    """`values` averaged over earlier and later frames, with a decay of memory / (1 + memory) per frame.
    `flow` is to the next and from the previous frame, in pixels.

    Example:
        >>> noise = torch.randn(9, 1, 4, 6, generator=torch.Generator().manual_seed(0))
        >>> still = torch.zeros(9, 2, 2, 4, 6)
        >>> bool(along_paths(noise, still).std() < noise.std() / 2)
        True
    """
    sure = consistency(flow)
    own = _LEAST + sure.prod(dim=1, keepdim=True)
    share = memory / (1 + memory)
    own = torch.cat([values * own, own], dim=1)
    past, future = own.clone(), own.clone()
    for now in range(1, len(values)):
        past[now] += share * sure[now, 1] * warped(past[now - 1], -flow[now, 1])
    for now in range(len(values) - 2, -1, -1):
        future[now] += share * sure[now, 0] * warped(future[now + 1], flow[now, 0])
    both = past + future - own
    return both[:, :-1] / both[:, -1:]


def consistency(
    flow: Float[Tensor, "frames directions 2 rows columns"],
) -> Float[Tensor, "frames directions rows columns"]:
    """Forward-backward consistency of the flow to the next and from the previous frame, in [0, 1]; 1 at the
    ends of the sequence."""
    agreement = torch.ones_like(flow[:, :, 0])
    for now in range(len(flow)):
        for direction, other in ((0, now + 1), (1, now - 1)):
            if 0 <= other < len(flow):
                here = flow[now, direction]
                there = warped(flow[other, 1 - direction], here if direction == 0 else -here)
                apart = (here - there).square().sum(dim=0)
                length = here.square().sum(dim=0) + there.square().sum(dim=0)
                agreement[now, direction] = torch.exp(-apart / (0.02 * length + 0.5))
    return agreement


def warped(
    values: Float[Tensor, "channels rows columns"], flow: Float[Tensor, "2 height width"]
) -> Float[Tensor, "channels rows columns"]:
    """`values` of another frame, sampled at this frame's pixels displaced by `flow` (in pixels of its grid).

    Example:
        >>> mask = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]]).expand(1, 4, 4)
        >>> warped(mask, torch.tensor([1.0, 0.0])[:, None, None].expand(2, 4, 4))[0, 0].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    rows, columns = values.shape[1:]
    scale = torch.tensor([2 / flow.shape[2], 2 / flow.shape[1]], device=values.device)
    small = flow[None].float()
    if flow.shape[1:] != values.shape[1:]:
        small = F.interpolate(small, (rows, columns), mode="bilinear", align_corners=False)
    y, x = ((2 * torch.arange(size, device=values.device) + 1) / size - 1 for size in (rows, columns))
    here = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1)
    coordinates = here + small[0].permute(1, 2, 0) * scale
    return F.grid_sample(values[None], coordinates[None], padding_mode="border", align_corners=False)[0]

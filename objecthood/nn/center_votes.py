"""Slots from votes: every pixel has a probability of foreground and a vote for the centre of its object.

Generalised Hough voting (Leibe, Leonardis and Schiele 2004), with centres regressed by a network as in
Panoptic-DeepLab (Cheng et al., CVPR 2020, arXiv 1911.10194). Slots are then the means of a soft k-means over
the votes: as in slot attention they compete for pixels by a softmax. Slot 0 is the background.

Differences from Panoptic-DeepLab: no map of centres is predicted, its peaks are those of the votes; and
votes, not pixels, are assigned to the nearest centre.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

BLUR = 0.025
"""Standard deviation of the smoothing of votes before peaks are found, in sides of the image, as below."""
DEVIATION = 0.025
"""Of votes around their centre."""
RADIUS = 0.11
"""Distance from a peak within which votes support it and no other peak."""
LEAST_SUPPORT = 0.0015
"""Share of the image's pixels that must support a peak."""


class CenterVotes(nn.Module):
    """Foreground and votes to slots and masks; deterministic.

    Args:
        num_slots: background and objects; slots without a peak stay empty.
        iterations: of soft k-means.

    Example:
        >>> foreground, votes = torch.zeros(1, 32, 32), torch.zeros(1, 2, 32, 32)
        >>> foreground[0, 4:12, 4:12] = foreground[0, 4:12, 12:20] = 1.0  # two objects that touch
        >>> votes[0, 0], votes[0, 1, :, :12], votes[0, 1, :, 12:] = 0.25, 0.25, 0.5
        >>> centers, masks = CenterVotes(num_slots=4)(foreground, votes)
        >>> masks[0, -1].argmax(dim=0)[8, [2, 8, 16]].tolist()
        [0, 1, 2]
    """

    slot_dim = 2

    def __init__(self, num_slots: int = 7, iterations: int = 3):
        super().__init__()
        self.num_slots, self.iterations = num_slots, iterations

    @torch.no_grad()
    def forward(
        self,
        foreground: Float[Tensor, "batch height width"],
        votes: Float[Tensor, "batch 2 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
    ) -> tuple[Float[Tensor, "batch slots 2"], Float[Tensor, "batch iterations slots height width"]]:
        """Centres (y, x) in [0, 1], and the masks of every iteration, which sum to 1 over slots; `foreground`
        in [0, 1], `votes` in units of the image's sides. Centres of empty slots are 0."""
        num_slots = self.num_slots if num_slots is None else num_slots
        iterations = self.iterations if iterations is None else iterations
        height, width = foreground.shape[1:]
        weights, points = foreground.flatten(1), votes.flatten(2).transpose(1, 2)
        centers, empty = peaks(weights * (weights > 0.5), points, (height, width), num_slots - 1)
        empty[:, 0] = False  # something takes the foreground
        found = []
        for _ in range(iterations):
            square = (points[:, None] - centers[:, :, None]).square().sum(dim=-1)
            logits = (-square / (2 * DEVIATION**2)).masked_fill(empty[..., None], -torch.inf)
            attention = logits.softmax(dim=1) * weights[:, None]
            found.append(torch.cat([1 - weights[:, None], attention], dim=1))
            support = attention * (weights[:, None] > 0.5) * (square < RADIUS**2)
            total = support.sum(dim=-1, keepdim=True)
            centers = torch.where(total > 0, support @ points / total.clamp_min(1e-9), centers)
        masks = torch.stack(found, dim=1).unflatten(-1, (height, width))
        return F.pad(centers.masked_fill(empty[..., None], 0), (0, 0, 1, 0)), masks


def peaks(
    weights: Float[Tensor, "batch inputs"],
    points: Float[Tensor, "batch inputs 2"],
    grid: tuple[int, int],
    number: int,
) -> tuple[Float[Tensor, "batch number 2"], Bool[Tensor, "batch number"]]:
    """The strongest peaks of the votes, one by one, and which of them are too weak; `points` in [0, 1]."""
    height, width = grid
    sides = points.new_tensor([height, width])
    cell = (points * sides).long().clamp_min(0).minimum(sides.long() - 1)
    index = cell[..., 0] * width + cell[..., 1]
    centers, empty = [], []
    for _ in range(number):
        counts = torch.zeros_like(weights).scatter_add_(1, index, weights)
        best = blurred(counts.unflatten(1, grid)).flatten(1).argmax(dim=1)
        center = (torch.stack([best // width, best % width], dim=1) + 0.5) / sides
        for last in (False, True):  # once from the cell, once from the mean of what supports it
            support = weights * ((points - center[:, None]).norm(dim=-1) < RADIUS)
            total = support.sum(dim=1, keepdim=True)
            if not last:
                center = torch.where(
                    total > 0, (support[..., None] * points).sum(1) / total.clamp_min(1e-9), center
                )
        centers.append(center)
        empty.append(total[:, 0] < LEAST_SUPPORT * height * width)
        weights = weights - support
    return torch.stack(centers, dim=1), torch.stack(empty, dim=1)


def blurred(maps: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch height width"]:
    """Maps smoothed by a Gaussian of `BLUR`."""
    for dim, side in ((2, maps.shape[1]), (3, maps.shape[2])):
        reach = max(1, round(3 * BLUR * side))
        distance = torch.arange(-reach, reach + 1, device=maps.device) / (BLUR * side)
        kernel = torch.exp(-distance.square() / 2)
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        padding = (reach, 0) if dim == 2 else (0, reach)
        maps = F.conv2d(maps[:, None], kernel.view(shape), padding=padding)[:, 0]
    return maps

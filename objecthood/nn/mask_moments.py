"""Shapes of soft masks: how scattered they are, and whether two parts are better seen as one thing or as two.

Scatter is a mask's variance in space over that of a disc of the same area: 1 for a disc, 1.05 for a square,
1.25 for an ellipse twice as long as wide, 1.5 for two equal discs that touch, more for things apart. Cutting
a disc or a square leaves parts more scattered than it was; cutting two things apart leaves parts less
scattered. The difference, `split_gain`, so tells one thing from two by shape alone. Moments of parts add
up to those of the whole, so that no pixel is looked at twice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from objecthood.nn.positions import coordinate_grid


class Moments(NamedTuple):
    """What is known of the shape of masks; all but the last axis of `first` are alike."""

    mass: Float[Tensor, "*masks"]
    """Sum of the weights: area, in places of the grid."""
    first: Float[Tensor, "*masks 2"]
    """Weighted sum of positions, in units of the image's sides."""
    second: Float[Tensor, "*masks"]
    """Weighted sum of squared positions."""


def moments(weights: Float[Tensor, "*masks inputs"], places: Float[Tensor, "inputs 2"]) -> Moments:
    """Moments of masks over `places` (in [0, 1])."""
    sums = weights @ position_terms(places)
    return Moments(sums[..., 0], sums[..., 1:3], sums[..., 3])


def position_terms(places: Float[Tensor, "inputs 2"]) -> Float[Tensor, "inputs 4"]:
    """1, both coordinates, and the square of the distance from (0, 0), of every place."""
    square = places.square().sum(dim=-1, keepdim=True)
    return torch.cat([torch.ones_like(square), places, square], dim=-1)


def scatter(shape: Moments, num_places: int) -> Float[Tensor, "*masks"]:
    """Variance in space over that of a disc of the same area, in an image of `num_places` (0 for no mass).

    Too large by a share of 2 / side, as a grid's positions reach from border to border.

    Example:
        >>> from objecthood.nn.positions import coordinate_grid
        >>> places = coordinate_grid(64, 64).flatten(0, 1)
        >>> disc = ((places - 0.5).norm(dim=-1) < 0.3).float()
        >>> round(scatter(moments(disc, places), 64 * 64).item(), 1)
        1.0
    """
    mass = shape.mass.clamp_min(1e-9)
    variance = (shape.second / mass - (shape.first / mass[..., None]).square().sum(dim=-1)) / 2
    return variance.clamp_min(0) * 4 * math.pi * num_places / mass


def split_gain(one: Moments, other: Moments, num_places: int) -> Float[Tensor, "*masks"]:
    """Scatter of the whole minus the mean scatter of its two parts, weighted by mass.

    Above 0 the parts are better seen as two things, below 0 as one. Moments may broadcast.
    """
    whole = Moments(one.mass + other.mass, one.first + other.first, one.second + other.second)
    of_parts = scatter(one, num_places) * one.mass + scatter(other, num_places) * other.mass
    return scatter(whole, num_places) - of_parts / whole.mass.clamp_min(1e-9)


def strip_table(grid: tuple[int, int], num_directions: int = 8) -> Float[Tensor, "inputs directions strips"]:
    """Which strip of the image each place of a grid lies in, one-hot, for directions over half a turn.

    Strips are one row of the grid wide.
    """
    places = coordinate_grid(*grid).flatten(0, 1)
    angle = torch.arange(num_directions) * (math.pi / num_directions)
    along = places @ torch.stack([angle.cos(), angle.sin()])
    strip = ((along - along.amin(dim=0)) * max(grid) + 1e-4).long()
    numbers = torch.arange(num_strips(grid, num_directions))
    return (strip[..., None] == numbers).float()


def num_strips(grid: tuple[int, int], num_directions: int = 8) -> int:
    """The number of strips in `strip_table`, computed from the corners of the grid alone, whose projections
    are the extremes; it needs no values of tensors, so that a model can be built on the meta device."""
    height, width = (float(side > 1) for side in grid)
    spans = [
        abs(height * math.cos(angle)) + abs(width * math.sin(angle))
        for angle in (number * (math.pi / num_directions) for number in range(num_directions))
    ]
    return int(max(spans) * max(grid) + 1e-4) + 1


def best_cut(
    weights: Float[Tensor, "*masks inputs"],
    places: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
    least_mass: float,
) -> tuple[Float[Tensor, "*masks"], Bool[Tensor, "*masks inputs"]]:
    """How much the best straight cut through each mask says that it is two things, and its lighter side.

    Every cut between the strips of `strip_table` is tried. It counts by its `split_gain`, plus 1 minus the
    ratio of the neck that it cuts to the narrower of the two parts at their widest: 1 for a gap, 0 for a
    shape without a waist. A part must keep `least_mass`; -inf where no cut does.
    """
    terms = torch.stack([weights * term for term in position_terms(places).T])
    by_strip = (terms @ strips.flatten(1)).unflatten(-1, strips.shape[1:])
    before = by_strip.cumsum(dim=-1)
    after = (before[..., -1:] - before)[..., :-1]
    before = before[..., :-1]
    one, other = (Moments(part[0], part[1:3].movedim(0, -1), part[3]) for part in (before, after))
    # Strips across a grid at an angle hold unequal numbers of places; neighbours even that out.
    padded = F.pad(by_strip[0], (1, 1))
    width = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    neck = torch.minimum(width[..., :-1], width[..., 1:])
    widest_before = width.cummax(dim=-1).values[..., :-1]
    widest_after = width.flip(-1).cummax(dim=-1).values.flip(-1)[..., 1:]
    waist = 1 - neck / torch.minimum(widest_before, widest_after).clamp_min(1e-9)
    score = split_gain(one, other, len(places)) + waist
    score = score.masked_fill((one.mass < least_mass) | (other.mass < least_mass), -torch.inf)
    best, cut = score.flatten(-2).max(dim=-1, keepdim=True)
    first_is_lighter = (one.mass < other.mass).flatten(-2).gather(-1, cut)
    direction, last_strip = cut[..., 0] // score.shape[-1], cut % score.shape[-1]
    numbers = torch.arange(strips.shape[-1], device=strips.device, dtype=strips.dtype)
    strip = (strips @ numbers).T  # of each place, by direction
    return best[..., 0], (strip[direction] <= last_strip) == first_is_lighter

"""Spatial moments of soft masks, and a split criterion: does a mask cover one object or two?

The scatter of a mask is its spatial variance divided by that of a disc of the same area: 1 for a disc, 1.05
for a square, 1.25 for an ellipse twice as long as wide, 1.5 for two equal discs that touch, more for separate
objects. Cutting one disc or square increases the mean scatter of the parts; separating two objects decreases
it. The criterion is the decrease (`split_gain`). Moments of parts add up to those of the whole.
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
    """Spatial moments of masks up to the second order."""

    mass: Float[Tensor, "*masks"]
    """Sum of the weights: area in grid cells."""
    first: Float[Tensor, "*masks 2"]
    """Weighted sum of coordinates, in units of the image's sides."""
    second: Float[Tensor, "*masks"]
    """Weighted sum of squared distances from (0, 0)."""


def moments(weights: Float[Tensor, "*masks inputs"], coordinates: Float[Tensor, "inputs 2"]) -> Moments:
    """Moments of masks over `coordinates` in [0, 1]."""
    sums = weights @ position_terms(coordinates)
    return Moments(sums[..., 0], sums[..., 1:3], sums[..., 3])


def position_terms(coordinates: Float[Tensor, "inputs 2"]) -> Float[Tensor, "inputs 4"]:
    """1, both coordinates, and the squared distance from (0, 0), of every input."""
    square = coordinates.square().sum(dim=-1, keepdim=True)
    return torch.cat([torch.ones_like(square), coordinates, square], dim=-1)


def scatter(shape: Moments, num_inputs: int) -> Float[Tensor, "*masks"]:
    """Spatial variance relative to a disc of the same area, in a grid of `num_inputs` cells; 0 for no mass.

    Overestimated by a factor of 1 + 2 / side, as grid coordinates include both borders.

    Example:
        >>> from objecthood.nn.positions import coordinate_grid
        >>> coordinates = coordinate_grid(64, 64).flatten(0, 1)
        >>> disc = ((coordinates - 0.5).norm(dim=-1) < 0.3).float()
        >>> round(scatter(moments(disc, coordinates), 64 * 64).item(), 1)
        1.0
    """
    mass = shape.mass.clamp_min(1e-9)
    variance = (shape.second / mass - (shape.first / mass[..., None]).square().sum(dim=-1)) / 2
    return variance.clamp_min(0) * 4 * math.pi * num_inputs / mass


def split_gain(one: Moments, other: Moments, num_inputs: int) -> Float[Tensor, "*masks"]:
    """Scatter of the whole minus the mass-weighted mean scatter of its two parts.

    Positive for two objects, negative for one. Moments broadcast.
    """
    whole = Moments(one.mass + other.mass, one.first + other.first, one.second + other.second)
    part_scatter = scatter(one, num_inputs) * one.mass + scatter(other, num_inputs) * other.mass
    return scatter(whole, num_inputs) - part_scatter / whole.mass.clamp_min(1e-9)


def strip_table(grid: tuple[int, int], num_directions: int = 8) -> Float[Tensor, "inputs directions strips"]:
    """One-hot strip index of each grid cell, for directions over half a turn; strips are one row wide."""
    coordinates = coordinate_grid(*grid).flatten(0, 1)
    angle = torch.arange(num_directions) * (math.pi / num_directions)
    along = coordinates @ torch.stack([angle.cos(), angle.sin()])
    strip = ((along - along.amin(dim=0)) * max(grid) + 1e-4).long()
    numbers = torch.arange(num_strips(grid, num_directions))
    return (strip[..., None] == numbers).float()


def num_strips(grid: tuple[int, int], num_directions: int = 8) -> int:
    """The number of strips in `strip_table`, from the corners of the grid, without tensors: models can be
    built on the meta device."""
    height, width = (float(side > 1) for side in grid)
    spans = [
        abs(height * math.cos(angle)) + abs(width * math.sin(angle))
        for angle in (number * (math.pi / num_directions) for number in range(num_directions))
    ]
    return int(max(spans) * max(grid) + 1e-4) + 1


def best_cut(
    weights: Float[Tensor, "*masks inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
    least_mass: float,
) -> tuple[Float[Tensor, "*masks"], Bool[Tensor, "*masks inputs"]]:
    """Score of the best straight cut through each mask, and the lighter side of that cut.

    All cuts between the strips of `strip_table` are scored: `split_gain` plus 1 minus the width at the cut
    over the largest width of the narrower part (1 for a gap, 0 for a shape without a waist). Both parts must
    have at least `least_mass`; the score is -inf if no cut leaves that.
    """
    terms = torch.stack([weights * term for term in position_terms(coordinates).T])
    by_strip = (terms @ strips.flatten(1)).unflatten(-1, strips.shape[1:])
    before = by_strip.cumsum(dim=-1)
    after = (before[..., -1:] - before)[..., :-1]
    before = before[..., :-1]
    one, other = (Moments(part[0], part[1:3].movedim(0, -1), part[3]) for part in (before, after))
    # Oblique strips hold unequal numbers of cells: smooth over neighbours.
    padded = F.pad(by_strip[0], (1, 1))
    width = (padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]) / 4
    neck = torch.minimum(width[..., :-1], width[..., 1:])
    widest_before = width.cummax(dim=-1).values[..., :-1]
    widest_after = width.flip(-1).cummax(dim=-1).values.flip(-1)[..., 1:]
    waist = 1 - neck / torch.minimum(widest_before, widest_after).clamp_min(1e-9)
    score = split_gain(one, other, len(coordinates)) + waist
    score = score.masked_fill((one.mass < least_mass) | (other.mass < least_mass), -torch.inf)
    best, cut = score.flatten(-2).max(dim=-1, keepdim=True)
    first_is_lighter = (one.mass < other.mass).flatten(-2).gather(-1, cut)
    direction, last_strip = cut[..., 0] // score.shape[-1], cut % score.shape[-1]
    numbers = torch.arange(strips.shape[-1], device=strips.device, dtype=strips.dtype)
    strip = (strips @ numbers).T  # [directions, inputs]
    return best[..., 0], (strip[direction] <= last_strip) == first_is_lighter

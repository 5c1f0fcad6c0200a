"""Mask moments against closed forms, and cuts against exhaustive search."""

import math

import pytest
import torch

from objecthood.nn.mask_moments import Moments, best_cut, moments, scatter, split_gain, strip_table
from objecthood.nn.positions import coordinate_grid

SIDE = 96
PLACES = coordinate_grid(SIDE, SIDE).flatten(0, 1)
X, Y = PLACES.unbind(-1)


def shape_of(mask: torch.Tensor) -> Moments:
    return moments(mask.double(), PLACES.double())


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    return (X - x).square() + (Y - y).square() < radius**2


def rectangle(width: float, height: float) -> torch.Tensor:
    return ((X - 0.5).abs() < width / 2) & ((Y - 0.5).abs() < height / 2)


CLOSED_FORMS = {
    "disc": (disc(0.5, 0.5, 0.3), 1.0),
    "square": (rectangle(0.5, 0.5), math.pi / 3),
    "two squares side by side": (rectangle(0.8, 0.4), 4 * math.pi * 5 / 48),
    "two discs that touch": (disc(0.3, 0.5, 0.2) | disc(0.7, 0.5, 0.2), 1.5),
    "half a disc": (disc(0.5, 0.5, 0.4) & (X > 0.5), 2 - (32 / (9 * math.pi**2)) * 2),
}


@pytest.mark.parametrize("mask, wanted", CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_scatter_is_that_of_the_closed_form(mask, wanted):
    assert abs(scatter(shape_of(mask), SIDE * SIDE).item() / (1 + 2 / SIDE) - wanted) < 0.02


def test_scatter_of_an_empty_mask_is_zero():
    assert scatter(moments(torch.zeros(3, SIDE * SIDE), PLACES), SIDE * SIDE).tolist() == [0, 0, 0]


def test_split_gain_separates_one_object_from_two():
    whole, half = disc(0.5, 0.5, 0.4), X > 0.5
    assert split_gain(shape_of(whole & half), shape_of(whole & ~half), SIDE * SIDE) < -0.25
    one, other = shape_of(disc(0.3, 0.5, 0.2)), shape_of(disc(0.7, 0.5, 0.2))
    assert abs(split_gain(one, other, SIDE * SIDE).item() - 0.5) < 0.03


def test_every_cell_is_in_one_strip_per_direction():
    strips = strip_table((12, 12))
    assert (strips.sum(dim=-1) == 1).all() and strips.shape[:2] == (144, 8)


def test_the_best_cut_is_the_best_of_all_cuts():
    torch.manual_seed(0)
    side = 12
    places, strips = coordinate_grid(side, side).flatten(0, 1), strip_table((side, side))
    masks = torch.rand(1, 3, side * side) * (torch.rand(1, 3, side * side) > 0.5)
    score, lighter = best_cut(masks, places, strips, least_mass=4.0)
    for slot in range(3):
        mask, found = masks[0, slot], -math.inf
        for direction in range(strips.shape[1]):
            strip = strips[:, direction].argmax(dim=-1)
            sums = [0.0, *(mask[strip == number].sum().item() for number in range(strips.shape[2])), 0.0]
            widths = [(a + 2 * b + c) / 4 for a, b, c in zip(sums, sums[1:], sums[2:], strict=False)]
            for cut in range(strips.shape[2] - 1):
                parts = [mask * (strip <= cut), mask * (strip > cut)]
                if min(part.sum() for part in parts) < 4:
                    continue
                neck = min(widths[cut], widths[cut + 1])
                waist = 1 - neck / min(max(widths[: cut + 1]), max(widths[cut + 1 :]))
                gain = split_gain(*(moments(part, places) for part in parts), side * side).item()
                if gain + waist > found:
                    found, side_of = gain + waist, min(parts, key=lambda part: part.sum()) > 0
        assert abs(score[0, slot].item() - found) < 1e-3
        assert torch.equal(lighter[0, slot] & (mask > 0), side_of)

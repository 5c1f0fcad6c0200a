"""Priors on slots: each term against a loop, and rehoming only where there is a reason."""

import math

import pytest
import torch

from objecthood.nn import CompactPrior, SlotAttention
from objecthood.nn.positions import coordinate_grid
from objecthood.nn.priors import _EVERYWHERE, duplication, gaussian_logits, rehoming

SIDE = 32
ROWS, COLUMNS = (
    axis.double() for axis in torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
)
PLACES = coordinate_grid(SIDE, SIDE).flatten(0, 1)


def random_attention(batch: int = 2, slots: int = 4, inputs: int = 30) -> torch.Tensor:
    return torch.randn(batch, slots, inputs, dtype=torch.float64).mul(2).softmax(dim=1)


def test_gaussian_logits_equal_a_loop():
    attention, places = random_attention(), coordinate_grid(5, 6).flatten(0, 1).double()
    logits = gaussian_logits(attention, places, floor=0.004)
    for picture in range(2):
        for slot in range(4):
            weights = attention[picture, slot]
            mass = float(weights.sum())
            centre = [
                sum(float(w * p[axis]) for w, p in zip(weights, places, strict=True)) / mass
                for axis in (0, 1)
            ]
            squared = [(float(p[0]) - centre[0]) ** 2 + (float(p[1]) - centre[1]) ** 2 for p in places]
            variance = sum(float(w) * d for w, d in zip(weights, squared, strict=True)) / mass / 2 + 0.004
            for place in range(30):
                wanted = -squared[place] / (2 * variance) - math.log(variance)
                assert abs(float(logits[picture, slot, place]) - wanted) < 1e-9


def test_gaussian_logits_in_float32_stay_near_float64():
    attention = random_attention(inputs=SIDE * SIDE)
    exact = gaussian_logits(attention, PLACES.double())
    torch.testing.assert_close(gaussian_logits(attention.float(), PLACES).double(), exact, rtol=0, atol=1e-3)


def test_gaussian_logits_of_an_empty_slot_are_finite():
    assert gaussian_logits(torch.zeros(1, 2, 30), coordinate_grid(5, 6).flatten(0, 1)).isfinite().all()


def test_duplication_equals_a_loop():
    attention = random_attention(slots=5, inputs=6)
    attention[:, 1] = attention[:, 0] * 0.5
    attention[:, 3] = attention[:, 2]
    ours = duplication(attention)
    for picture in range(2):
        for slot in range(5):
            mine, worst = attention[picture, slot], 0.0
            for other in attention[picture]:
                if other.sum() > mine.sum():
                    cosine = float(mine @ other / (mine.norm() * other.norm()))
                    worst = max(worst, (cosine - 0.5) / 0.5)
            assert abs(float(ours[picture, slot]) - min(1.0, worst)) < 1e-12
    assert (ours[:, 1] > 0.999).all(), "a lighter copy is a full duplicate"
    assert (ours[:, 0] < 0.999).all(), "the heavier twin pays nothing for its copy"


def attention_of(*masks: torch.Tensor, empty: int = 1) -> torch.Tensor:
    """One picture: a background, a slot that holds each mask (outright), and empty slots."""
    background = ~torch.stack(masks).any(dim=0)
    maps = torch.stack([background, *masks, *[torch.zeros_like(background)] * empty]).flatten(1).float()
    return maps[None]


def disc(row: float, column: float, radius: float) -> torch.Tensor:
    return (ROWS - row).square() + (COLUMNS - column).square() < radius**2


def test_rehoming_hands_the_farther_piece_to_the_empty_slot():
    large, small = disc(8, 8, 5), disc(24, 24, 4)
    bias = rehoming(attention_of(large | small), PLACES)[0].view(3, SIDE, SIDE)
    assert (bias[:2] == 0).all()
    moved = bias[2] > 10
    assert not (moved & ~small).any() and (bias[2][~moved] == 0).all(), "nothing else moves"
    assert moved.sum() > 0.6 * small.sum(), "the rest follows, the new slot's Gaussian being near"


SHAPES = {
    "disc": disc(16, 16, 6),
    "large disc": disc(15, 16, 11),
    "square": ((ROWS - 16).abs() < 6) & ((COLUMNS - 15).abs() < 6),
    "ellipse": ((ROWS - 16) / 4).square() + ((COLUMNS - 16) / 8).square() < 1,
    "touching the border": disc(0, 16, 8),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rehoming_leaves_whole_shapes_alone(shape):
    assert (rehoming(attention_of(shape), PLACES) == 0).all()


def test_rehoming_does_nothing_where_no_slot_is_empty():
    scattered = disc(8, 8, 5) | disc(24, 24, 4)
    assert (rehoming(attention_of(scattered, disc(24, 6, 3), empty=0), PLACES) == 0).all()
    assert (rehoming(attention_of(scattered, empty=1), PLACES) != 0).any(), "with an empty slot it does"


def test_rehoming_never_divides_the_heaviest_slot():
    scattered, disputed = disc(8, 8, 5) | disc(24, 24, 4), torch.full((1, 4, SIDE * SIDE), 0.25)
    attention = attention_of(scattered, disc(24, 6, 4))
    nobody = attention[:, :1] > 0
    assert (rehoming(torch.where(nobody, disputed, attention), PLACES) == 0).all(), "heaviest of what is held"
    larger = attention_of(scattered, disc(24, 6, 7))
    assert (rehoming(torch.where(larger[:, :1] > 0, disputed, larger), PLACES) != 0).any(), (
        "and now it is not"
    )


def test_rehoming_leaves_specks_alone():
    specks = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    specks[2, 2:6] = specks[28, 20:24] = True
    assert (rehoming(attention_of(specks), PLACES) == 0).all()


def test_rehoming_treats_pictures_apart():
    scattered, whole = attention_of(disc(8, 8, 5) | disc(24, 24, 4)), attention_of(disc(16, 16, 6))
    both = rehoming(torch.cat([whole, scattered]), PLACES)
    assert (both[0] == 0).all() and torch.equal(both[1:], rehoming(scattered, PLACES))


@pytest.mark.parametrize("rehome", [False, True])
def test_prior_is_the_weighted_sum_of_its_terms(rehome):
    prior = CompactPrior((SIDE, SIDE), compactness=0.5, repulsion=3.0, rehome=rehome)
    prior.ramp.fill_(0.25)
    attention = attention_of(disc(8, 8, 5) | disc(24, 24, 4)) * 0.9 + 0.1 / 3
    density = gaussian_logits(attention, PLACES)
    density[:, 0] = _EVERYWHERE  # the heaviest slot, the background, is not asked to be compact
    wanted = 0.5 * density - 0.25 * 3.0 * duplication(attention)[..., None]
    if rehome:
        wanted = wanted + rehoming(attention, PLACES)
    torch.testing.assert_close(prior(attention), wanted)


def test_prior_carries_no_gradient_and_no_weights():
    prior = CompactPrior((5, 6), rehome=True)
    attention = random_attention().float().requires_grad_()
    assert not prior(attention).requires_grad
    assert not list(prior.parameters()) and set(prior.state_dict()) == {"ramp"}


def test_prior_acts_in_slot_attention():
    inputs, slots = torch.randn(2, 30, 6), torch.randn(2, 4, 8)
    module = SlotAttention(6, 8)
    plain = module(inputs, slots)
    module.prior = CompactPrior((5, 6))
    compact = module(inputs, slots)
    assert torch.equal(plain.attention[:, 0], compact.attention[:, 0])
    assert not torch.allclose(plain.attention[:, 1], compact.attention[:, 1])


def test_a_wrong_grid_is_told_in_one_line():
    with pytest.raises(ValueError, match="grid of 5 x 6 inputs; got 31 inputs. Build it with") as caught:
        CompactPrior((5, 6))(torch.rand(2, 4, 31))
    assert "\n" not in str(caught.value)

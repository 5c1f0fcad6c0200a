"""Spatial bias: each term against a loop; split and merge only under their conditions."""

import math

import pytest
import torch

from objecthood.nn import SlotAttention, SpatialBias
from objecthood.nn.attention_bias import (
    _CERTAIN,
    _SMALLEST_PART,
    _UNIFORM,
    best_cuts,
    duplicate_score,
    gaussian_logits,
    split_and_merge_mask,
    split_mask,
)
from objecthood.nn.mask_moments import best_cut, strip_table
from objecthood.nn.positions import coordinate_grid

SIDE = 32
ROWS, COLUMNS = (
    axis.double() for axis in torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
)
PLACES = coordinate_grid(SIDE, SIDE).flatten(0, 1)
STRIPS = strip_table((SIDE, SIDE))


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


def attention_of(*masks: torch.Tensor, empty: int = 1) -> torch.Tensor:
    """One image: a background, a slot that holds each mask (outright), and empty slots."""
    background = ~torch.stack(masks).any(dim=0)
    maps = torch.stack([background, *masks, *[torch.zeros_like(background)] * empty]).flatten(1).float()
    return maps[None]


def disc(row: float, column: float, radius: float) -> torch.Tensor:
    return (ROWS - row).square() + (COLUMNS - column).square() < radius**2


def divided(*masks: torch.Tensor, empty: int = 1) -> torch.Tensor:
    return split_mask(attention_of(*masks, empty=empty), PLACES, STRIPS)


PAIRS = {
    "apart": (disc(8, 8, 5), disc(24, 24, 4)),
    "touching": (disc(16, 9, 5), disc(16, 20, 5)),
    "a small one touching a large one": (disc(16, 12, 7), disc(16, 22, 3)),
}


@pytest.mark.parametrize("large, small", PAIRS.values(), ids=PAIRS)
def test_the_lighter_of_two_objects_moves_to_the_empty_slot(large, small):
    given = divided(large | small)[0].view(3, SIDE, SIDE)
    assert not given[:2].any(), "to the empty slot alone"
    moved = given[2]
    wrong = (moved & (large & ~small)).sum() + (~moved & (small & ~large)).sum()
    assert wrong <= 0.15 * min(small.sum(), large.sum())


WHOLE = {
    "disc": disc(16, 16, 6),
    "large disc": disc(15, 16, 8),
    "square": ((ROWS - 16).abs() < 6) & ((COLUMNS - 15).abs() < 6),
    "turned square": (ROWS - 16).abs() + (COLUMNS - 15).abs() < 8,
    "ellipse": ((ROWS - 16) / 4).square() + ((COLUMNS - 16) / 7).square() < 1,
    "touching the border": disc(0, 16, 8),
    "half hidden": disc(16, 16, 7) & (COLUMNS > 16),
}


@pytest.mark.parametrize("shape", WHOLE.values(), ids=WHOLE)
def test_single_objects_are_not_split(shape):
    assert not divided(shape).any()


def test_nothing_is_split_without_an_empty_slot():
    scattered = disc(8, 8, 5) | disc(24, 24, 4)
    assert not divided(scattered, disc(24, 6, 3), empty=0).any()
    assert divided(scattered, empty=1).any(), "with an empty slot it is"


def test_the_background_slot_is_never_split():
    scattered, disputed = disc(8, 8, 5) | disc(24, 24, 4), torch.full((1, 4, SIDE * SIDE), 0.25)
    attention = attention_of(scattered, disc(24, 6, 4))
    alone = torch.where(attention[:, :1] > 0, disputed, attention)
    assert not split_mask(alone, PLACES, STRIPS).any(), "heaviest of what is held"
    larger = attention_of(scattered, disc(24, 6, 7))
    beside = torch.where(larger[:, :1] > 0, disputed, larger)
    assert split_mask(beside, PLACES, STRIPS).any(), "and now it is not"


def test_specks_are_not_split():
    specks = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    specks[2, 2:6] = specks[28, 20:24] = True
    assert not divided(specks).any()


def test_images_of_a_batch_are_split_independently():
    scattered, whole = attention_of(disc(8, 8, 5) | disc(24, 24, 4)), attention_of(disc(16, 16, 6))
    both = split_mask(torch.cat([whole, scattered]), PLACES, STRIPS)
    assert not both[0].any() and torch.equal(both[1:], split_mask(scattered, PLACES, STRIPS))


LEFT, RIGHT = disc(16, 16, 7) & (COLUMNS < 15), disc(16, 16, 7) & (COLUMNS >= 15)


def contents_of(attention: torch.Tensor, *alike: int) -> torch.Tensor:
    """What contents alone say: that of the attention, but `alike` slots are as good as each other."""
    shared = attention[:, list(alike)].mean(dim=1, keepdim=True)
    contents = attention.clone() + 1e-3
    contents[:, list(alike)] = shared + 1e-3
    return contents / contents.sum(dim=1, keepdim=True)


def test_the_lighter_duplicate_is_penalised():
    attention = attention_of(LEFT, RIGHT)
    loss = duplicate_score(attention, contents_of(attention, 1, 2), PLACES)[0]
    light, heavy = (1, 2) if LEFT.sum() < RIGHT.sum() else (2, 1)
    assert loss[light] > 0.9 and loss[heavy] == 0 and loss[0] == 0


BAR_LEFT = (ROWS < 6) & (ROWS >= 3) & (COLUMNS >= 4) & (COLUMNS < 14)
BAR_RIGHT = (ROWS < 6) & (ROWS >= 3) & (COLUMNS >= 14) & (COLUMNS < 25)
PAIR = disc(20, 8, 5) | disc(24, 24, 5)


def exchanged(attention: torch.Tensor, *alike: int) -> torch.Tensor:
    return split_and_merge_mask(attention, contents_of(attention, *alike), PLACES, STRIPS)[0]


def test_a_duplicate_slot_moves_to_one_of_two_objects():
    moved = exchanged(attention_of(BAR_LEFT, BAR_RIGHT, PAIR, empty=0), 1, 2)
    assert not moved[[0, 2, 3]].any(), "the lighter half alone gives way"
    given, wanted = moved[1].view(SIDE, SIDE), (disc(20, 8, 5), disc(24, 24, 5))
    assert min((given ^ thing).sum() for thing in wanted) <= 0.15 * wanted[0].sum()


@pytest.mark.parametrize("why", ["contents differ", "a slot is empty", "the other is lighter", "it is whole"])
def test_split_and_merge_needs_a_duplicate_and_two_objects(why):
    other = {"the other is lighter": disc(20, 8, 2) | disc(24, 24, 2), "it is whole": disc(22, 16, 7)}
    held = (BAR_LEFT, BAR_RIGHT, other.get(why, PAIR))
    attention = attention_of(*held, empty=int(why == "a slot is empty"))
    assert not exchanged(attention, *([1] if why == "contents differ" else [1, 2])).any()


def test_a_reassigned_slot_releases_its_inputs():
    attention_bias = SpatialBias((SIDE, SIDE), merge_penalty=0.0, split_slots=True, split_and_merge=True)
    attention = attention_of(BAR_LEFT, BAR_RIGHT, PAIR, empty=0)
    bias = attention_bias(attention, contents_of(attention, 1, 2))[0]
    assert (bias[1, BAR_LEFT.flatten()] == -_CERTAIN).all() and (bias[1] == _CERTAIN).any()
    assert not (bias[[0, 2, 3]].abs() == _CERTAIN).any()


def test_slots_of_different_contents_are_no_duplicates():
    attention = attention_of(LEFT, RIGHT)
    assert (duplicate_score(attention, contents_of(attention, 1), PLACES)[0, :3] == 0).all()


def test_separate_objects_of_equal_contents_are_no_duplicates():
    attention = attention_of(disc(8, 8, 5), disc(24, 24, 4))
    assert (duplicate_score(attention, contents_of(attention, 1, 2), PLACES)[0, :3] == 0).all()


def test_duplicates_of_the_background_are_penalised_for_any_shape():
    attention = attention_of(disc(8, 8, 5) | disc(24, 24, 6), disc(8, 24, 3))
    loss = duplicate_score(attention, contents_of(attention, 0, 1), PLACES)[0]
    assert loss[1] > 0.9 and loss[0] == 0 and loss[2] == 0


@pytest.mark.parametrize("split_slots", [False, True])
def test_bias_is_the_weighted_sum_of_its_terms(split_slots):
    attention_bias = SpatialBias((SIDE, SIDE), weight=0.5, merge_penalty=3.0, split_slots=split_slots)
    attention_bias.ramp.fill_(0.25)
    attention = attention_of(disc(8, 8, 5) | disc(24, 24, 4)) * 0.9 + 0.1 / 3
    contents = random_attention(1, 3, SIDE * SIDE).float()
    density = gaussian_logits(attention, PLACES)
    density[:, 0] = _UNIFORM  # the heaviest slot, the background, is not asked to be compact
    wanted = 0.5 * density - 0.25 * 3.0 * duplicate_score(attention, contents, PLACES)[..., None]
    if split_slots:
        wanted = wanted.masked_fill(split_mask(attention, PLACES, STRIPS), _CERTAIN)
    torch.testing.assert_close(attention_bias(attention, contents), wanted)


def test_a_split_overrides_the_gaussian_of_the_empty_slot():
    attention_bias = SpatialBias((SIDE, SIDE), weight=1.5, split_slots=True)
    attention = attention_of(disc(6, 6, 4) | disc(26, 26, 3))
    attention[:, 2, -1] = 0.5  # the empty slot's one place, and so its Gaussian
    bias = attention_bias(attention, attention)
    given = split_mask(attention, PLACES, STRIPS)[0, 2]
    assert given.any() and (bias.argmax(dim=1)[0, given] == 2).all()


def test_bias_has_no_gradient_and_no_weights():
    attention_bias = SpatialBias((5, 6), split_slots=True)
    attention = random_attention().float().requires_grad_()
    assert not attention_bias(attention, attention).requires_grad
    assert not list(attention_bias.parameters()) and set(attention_bias.state_dict()) == {"ramp"}


def test_bias_acts_in_slot_attention():
    inputs, slots = torch.randn(2, 30, 6), torch.randn(2, 4, 8)
    module = SlotAttention(6, 8)
    plain = module(inputs, slots)
    module.attention_bias = SpatialBias((5, 6))
    compact = module(inputs, slots)
    assert torch.equal(plain.attention[:, 0], compact.attention[:, 0])
    assert not torch.allclose(plain.attention[:, 1], compact.attention[:, 1])


def test_a_wrong_grid_is_refused_in_one_line():
    with pytest.raises(ValueError, match="grid of 5 x 6 inputs; got 31 inputs. Build it with") as caught:
        SpatialBias((5, 6))(torch.rand(2, 4, 31), torch.rand(2, 4, 31))
    assert "\n" not in str(caught.value)


def test_only_masks_large_enough_for_two_parts_are_cut():
    """Which changes nothing: for less no cut keeps enough on both sides."""
    torch.manual_seed(0)
    held = torch.rand(40, 5, SIDE * SIDE) * (torch.rand(40, 5, 1) * 0.06 > torch.rand(40, 5, SIDE * SIDE))
    divisible = torch.rand(40, 5) > 0.3
    score, side = best_cuts(divisible, held, PLACES, STRIPS)
    wanted, wanted_side = best_cut(held, PLACES, STRIPS, _SMALLEST_PART)
    small = held.sum(dim=-1) < 2 * _SMALLEST_PART
    assert 20 < (small & divisible).sum() < divisible.sum() - 20
    torch.testing.assert_close(score, wanted.masked_fill(~divisible, -torch.inf))
    assert torch.equal(side[score > -torch.inf], wanted_side[score > -torch.inf])

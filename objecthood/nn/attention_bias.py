"""Biases that are added to the attention logits between iterations: slots become compact, and hold one object.

A bias is a function of the attention of one iteration, and of the attention that contents alone would give, and
is added to the logits of the next. This is a variant, not part of the paper's method: plain attention compares
contents only, so that surplus slots share objects and objects of one colour share a slot (results/tries.md).
Nothing here carries gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from objecthood.nn.mask_moments import Moments, best_cut, moments, position_terms, split_gain, strip_table
from objecthood.nn.positions import coordinate_grid
from objecthood.runtime import renamed


class SpatialBias(nn.Module):
    """Slots as Gaussian blobs: merged where two share an object, split where one holds two.

    With p the centroid of a slot's attention and v its mean variance per axis, position g of the grid gets
    `weight * (-|g - p|^2 / (2 v) - log v)`: the logarithm of an isotropic Gaussian, as in expectation
    maximisation; the heaviest slot, the background, gets a uniform density. A slot that resembles a heavier
    one, and together with it makes one compact object, loses up to `merge_penalty` everywhere (`merging`). Where
    one slot holds two things while another holds nothing, the empty one receives the lighter object
    (`splitting`), one per iteration. These are the steps of expectation maximisation with split and merge
    (Ueda et al. 2000).

    Args:
        grid: rows and columns of the inputs that attention runs over.
        weight: weight of the Gaussian (0: none).
        merge_penalty: what a slot loses that repeats a heavier one (0: none); `ramp`, in [0, 1], scales it so
            that training can begin without.
        split_slots: whether empty slots are handed part of what another slot holds.
        split_and_merge: whether, where no slot is empty, two slots of one thing are united if a heavier slot holds
            two things (`splitting_and_merging`).
        same_object: `split_gain` below which two parts are one thing: -0.3 for halves of a disc or a square,
            -1 for two slots that share it, 0.04 for halves of a rectangle of 3 to 2, 0.5 for two discs that
            touch.
    """

    ramp: Tensor
    places: Tensor
    strips: Tensor

    @renamed.arguments
    def __init__(
        self,
        grid: tuple[int, int],
        weight: float = 1.0,
        merge_penalty: float = 15.0,
        split_slots: bool = False,
        split_and_merge: bool = False,
        same_object: float = 0.1,
    ):
        super().__init__()
        self.split_slots, self.split_and_merge, self.same_object = split_slots, split_and_merge, same_object
        self.grid, self.weight, self.merge_penalty = grid, weight, merge_penalty
        self.register_buffer("places", coordinate_grid(*grid).flatten(0, 1), persistent=False)
        self.register_buffer("strips", strip_table(grid), persistent=False)
        self.register_buffer("ramp", torch.ones(()))

    @torch.no_grad()
    def forward(
        self,
        attention: Float[Tensor, "batch slots inputs"],
        resemblance: Float[Tensor, "batch slots inputs"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """What to add to the next logits [batch, slots, rows * columns], given this iteration's attention,
        and the same without what was added to its logits."""
        if attention.shape[-1] != len(self.places):
            raise ValueError(
                f"SpatialBias was built for a grid of {self.grid[0]} x {self.grid[1]} inputs; got "
                f"{attention.shape[-1]} inputs. Build it with the encoder's grid for this image size"
            )
        # All that is added is a polynomial of the position: written as such, the image is passed once.
        places, strips = (
            self.places.to(attention),
            self.strips.to(attention),
        )  # 16-bit models hold 16-bit tables
        shape = moments(attention, places)
        heaviest = shape.mass.argmax(dim=1)[:, None, None].expand(-1, 1, 4)
        uniform = F.pad(attention.new_full((1,), _EVERYWHERE), (0, 3))  # born on the device
        polynomial = gaussian_polynomial(shape).scatter(1, heaviest, uniform.expand_as(heaviest))
        polynomial = self.weight * polynomial
        if self.merge_penalty:
            loss = merging(attention, resemblance, places, self.same_object)
            loss = self.ramp * self.merge_penalty * loss
            polynomial = polynomial - torch.stack([loss, *[torch.zeros_like(loss)] * 3], dim=-1)
        bias = polynomial @ position_terms(places).T
        if not self.split_slots:
            return bias
        # In place of what else was said: an empty slot's Gaussian may lie far from what it is handed.
        bias = bias.masked_fill(splitting(attention, places, strips), _CERTAIN)
        if not self.split_and_merge:
            return bias
        moved = splitting_and_merging(attention, resemblance, places, strips)
        bias = bias.masked_fill(moved.any(dim=-1, keepdim=True), -_CERTAIN)  # nothing else is its business
        return bias.masked_fill(moved, _CERTAIN)


def gaussian_logits(
    attention: Float[Tensor, "batch slots inputs"], places: Float[Tensor, "inputs 2"], floor: float = 0.004
) -> Float[Tensor, "batch slots inputs"]:
    """log density, up to a constant, of each slot's isotropic Gaussian at each place.

    `floor` is added to the variance (about the square of 1/16 of the image's side) so that a slot that
    holds a single place does not become infinitely sure of it.
    """
    return gaussian_polynomial(moments(attention, places), floor) @ position_terms(places).T


def gaussian_polynomial(shape: Moments, floor: float = 0.004) -> Float[Tensor, "batch slots 4"]:
    """`gaussian_logits` as factors of `position_terms`."""
    mass = shape.mass[..., None].clamp_min(1e-12)
    # Moments suffice: E|g|^2 - |p|^2 for the variance, and |g|^2 - 2 g p + |p|^2 for the distance.
    centre, square = shape.first / mass, shape.second[..., None] / mass
    square_of_centre = centre.square().sum(dim=-1, keepdim=True)
    variance = (square - square_of_centre) / 2 + floor
    sharpness = 0.5 / variance
    constant = -square_of_centre * sharpness - variance.log()
    return torch.cat([constant, 2 * centre * sharpness, -sharpness], dim=-1)


def merging(
    attention: Float[Tensor, "batch slots inputs"],
    resemblance: Float[Tensor, "batch slots inputs"],
    places: Float[Tensor, "inputs 2"],
    same_object: float = 0.1,
) -> Float[Tensor, "batch slots"]:
    """How much, in [0, 1], each slot should leave what it holds to a heavier one, the largest over these.

    Slots look alike where contents alone leave them undecided: (cosine of their `resemblance` - 0.2) / 0.8.
    That counts with the background (the heaviest slot) in any case, and between two other slots if what they
    hold makes one thing: its `split_gain` is small, and it is not as large as a background.
    """
    alike = ((cosines(resemblance) - _ALIKE) / (1 - _ALIKE)).clamp(0, 1)
    shape = moments(attention * (attention > _SHARE), places)
    one, other = pairs_of(shape)
    is_one_thing = split_gain(one, other, len(places)) < same_object
    is_one_thing &= one.mass + other.mass < _LARGEST_THING * len(places)
    is_background = torch.zeros_like(shape.mass, dtype=torch.bool)
    is_background = is_background.scatter(1, shape.mass.argmax(dim=1, keepdim=True), True)
    counts = (is_one_thing & ~is_background[:, :, None]) | is_background[:, None]
    is_heavier = other.mass > one.mass
    return alike.masked_fill(~(counts & is_heavier), 0).amax(dim=-1)


def cosines(maps: Float[Tensor, "batch slots inputs"]) -> Float[Tensor, "batch slots slots"]:
    """Cosine of each slot's map with each other's."""
    products = maps @ maps.transpose(1, 2)
    norms = products.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-12)
    return products / (norms[:, :, None] * norms[:, None])


def pairs_of(shape: Moments) -> tuple[Moments, Moments]:
    """Every slot (rows), and every slot beside it (columns)."""
    one = Moments(shape.mass[:, :, None], shape.first[:, :, None], shape.second[:, :, None])
    return one, Moments(shape.mass[:, None], shape.first[:, None], shape.second[:, None])


def splitting(
    attention: Float[Tensor, "batch slots inputs"],
    places: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> Bool[Tensor, "batch slots inputs"]:
    """Where an empty slot is handed the lighter of two things that another holds, and which slot.

    A slot holds the inputs of which it has more than half. The slot whose `best_cut` scores
    highest is divided, if that is enough; never the heaviest (the background), nor one as large as a
    background.
    """
    held = attention * (attention > 0.5)
    mass = held.sum(dim=-1)
    smallest_mass, child = mass.min(dim=1, keepdim=True)
    divisible = (mass <= _LARGEST_THING * len(places)) & (smallest_mass < _EMPTY)
    divisible = divisible.scatter(1, mass.argmax(dim=1, keepdim=True), False)
    score, lighter_side = best_cuts(divisible, held, places, strips)
    highest, parent = score.max(dim=1, keepdim=True)
    return handed(highest > _TWO_THINGS, parent, child, lighter_side & (held > 0))


def splitting_and_merging(
    attention: Float[Tensor, "batch slots inputs"],
    resemblance: Float[Tensor, "batch slots inputs"],
    places: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> Bool[Tensor, "batch slots inputs"]:
    """Where a slot that repeats another is handed the lighter of two things that a third holds, and which.

    Of slots that contents cannot tell apart (cosine of their `resemblance` above 0.9) the pair with the least
    `split_gain` counts. Its lighter slot is spent better elsewhere if a slot holds more than both
    together, has a `best_cut` that says two things, and says so more clearly than the gain does of the pair.
    Only where no slot is empty (else: `splitting`); the background is left out.
    """
    held = attention * (attention > 0.5)
    mass, slots = held.sum(dim=-1), held.shape[1]
    is_thing = torch.ones_like(mass, dtype=torch.bool).scatter(1, mass.argmax(dim=1, keepdim=True), False)
    gain = split_gain(*pairs_of(moments(attention * (attention > _SHARE), places)), len(places))
    repeats = is_thing[:, :, None] & is_thing[:, None] & (cosines(resemblance) > _SAME)
    repeats &= (mass[:, :, None] <= mass[:, None]) & (mass.amin(dim=1) >= _EMPTY)[:, None, None]
    repeats &= ~torch.eye(slots, dtype=torch.bool, device=mass.device)
    least_with, partners = gain.masked_fill(~repeats, torch.inf).min(dim=2)
    least, child = least_with.min(dim=1, keepdim=True)
    partner = partners.gather(1, child)
    together = mass.gather(1, child) + mass.gather(1, partner)
    divisible = is_thing & least.isfinite() & (mass > together) & (mass <= _LARGEST_THING * len(places))
    score, lighter_side = best_cuts(divisible, held, places, strips)
    highest, parent = score.max(dim=1, keepdim=True)
    return handed((highest > _TWO_THINGS) & (highest > least), parent, child, lighter_side & (held > 0))


def handed(
    wanted: Bool[Tensor, "batch 1"],
    parent: Int[Tensor, "batch 1"],
    child: Int[Tensor, "batch 1"],
    part: Bool[Tensor, "batch slots inputs"],
) -> Bool[Tensor, "batch slots inputs"]:
    """In the row of the `child` what is `part` of the `parent`, in images where it is `wanted`."""

    def at(slot: Tensor) -> Tensor:
        return slot[..., None].expand(-1, -1, part.shape[-1])

    return torch.zeros_like(part).scatter(1, at(child), wanted[..., None] & part.gather(1, at(parent)))


def best_cuts(
    divisible: Bool[Tensor, "batch slots"],
    held: Float[Tensor, "batch slots inputs"],
    places: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> tuple[Float[Tensor, "batch slots"], Bool[Tensor, "batch slots inputs"]]:
    """`best_cut` of `divisible` slots; -inf and anything for others.

    On a processor only these are looked at, and only where there is enough for two parts, often a third of
    them; elsewhere their number would have to be waited for.
    """
    if held.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        score, side = best_cut(held, places, strips, _SMALLEST_PART)
        return score.masked_fill(~divisible, -torch.inf), side
    chosen = (divisible & (held.sum(dim=-1) >= 2 * _SMALLEST_PART)).nonzero(as_tuple=True)
    score, side = torch.full_like(held[..., 0], -torch.inf), torch.zeros_like(held, dtype=torch.bool)
    if len(chosen[0]):
        score[chosen], side[chosen] = best_cut(held[chosen], places, strips, _SMALLEST_PART)
    return score, side


_EVERYWHERE = 2.5
"""Log density of the background slot: that of a uniform distribution, log(2 pi) = 1.8 in these units, and
about the logarithm of how many more places it holds than another slot."""
_ALIKE = 0.2
"""Cosine from which slots begin to look alike."""
_SHARE = 0.2
"""Attention from which an input counts for a slot's shape: a long faint tail would scatter any."""
_SAME = 0.9
"""Cosine above which contents cannot tell slots apart."""
_TWO_THINGS = 0.5
"""Score of `best_cut` above which a slot holds two: about 0 for a disc or a square, 0.4 for a crescent, an L
or a rectangle of 2 to 1, 0.6 for a small disc that touches a large one, 1 and more for two discs that
touch."""
_LARGEST_THING = 0.2
"""Share of the image above which a slot holds background, not things."""
_SMALLEST_PART = 5.0
"""Inputs that a part must keep: less is noise."""
_EMPTY = 3
"""Inputs below which a slot counts as empty."""
_CERTAIN = 50.0
"""A difference in logits that no content outweighs."""


def grow_merge_penalty(attention_bias: object, step: int, start: int) -> None:
    """Let the merge_penalty of `attention_bias`, if it is a `SpatialBias`, grow from step `start` on, to all of it 200
    steps later."""
    if isinstance(attention_bias, SpatialBias):
        attention_bias.ramp.fill_(min(1.0, max(0.0, (step - start) / 200)))


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

"""Spatial bias of the attention logits: a Gaussian per slot, duplicate suppression, split and merge.

The bias of an iteration is computed, without gradient, from the attention of the previous iteration and from
its content-only attention (the softmax of the logits without a bias). This is a variant, not part of the
paper's method: plain attention compares contents only, so surplus slots share objects and objects of one
colour share a slot (results/tries.md). Splitting and merging follow Ueda et al. 2000 (expectation
maximisation with split and merge).
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
    """Model each slot as a Gaussian blob; suppress duplicate slots and split slots that hold two objects.

    With p the centroid of a slot's attention and v its mean variance per axis, coordinate g of the grid gets
    `weight * (-|g - p|^2 / (2 v) - log v)`: the logarithm of an isotropic Gaussian. The slot of largest mass
    is taken for the background and gets a uniform density. The logits of a slot that duplicates a slot of
    larger mass are lowered by up to `merge_penalty` (`duplicate_score`). If one slot holds two objects and
    another is empty, the lighter object moves to the empty slot (`split_mask`), one per iteration.

    Args:
        grid: rows and columns of the inputs that attention runs over.
        weight: weight of the Gaussian; 0: none.
        merge_penalty: largest reduction of the logits of a duplicate slot; 0: none. The buffer `ramp`, in
            [0, 1], scales it for a warm-up.
        split_slots: whether an empty slot receives part of what another slot holds.
        split_and_merge: whether, if no slot is empty, a duplicate slot is reassigned to one of two objects
            that a heavier slot holds (`split_and_merge_mask`).
        same_object: `split_gain` below which two parts count as one object: -0.3 for halves of a disc or a
            square, -1 for two slots with the same mask, 0.04 for halves of a rectangle of 3 to 2, 0.5 for
            two discs that touch.
    """

    ramp: Tensor
    coordinates: Tensor
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
        self.register_buffer("coordinates", coordinate_grid(*grid).flatten(0, 1), persistent=False)
        self.register_buffer("strips", strip_table(grid), persistent=False)
        self.register_buffer("ramp", torch.ones(()))

    @torch.no_grad()
    def forward(
        self,
        attention: Float[Tensor, "batch slots inputs"],
        resemblance: Float[Tensor, "batch slots inputs"],
    ) -> Float[Tensor, "batch slots inputs"]:
        """The bias of the next iteration's logits.

        Args:
            attention: softmax over slots of this iteration.
            resemblance: content-only attention: the same softmax without the bias.

        Raises:
            ValueError: the number of inputs is not that of the grid.
        """
        if attention.shape[-1] != len(self.coordinates):
            raise ValueError(
                f"SpatialBias was built for a grid of {self.grid[0]} x {self.grid[1]} inputs; got "
                f"{attention.shape[-1]} inputs. Build it with the encoder's grid for this image size"
            )
        # 16-bit models hold 16-bit tables.
        coordinates, strips = self.coordinates.to(attention), self.strips.to(attention)
        # Gaussian and penalty are one polynomial of the coordinates, evaluated in a single product.
        shape = moments(attention, coordinates)
        heaviest = shape.mass.argmax(dim=1)[:, None, None].expand(-1, 1, 4)
        uniform = F.pad(attention.new_full((1,), _UNIFORM), (0, 3))  # allocated on the device: no transfer
        polynomial = gaussian_polynomial(shape).scatter(1, heaviest, uniform.expand_as(heaviest))
        polynomial = self.weight * polynomial
        if self.merge_penalty:
            penalty = duplicate_score(attention, resemblance, coordinates, self.same_object)
            penalty = self.ramp * self.merge_penalty * penalty
            polynomial = polynomial - torch.stack([penalty, *[torch.zeros_like(penalty)] * 3], dim=-1)
        bias = polynomial @ position_terms(coordinates).T
        if not self.split_slots:
            return bias
        # Replaces the Gaussian, which for an empty slot may lie far from the inputs it receives.
        bias = bias.masked_fill(split_mask(attention, coordinates, strips), _CERTAIN)
        if not self.split_and_merge:
            return bias
        moved = split_and_merge_mask(attention, resemblance, coordinates, strips)
        bias = bias.masked_fill(moved.any(dim=-1, keepdim=True), -_CERTAIN)  # the slot keeps no other input
        return bias.masked_fill(moved, _CERTAIN)


def gaussian_logits(
    attention: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    floor: float = 0.004,
) -> Float[Tensor, "batch slots inputs"]:
    """Log density, up to a constant, of each slot's isotropic Gaussian at each coordinate.

    `floor`, about the square of 1/16 of the image's side, is added to the variance: the density of a slot
    that holds a single input stays finite.
    """
    return gaussian_polynomial(moments(attention, coordinates), floor) @ position_terms(coordinates).T


def gaussian_polynomial(shape: Moments, floor: float = 0.004) -> Float[Tensor, "batch slots 4"]:
    """`gaussian_logits` as coefficients of `position_terms`."""
    mass = shape.mass[..., None].clamp_min(1e-12)
    # Variance: E|g|^2 - |p|^2; squared distance: |g|^2 - 2 g p + |p|^2.
    centre, square = shape.first / mass, shape.second[..., None] / mass
    square_of_centre = centre.square().sum(dim=-1, keepdim=True)
    variance = (square - square_of_centre) / 2 + floor
    sharpness = 0.5 / variance
    constant = -square_of_centre * sharpness - variance.log()
    return torch.cat([constant, 2 * centre * sharpness, -sharpness], dim=-1)


def duplicate_score(
    attention: Float[Tensor, "batch slots inputs"],
    resemblance: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    same_object: float = 0.1,
) -> Float[Tensor, "batch slots"]:
    """How strongly, in [0, 1], each slot duplicates a slot of larger mass: the maximum over such slots.

    The score of a pair is (cosine of content-only attention - 0.2) / 0.8. It counts if one of the two is the
    background (the slot of largest mass), or if both together form one object: small `split_gain`, and less
    mass than a background.
    """
    similarity = ((cosines(resemblance) - _SIMILAR) / (1 - _SIMILAR)).clamp(0, 1)
    shape = moments(attention * (attention > _SHARE), coordinates)
    one, other = pairwise(shape)
    is_one_object = split_gain(one, other, len(coordinates)) < same_object
    is_one_object &= one.mass + other.mass < _MAX_OBJECT * len(coordinates)
    is_background = torch.zeros_like(shape.mass, dtype=torch.bool)
    is_background = is_background.scatter(1, shape.mass.argmax(dim=1, keepdim=True), True)
    counts = (is_one_object & ~is_background[:, :, None]) | is_background[:, None]
    is_heavier = other.mass > one.mass
    return similarity.masked_fill(~(counts & is_heavier), 0).amax(dim=-1)


def cosines(maps: Float[Tensor, "batch slots inputs"]) -> Float[Tensor, "batch slots slots"]:
    """Cosine similarity of the maps of every pair of slots."""
    products = maps @ maps.transpose(1, 2)
    norms = products.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-12)
    return products / (norms[:, :, None] * norms[:, None])


def pairwise(shape: Moments) -> tuple[Moments, Moments]:
    """Moments of the first (rows) and the second slot (columns) of every pair."""
    one = Moments(shape.mass[:, :, None], shape.first[:, :, None], shape.second[:, :, None])
    return one, Moments(shape.mass[:, None], shape.first[:, None], shape.second[:, None])


def split_mask(
    attention: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> Bool[Tensor, "batch slots inputs"]:
    """Inputs that an empty slot receives: the lighter of two objects that another slot holds.

    A slot holds the inputs of which it has more than half the attention. The slot of highest `best_cut` score
    is split if the score exceeds 0.5, unless it is the background (largest mass) or as large as one.
    """
    held = attention * (attention > 0.5)
    mass = held.sum(dim=-1)
    smallest_mass, target = mass.min(dim=1, keepdim=True)
    divisible = (mass <= _MAX_OBJECT * len(coordinates)) & (smallest_mass < _EMPTY)
    divisible = divisible.scatter(1, mass.argmax(dim=1, keepdim=True), False)
    score, lighter_side = best_cuts(divisible, held, coordinates, strips)
    highest, source = score.max(dim=1, keepdim=True)
    return reassigned(highest > _TWO_OBJECTS, source, target, lighter_side & (held > 0))


def split_and_merge_mask(
    attention: Float[Tensor, "batch slots inputs"],
    resemblance: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> Bool[Tensor, "batch slots inputs"]:
    """Inputs that a duplicate slot receives: the lighter of two objects that a third slot holds.

    Slots are duplicates if the cosine of their content-only attention exceeds 0.9; the pair of smallest
    `split_gain` is taken. Its lighter slot is reassigned if a third slot has more mass than both together and
    a `best_cut` score above 0.5 and above the pair's gain. Applies only if no slot is empty (otherwise
    `split_mask` does); the background is excluded.
    """
    held = attention * (attention > 0.5)
    mass, slots = held.sum(dim=-1), held.shape[1]
    is_object = torch.ones_like(mass, dtype=torch.bool).scatter(1, mass.argmax(dim=1, keepdim=True), False)
    gain = split_gain(*pairwise(moments(attention * (attention > _SHARE), coordinates)), len(coordinates))
    duplicates = is_object[:, :, None] & is_object[:, None] & (cosines(resemblance) > _DUPLICATE)
    duplicates &= (mass[:, :, None] <= mass[:, None]) & (mass.amin(dim=1) >= _EMPTY)[:, None, None]
    duplicates &= ~torch.eye(slots, dtype=torch.bool, device=mass.device)
    slot_gain, partners = gain.masked_fill(~duplicates, torch.inf).min(dim=2)
    pair_gain, target = slot_gain.min(dim=1, keepdim=True)
    partner = partners.gather(1, target)
    pair_mass = mass.gather(1, target) + mass.gather(1, partner)
    divisible = (
        is_object & pair_gain.isfinite() & (mass > pair_mass) & (mass <= _MAX_OBJECT * len(coordinates))
    )
    score, lighter_side = best_cuts(divisible, held, coordinates, strips)
    highest, source = score.max(dim=1, keepdim=True)
    applies = (highest > _TWO_OBJECTS) & (highest > pair_gain)
    return reassigned(applies, source, target, lighter_side & (held > 0))


def reassigned(
    applies: Bool[Tensor, "batch 1"],
    source: Int[Tensor, "batch 1"],
    target: Int[Tensor, "batch 1"],
    part: Bool[Tensor, "batch slots inputs"],
) -> Bool[Tensor, "batch slots inputs"]:
    """The `source` row of `part`, moved to the `target` row where it `applies`; False elsewhere."""
    row = part.gather(1, source[..., None].expand(-1, -1, part.shape[-1]))
    return torch.zeros_like(part).scatter(1, target[..., None].expand_as(row), applies[..., None] & row)


def best_cuts(
    divisible: Bool[Tensor, "batch slots"],
    held: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    strips: Float[Tensor, "inputs directions strips"],
) -> tuple[Float[Tensor, "batch slots"], Bool[Tensor, "batch slots inputs"]]:
    """`best_cut` of `divisible` slots: score and lighter side; other slots score -inf.

    On a CPU only slots large enough for two parts are computed, often a third; elsewhere a selection would
    need a synchronisation.
    """
    if held.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        score, side = best_cut(held, coordinates, strips, _SMALLEST_PART)
        return score.masked_fill(~divisible, -torch.inf), side
    selected = (divisible & (held.sum(dim=-1) >= 2 * _SMALLEST_PART)).nonzero(as_tuple=True)
    score, side = torch.full_like(held[..., 0], -torch.inf), torch.zeros_like(held, dtype=torch.bool)
    if len(selected[0]):
        score[selected], side[selected] = best_cut(held[selected], coordinates, strips, _SMALLEST_PART)
    return score, side


_UNIFORM = 2.5
"""Log density of the background slot: log(2 pi) = 1.8 for a uniform distribution in these units, plus about
the logarithm of its mass relative to another slot's."""
_SIMILAR = 0.2
"""Cosine at which the score of a duplicate starts to rise."""
_SHARE = 0.2
"""Attention above which an input counts for a slot's shape; a faint tail would dominate the variance."""
_DUPLICATE = 0.9
"""Cosine of content-only attention above which two slots are duplicates."""
_TWO_OBJECTS = 0.5
"""`best_cut` score above which a slot holds two objects: about 0 for a disc or a square, 0.4 for a crescent,
an L or a rectangle of 2 to 1, 0.6 for a small disc that touches a large one, 1 and more for two discs that
touch."""
_MAX_OBJECT = 0.2
"""Share of the image above which a slot is taken for background."""
_SMALLEST_PART = 5.0
"""Smallest number of inputs of a part."""
_EMPTY = 3
"""Number of inputs below which a slot counts as empty."""
_CERTAIN = 50.0
"""Bias of a forced assignment, larger than any difference of content logits."""


def grow_merge_penalty(attention_bias: object, step: int, start: int) -> None:
    """Ramp the merge penalty of a `SpatialBias` from 0 at step `start` to its full weight 200 steps later;
    other biases are left unchanged."""
    if isinstance(attention_bias, SpatialBias):
        attention_bias.ramp.fill_(min(1.0, max(0.0, (step - start) / 200)))


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

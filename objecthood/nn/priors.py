"""What a slot may prefer between iterations: to be compact in space, and to be one thing.

A prior looks at the attention of one iteration and at what contents alone would say, and returns what to add
to the logits of the next. It is a variant, not part of the paper's method: plain attention compares contents
only, so that surplus slots share objects and objects of one colour share a slot; see results/tries.md on how
it came about. Nothing here carries gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.positions import coordinate_grid
from objecthood.nn.shapes import Moments, best_cut, division_gain, moments, strip_table


class CompactPrior(nn.Module):
    """Slots as Gaussian blobs in the picture, united where two share one thing, divided where one holds two.

    With p the centroid of a slot's attention and v its mean variance per axis, position g of the grid gets
    `compactness * (-|g - p|^2 / (2 v) - log v)`: the logarithm of an isotropic Gaussian, as in expectation
    maximisation; the heaviest slot, the background, gets a uniform density. A slot that looks like a heavier
    one, and together with it makes one compact thing, loses up to `repulsion` everywhere (`merging`). Where
    one slot holds two things while another holds nothing, the empty one is handed the lighter thing
    (`dividing`), one per iteration. These are the steps of expectation maximisation with split and merge
    (Ueda et al. 2000).

    Args:
        grid: rows and columns of the inputs that attention runs over.
        compactness: weight of the Gaussian (0: none).
        repulsion: what a slot loses that repeats a heavier one (0: none); `ramp`, in [0, 1], scales it so
            that training can begin without.
        rehome: whether empty slots are handed part of what another slot holds.
    """

    ramp: Tensor
    places: Tensor
    strips: Tensor

    def __init__(
        self, grid: tuple[int, int], compactness: float = 1.0, repulsion: float = 15.0, rehome: bool = False
    ):
        super().__init__()
        self.rehome = rehome
        self.grid, self.compactness, self.repulsion = grid, compactness, repulsion
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
                f"CompactPrior was built for a grid of {self.grid[0]} x {self.grid[1]} inputs; got "
                f"{attention.shape[-1]} inputs. Build it with the encoder's grid for this picture size"
            )
        density = gaussian_logits(attention, self.places)
        heaviest = attention.sum(dim=-1).argmax(dim=1)[:, None, None].expand(-1, 1, density.shape[-1])
        bias = self.compactness * density.scatter(1, heaviest, _EVERYWHERE)
        if self.repulsion:
            bias = bias - self.ramp * self.repulsion * merging(attention, resemblance, self.places)[..., None]
        if not self.rehome:
            return bias
        # In place of what else was said: an empty slot's Gaussian may lie far from what it is handed.
        return bias.masked_fill(dividing(attention, self.places, self.strips), _CERTAIN)


def gaussian_logits(
    attention: Float[Tensor, "batch slots inputs"], places: Float[Tensor, "inputs 2"], floor: float = 0.004
) -> Float[Tensor, "batch slots inputs"]:
    """log density, up to a constant, of each slot's isotropic Gaussian at each place.

    `floor` is added to the variance (about the square of 1/16 of the picture's side) so that a slot that
    holds a single place does not become infinitely sure of it.
    """
    weights = attention / attention.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    # Moments suffice: E|g|^2 - |p|^2 for the variance, and |g|^2 - 2 g p + |p|^2 for the distance.
    squares = places.square().sum(dim=-1)
    centre = weights @ places
    variance = (weights @ squares - centre.square().sum(dim=-1)) / 2 + floor
    distance = squares - 2 * centre @ places.T + centre.square().sum(dim=-1, keepdim=True)
    return -distance / (2 * variance[..., None]) - variance.log()[..., None]


def merging(
    attention: Float[Tensor, "batch slots inputs"],
    resemblance: Float[Tensor, "batch slots inputs"],
    places: Float[Tensor, "inputs 2"],
) -> Float[Tensor, "batch slots"]:
    """How much, in [0, 1], each slot should leave what it holds to a heavier one, the largest over these.

    Slots look alike where contents alone leave them undecided: (cosine of their `resemblance` - 0.2) / 0.8.
    That counts with the background (the heaviest slot) in any case, and between two other slots if what they
    hold makes one thing: its `division_gain` is small, and it is not as large as a background.
    """
    unit = resemblance / resemblance.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    alike = ((unit @ unit.transpose(1, 2) - _ALIKE) / (1 - _ALIKE)).clamp(0, 1)
    shape = moments(attention * (attention > _SHARE), places)
    one = Moments(shape.mass[:, :, None], shape.first[:, :, None], shape.second[:, :, None])
    other = Moments(shape.mass[:, None], shape.first[:, None], shape.second[:, None])
    is_one_thing = division_gain(one, other, len(places)) < _GAIN_OF_ONE
    is_one_thing &= one.mass + other.mass < _LARGEST_THING * len(places)
    is_background = torch.zeros_like(shape.mass, dtype=torch.bool)
    is_background = is_background.scatter(1, shape.mass.argmax(dim=1, keepdim=True), True)
    counts = (is_one_thing & ~is_background[:, :, None]) | is_background[:, None]
    is_heavier = other.mass > one.mass
    return alike.masked_fill(~(counts & is_heavier), 0).amax(dim=-1)


def dividing(
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
    score, lighter_side = best_cut(held, places, strips, _SMALLEST_PART)
    score = score.masked_fill(mass > _LARGEST_THING * len(places), -torch.inf)
    score = score.scatter(1, mass.argmax(dim=1, keepdim=True), -torch.inf)
    highest, parent = score.max(dim=1, keepdim=True)
    smallest_mass, child = mass.min(dim=1, keepdim=True)
    wanted = (highest > _TWO_THINGS) & (smallest_mass < _EMPTY)

    def at(slot: Tensor) -> Tensor:
        return slot[..., None].expand(-1, -1, held.shape[-1])

    moved = wanted[..., None] & lighter_side.gather(1, at(parent)) & (held.gather(1, at(parent)) > 0)
    return torch.zeros_like(moved).expand_as(attention).scatter(1, at(child), moved)


_EVERYWHERE = 2.5
"""Log density of the background slot: that of a uniform distribution, log(2 pi) = 1.8 in these units, and
about the logarithm of how many more places it holds than another slot."""
_ALIKE = 0.2
"""Cosine from which slots begin to look alike."""
_SHARE = 0.2
"""Attention from which an input counts for a slot's shape: a long faint tail would scatter any."""
_GAIN_OF_ONE = 0.1
"""`division_gain` below which two parts are one thing: -0.3 for halves of a disc or a square, -1 for two
slots that share it, 0.04 for halves of a rectangle of 3 to 2, 0.5 for two discs that touch."""
_TWO_THINGS = 0.5
"""Score of `best_cut` above which a slot holds two: about 0 for a disc or a square, 0.4 for a crescent, an L
or a rectangle of 2 to 1, 0.6 for a small disc that touches a large one, 1 and more for two discs that
touch."""
_LARGEST_THING = 0.2
"""Share of the picture above which a slot holds background, not things."""
_SMALLEST_PART = 5.0
"""Inputs that a part must keep: less is noise."""
_EMPTY = 3
"""Inputs below which a slot counts as empty."""
_CERTAIN = 50.0
"""A difference in logits that no content outweighs."""

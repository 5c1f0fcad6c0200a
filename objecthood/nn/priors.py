"""What a slot may prefer between iterations: to be compact in space, and unlike its heavier twin.

A prior looks at the attention of one iteration and returns what to add to the logits of the next. It is a
variant, not part of the paper's method: plain attention compares contents only, so that surplus slots
duplicate objects and objects of one colour share a slot; see docs on how the sprites recipe came about.
Nothing here carries gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.positions import coordinate_grid


class CompactPrior(nn.Module):
    """Slots as Gaussian blobs in the picture, minus a penalty for slots that repeat a heavier one.

    With p the centroid of a slot's attention and v its mean variance per axis, position g of the grid gets
    `compactness * (-|g - p|^2 / (2 v) - log v)`: the logarithm of an isotropic Gaussian, as in expectation
    maximisation. A slot whose attention has cosine c > 0.5 with a slot of larger mass loses
    `repulsion * (c - 0.5) / 0.5` everywhere. And where one slot holds two things apart while another holds
    nothing, the empty one is handed the farther thing (`rehoming`), once per iteration.

    Args:
        grid: rows and columns of the inputs that attention runs over.
        compactness: weight of the Gaussian (0: none).
        repulsion: weight of the penalty (0: none); `ramp`, in [0, 1], scales it so that training can begin
        without.
        rehome: whether empty slots are handed part of what another slot holds.
    """

    ramp: Tensor
    places: Tensor

    def __init__(
        self, grid: tuple[int, int], compactness: float = 1.0, repulsion: float = 6.0, rehome: bool = False
    ):
        super().__init__()
        self.rehome = rehome
        self.grid, self.compactness, self.repulsion = grid, compactness, repulsion
        self.register_buffer("places", coordinate_grid(*grid).flatten(0, 1), persistent=False)
        self.register_buffer("ramp", torch.ones(()))

    @torch.no_grad()
    def forward(self, attention: Float[Tensor, "batch slots inputs"]) -> Float[Tensor, "batch slots inputs"]:
        """What to add to the next logits, given the attention [batch, slots, rows * columns] of this
        iteration."""
        if attention.shape[-1] != len(self.places):
            raise ValueError(
                f"CompactPrior was built for a grid of {self.grid[0]} x {self.grid[1]} inputs; got "
                f"{attention.shape[-1]} inputs. Build it with the encoder's grid for this picture size"
            )
        density = gaussian_logits(attention, self.places)
        heaviest = attention.sum(dim=-1).argmax(dim=1)[:, None, None].expand(-1, 1, density.shape[-1])
        bias = self.compactness * density.scatter(1, heaviest, _EVERYWHERE)
        if self.repulsion:
            bias = bias - self.ramp * self.repulsion * duplication(attention)[..., None]
        return bias + rehoming(attention, self.places) if self.rehome else bias


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


def duplication(attention: Float[Tensor, "batch slots inputs"]) -> Float[Tensor, "batch slots"]:
    """How much each slot repeats a heavier one: (cosine - 0.5) / 0.5 clamped to [0, 1], the largest over
    these."""
    unit = attention / attention.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    mass = attention.sum(dim=-1)
    is_heavier = mass[:, None, :] > mass[:, :, None]
    cosine = (unit @ unit.transpose(1, 2)).masked_fill(~is_heavier, 0)
    return ((cosine.amax(dim=-1) - 0.5) / 0.5).clamp(0, 1)


def rehoming(
    attention: Float[Tensor, "batch slots inputs"], places: Float[Tensor, "inputs 2"]
) -> Float[Tensor, "batch slots inputs"]:
    """What hands part of the most scattered slot to an empty one: large numbers there, zero elsewhere.

    A slot holds the inputs of which it has more than half. Scatter is its variance in space over that of a
    disc of the same area: 1 for a disc, 1.05 for a square, 1.25 for an ellipse twice as long as wide, far
    more for two things apart. The heaviest slot (the background) is never divided. The part that moves lies
    around the held place farthest from the centre of what is held, in a disc of half the area; this is the
    split step of expectation maximisation with split and merge (Ueda et al. 2000), guided by shape alone.
    """
    held = attention * (attention > 0.5)
    mass = held.sum(dim=-1)
    area = mass / len(places)
    centre = (held @ places) / mass.clamp_min(1e-12)[..., None]
    squares = places.square().sum(dim=-1)
    variance = ((held @ squares) / mass.clamp_min(1e-12) - centre.square().sum(dim=-1)) / 2
    divisible = (mass > _SMALLEST_SPLIT) & (area < _LARGEST_THING)
    scatter = torch.where(divisible, variance * 4 * torch.pi / area.clamp_min(1e-12), 0.0)
    heaviest = mass.argmax(dim=1, keepdim=True)
    largest_scatter, parent = scatter.scatter(1, heaviest, 0.0).max(dim=1, keepdim=True)
    smallest_mass, child = mass.min(dim=1, keepdim=True)
    wanted = (largest_scatter > _LARGEST_SCATTER) & (smallest_mass < _EMPTY)

    of_parent = held.gather(1, parent[..., None].expand(-1, -1, held.shape[-1])).squeeze(1)
    centre = centre.gather(1, parent[..., None].expand(-1, -1, 2))
    distance = (places - centre).square().sum(dim=-1)
    seed = places[(distance * (of_parent > 0)).argmax(dim=1)][:, None]
    radius_squared = area.gather(1, parent) / 2 / torch.pi
    moved = ((places - seed).square().sum(dim=-1) < 2 * radius_squared) & (of_parent > 0) & wanted
    bias = torch.zeros_like(attention)
    return bias.scatter(
        1, child[..., None].expand(-1, -1, bias.shape[-1]), _CERTAIN * moved[:, None].to(bias)
    )


_EVERYWHERE = 3.0
"""Log density of the background slot: that of a uniform distribution, log(2 pi) = 1.8 in these units, and
about the logarithm of how many more places it holds than another slot."""
_SMALLEST_SPLIT = 12
"""Inputs that a slot must hold to be divided: less is noise."""
_LARGEST_THING = 0.2
"""Share of the picture above which a slot holds background, not things."""
_EMPTY = 3
"""Inputs below which a slot counts as empty."""
_LARGEST_SCATTER = 1.7
"""Above what a heart half covered by another sprite reaches."""
_CERTAIN = 50.0
"""A difference in logits that no content outweighs."""

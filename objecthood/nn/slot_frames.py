"""Slots seen, and painted, from their own centre: a thing is the same thing wherever it lies.

After Invariant Slot Attention (Biza et al. 2023, arXiv 2302.04973), where slots have a place of their own,
from which positions are told to attention and to the decoder. Here attention stays as it is. With p the
centre of what slot k attends to, a its attention as a weighted mean, x the places of the inputs f, and w
fixed frequencies, a slot is told once, at the end, what it holds:

    slot_k = T slot_k + W [ sum_i a_ki (U f_i) cos(w (x_i - p_k)),  sum_i a_ki (V f_i) sin(w (x_i - p_k)) ]

These are the first terms of a Fourier series of it, as seen from p. And it is painted on a canvas that begins
at p, to the pixel. To draw a shape is then learned once, and not for every place (results/tries.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from objecthood.nn.decoders import DecoderOutput, as_output, guided, join_patches
from objecthood.nn.precision import at_least_float32, without_autocast
from objecthood.runtime import renamed


class SlotFrameReadout(nn.Module):
    """Slots, told what they hold as seen from their own centre.

    Args:
        input_dim: size of an input.
        slot_dim: size of a slot.
        resolution: side of the image, to whose pixels centres are rounded, as they are to paint.
        waves: number of frequencies.
        finest: the highest of them, in waves per side of the image.

    Example:
        >>> read = SlotFrameReadout(input_dim=64, slot_dim=64, resolution=35)
        >>> inputs, attention = torch.randn(2, 324, 64), torch.rand(2, 4, 18, 18).softmax(dim=1)
        >>> read(torch.randn(2, 4, 64), inputs, attention).shape
        torch.Size([2, 4, 64])
    """

    frequencies: Tensor

    def __init__(self, input_dim: int, slot_dim: int, resolution: int, waves: int = 64, finest: float = 7.0):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("frequencies", spiral(waves, finest), persistent=False)
        self.keep = nn.Linear(slot_dim, slot_dim)
        self.amplitudes = nn.Linear(input_dim, 2 * waves)
        self.output = nn.Linear(2 * waves, slot_dim)

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        inputs: Float[Tensor, "batch inputs input_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> Float[Tensor, "batch slots slot_dim"]:
        """The slots; inputs lie row by row on the grid of `attention`."""
        where = cell_centres(attention)
        with without_autocast(attention):
            centre = centres(attention, self.resolution).to(where) / self.resolution
            weights = at_least_float32(attention.flatten(2))
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)
            frequencies = self.frequencies.to(where)
            angle, at_centre = (places @ frequencies.T for places in (where, centre))
        amplitudes = self.amplitudes(inputs)  # U f and V f
        weights = weights.to(amplitudes.dtype)
        cosine, sine = (
            torch.cat([wave, wave], dim=-1).to(amplitudes.dtype) for wave in (angle.cos(), angle.sin())
        )
        even_cosine, odd_cosine = (weights @ (amplitudes * cosine)).to(at_centre.dtype).chunk(2, dim=-1)
        even_sine, odd_sine = (weights @ (amplitudes * sine)).to(at_centre.dtype).chunk(2, dim=-1)
        # cos(a - b) and sin(a - b): the sums above know only a, the place in the image.
        cosine, sine = at_centre.cos(), at_centre.sin()
        seen = torch.cat(
            [even_cosine * cosine + even_sine * sine, odd_sine * cosine - odd_cosine * sine], dim=-1
        )
        told: Tensor = self.keep(slots) + self.output(seen.to(self.output.weight.dtype))
        return told


class SlotCentredPatchDecoder(nn.Module):
    """`PatchDecoder` with independent cells, on a canvas that begins at each slot's centre, to the pixel.

    Only the cells that may be seen are painted, and cut to the image.

    Args:
        slot_dim: size of a slot, and of the hidden layers.
        resolution: side of the image.
        patch: side of the patch that a cell paints.
        depth: hidden layers after the first sum of slot and position.
        waves: number of frequencies by which a cell knows where it lies.
        finest: the highest of them, in waves per side of the image.

    Masks are guided by the attention, as `PatchDecoder`'s can be.

    Example:
        >>> paint = SlotCentredPatchDecoder(slot_dim=64, resolution=35, patch=5)
        >>> paint(torch.randn(2, 4, 64), torch.rand(2, 4, 18, 18).softmax(dim=1)).unconditioned_logits.shape
        torch.Size([2, 4, 35, 35])
    """

    frequencies: Tensor

    def __init__(
        self,
        slot_dim: int,
        resolution: int,
        patch: int,
        depth: int = 2,
        waves: int = 16,
        finest: float = 1.75,
    ):
        super().__init__()
        self.resolution, self.patch = resolution, patch
        self.register_buffer("frequencies", spiral(waves, finest), persistent=False)
        self.from_position = nn.Sequential(
            nn.Linear(2 * waves + 2, slot_dim), nn.ReLU(), nn.Linear(slot_dim, slot_dim)
        )
        self.layers = nn.ModuleList(nn.Linear(slot_dim, slot_dim) for _ in range(depth))
        self.output = nn.Linear(slot_dim, 4 * patch * patch)

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"],
    ) -> DecoderOutput:
        """Paint every slot where `attention`, that of the last iteration, says that it lies."""
        centre = centres(attention, self.resolution).flatten(0, 1)
        # On a slot's canvas pixel 0 is its centre: the image reaches from -centre on.
        first_cell = -centre.div(self.patch, rounding_mode="floor") - 1
        canvas = slots.flatten(0, 1)[:, None] + self._positions(first_cell)
        for layer in self.layers:
            canvas = layer(canvas.relu())
        visible = self._visible
        canvas = self.output(canvas.relu()).unflatten(1, (visible, visible)).permute(0, 3, 1, 2)
        canvas = cut(join_patches(canvas, self.patch), -centre - first_cell * self.patch, self.resolution)
        return guided(as_output(canvas, slots.shape[1]), attention)

    @property
    def _visible(self) -> int:
        """Cells along an axis of which an image may show a part."""
        return -(-self.resolution // self.patch) + 1

    def _positions(self, first_cell: Int[Tensor, "paintings 2"]) -> Float[Tensor, "paintings cells slot_dim"]:
        """What cells are told of where they lie, `_visible` along each axis from `first_cell` on."""
        reach = self._visible
        numbers = torch.arange(-reach, reach).to(self.frequencies)
        axis = (numbers + 0.5) * (self.patch / self.resolution)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
        angle = places @ self.frequencies.T
        table = self.from_position(torch.cat([places, angle.cos(), angle.sin()], dim=-1))
        seen = first_cell[:, :, None] + torch.arange(self._visible, device=first_cell.device) + reach
        return F.embedding((seen[:, 0, :, None] * len(axis) + seen[:, 1, None]).flatten(1), table)


@torch.no_grad()
def centres(
    attention: Float[Tensor, "batch slots rows columns"], resolution: int
) -> Int[Tensor, "batch slots 2"]:
    """The pixel (y, x), of an image of side `resolution`, amid what each slot has more than half of.

    Of a slot that has more than half of nothing it is the middle of the image.

    Example:
        >>> attention = torch.zeros(1, 1, 4, 4)
        >>> attention[..., :2, 2:] = 1
        >>> centres(attention, 40)
        tensor([[[10, 30]]])
    """
    weights = at_least_float32(attention.flatten(2))
    weights = weights * (weights > 0.5) + 1e-6
    middle = weights @ cell_centres(attention) / weights.sum(dim=-1, keepdim=True)
    # Halves go up, also where a sum is off by rounding: an empty slot lies between two pixels of an odd side.
    return (middle * resolution + 1e-3).round().long().clamp(0, resolution - 1)


def cell_centres(maps: Float[Tensor, "*maps rows columns"]) -> Float[Tensor, "cells 2"]:
    """(y, x) of the middle of every cell of `maps`, in [0, 1]: half a cell off the borders."""
    like = at_least_float32(maps.new_empty(0))
    axes = (torch.arange(0.5, size).to(like) / size for size in maps.shape[-2:])
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def spiral(number: int, finest: float) -> Float[Tensor, "number 2"]:
    """Frequencies (y, x), in radians per side of the image, spread evenly over the disc of radius `finest`
    waves: a Fermat spiral, each a golden angle on (Vogel 1979)."""
    step = torch.arange(number) + 0.5
    radius, angle = 2 * math.pi * finest * (step / number).sqrt(), step * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def cut(
    canvas: Float[Tensor, "paintings channels height width"],
    corner: Int[Tensor, "paintings 2"],
    side: int,
) -> Float[Tensor, "paintings channels side side"]:
    """Of each painting the square of `side` whose upper left pixel is at its `corner`."""
    rows, columns = (corner[:, axis, None] + torch.arange(side, device=corner.device) for axis in (0, 1))
    channels, width = canvas.shape[1], canvas.shape[3]
    canvas = canvas.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return canvas.gather(3, columns[:, None, None].expand(-1, channels, side, -1))


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

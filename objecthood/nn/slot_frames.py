"""Slot-centric reference frames: slots are read out and decoded relative to their own centre.

After Invariant Slot Attention (Biza et al. 2023, arXiv 2302.04973), which gives attention and decoder
positions relative to each slot. `frames` and `RelativePatchDecoder` are the paper's, for
`nn.invariant_slot_attention`. `SlotFrameReadout` and `SlotCentredPatchDecoder` are a variant: attention is
unchanged; a readout after the last iteration adds the slot's contents in its own frame. With p the centre of
slot k, a its attention normalised over inputs, x the coordinates of the inputs f, and w fixed frequencies:

    slot_k = T slot_k + W [ sum_i a_ki (U f_i) cos(w (x_i - p_k)),  sum_i a_ki (V f_i) sin(w (x_i - p_k)) ]

These are the first terms of a Fourier series around p. The decoder's canvas starts at p. Shapes are thus
learned once and not per location (results/tries.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from objecthood.nn.decoders import DecoderOutput, PatchDecoder, add_attention, as_output, join_patches
from objecthood.nn.precision import at_least_float32, without_autocast
from objecthood.runtime import renamed


class SlotFrameReadout(nn.Module):
    """Readout of each slot's contents in its own reference frame.

    Args:
        input_dim: size of an input.
        slot_dim: size of a slot.
        resolution: side of the image in pixels; centres are rounded to pixels, as in the decoder.
        waves: number of frequencies.
        finest: highest frequency, in waves per side of the image.

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
        """The updated slots; `inputs` are in row-major order of the grid of `attention`."""
        coordinates = cell_centres(attention)
        with without_autocast(attention):
            centre = centres(attention, self.resolution).to(coordinates) / self.resolution
            weights = at_least_float32(attention.flatten(2))
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)
            frequencies = self.frequencies.to(coordinates)
            angle, at_centre = (points @ frequencies.T for points in (coordinates, centre))
        amplitudes = self.amplitudes(inputs)  # U f and V f
        weights = weights.to(amplitudes.dtype)
        cosine, sine = (
            torch.cat([wave, wave], dim=-1).to(amplitudes.dtype) for wave in (angle.cos(), angle.sin())
        )
        even_cosine, odd_cosine = (weights @ (amplitudes * cosine)).to(at_centre.dtype).chunk(2, dim=-1)
        even_sine, odd_sine = (weights @ (amplitudes * sine)).to(at_centre.dtype).chunk(2, dim=-1)
        # cos(a - b) and sin(a - b), with a the coordinate in the image and b the centre.
        cosine, sine = at_centre.cos(), at_centre.sin()
        series = [even_cosine * cosine + even_sine * sine, odd_sine * cosine - odd_cosine * sine]
        contents = torch.cat(series, dim=-1).to(self.output.weight.dtype)
        readout: Tensor = self.keep(slots) + self.output(contents)
        return readout


class SlotCentredPatchDecoder(nn.Module):
    """`PatchDecoder` with independent cells, on a canvas aligned to the pixel of each slot's centre.

    Only cells that overlap the image are decoded, then cropped to it. Masks are attention-conditioned.

    Args:
        slot_dim: size of a slot, and of the hidden layers.
        resolution: side of the image in pixels.
        patch: side of a cell's patch in pixels.
        depth: number of hidden layers.
        waves: number of frequencies of a cell's position embedding.
        finest: highest frequency, in waves per side of the image.

    Example:
        >>> decode = SlotCentredPatchDecoder(slot_dim=64, resolution=35, patch=5)
        >>> decode(torch.randn(2, 4, 64), torch.rand(2, 4, 18, 18).softmax(dim=1)).unconditioned_logits.shape
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
        """Decode every slot at its centre of `attention`, that of the last iteration."""
        centre = centres(attention, self.resolution).flatten(0, 1)
        # Pixel 0 of a canvas is the slot's centre: the image starts at -centre.
        first_cell = -centre.div(self.patch, rounding_mode="floor") - 1
        canvas = slots.flatten(0, 1)[:, None] + self._positions(first_cell)
        for layer in self.layers:
            canvas = layer(canvas.relu())
        visible = self._visible
        canvas = self.output(canvas.relu()).unflatten(1, (visible, visible)).permute(0, 3, 1, 2)
        canvas = crop(join_patches(canvas, self.patch), -centre - first_cell * self.patch, self.resolution)
        return add_attention(as_output(canvas, slots.shape[1]), attention)

    @property
    def _visible(self) -> int:
        """Largest number of cells along an axis that overlap the image."""
        return -(-self.resolution // self.patch) + 1

    def _positions(self, first_cell: Int[Tensor, "canvases 2"]) -> Float[Tensor, "canvases cells slot_dim"]:
        """Position embeddings of `_visible` cells along each axis, starting at `first_cell`."""
        reach = self._visible
        numbers = torch.arange(-reach, reach).to(self.frequencies)
        axis = (numbers + 0.5) * (self.patch / self.resolution)
        coordinates = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
        angle = coordinates @ self.frequencies.T
        table = self.from_position(torch.cat([coordinates, angle.cos(), angle.sin()], dim=-1))
        index = first_cell[:, :, None] + torch.arange(self._visible, device=first_cell.device) + reach
        return F.embedding((index[:, 0, :, None] * len(axis) + index[:, 1, None]).flatten(1), table)


class RelativePatchDecoder(PatchDecoder):
    """`PatchDecoder` whose cells have positions relative to each slot's position and scale.

    The decoder of Biza et al. 2023 (arXiv 2302.04973): the position embedding of a cell at x, in a slot with
    the frame (p, s) of its attention (`frames`), is that of (x - p) / (5 s). A slot decodes to the same
    image at any position, and to a larger one at a larger scale. Use it with `InvariantSlotAttention`.

    Args:
        options: as in `PatchDecoder`.
        scale_factor: divisor of relative coordinates (paper: 5).

    Example:
        >>> decode = RelativePatchDecoder(slot_dim=64, grid=7, patch=5, channels=32)
        >>> decode(torch.randn(2, 4, 64), torch.rand(2, 4, 18, 18).softmax(dim=1)).appearance.shape
        torch.Size([2, 4, 3, 35, 35])
    """

    def __init__(
        self,
        slot_dim: int,
        grid: int,
        patch: int,
        channels: int,
        *,
        scale_factor: float = 5.0,
        **options: Any,
    ):
        super().__init__(slot_dim, grid, patch, channels, **options)
        self.scale_factor = scale_factor
        self.from_position = nn.Sequential(nn.Linear(2, channels), nn.ReLU(), nn.Linear(channels, channels))

    def _positions(self, slots: Tensor, attention: Tensor | None) -> Tensor:
        if attention is None:
            raise ValueError(
                "RelativePatchDecoder needs `attention` [batch, slots, rows, columns], for its frames; "
                "got None"
            )
        cells = 2 * cell_centres(attention.new_empty(self.grid, self.grid)) - 1
        with without_autocast(attention):
            weights = at_least_float32(attention.flatten(2))
            position, scale = frames(weights, 2 * cell_centres(attention) - 1).flatten(0, 1).chunk(2, dim=-1)
            relative = (cells - position[:, None]) / (self.scale_factor * scale[:, None])
        embeddings: Tensor = self.from_position(relative.to(self.from_slot.weight.dtype))
        return embeddings.unflatten(1, (self.grid, self.grid))


def frames(
    attention: Float[Tensor, "batch slots inputs"],
    coordinates: Float[Tensor, "inputs 2"],
    least: float = 1e-3,
    largest: float = 2.0,
) -> Float[Tensor, "batch slots 4"]:
    """Position (y, x) and scale (y, x) of each slot: mean and standard deviation of its attention.

    Biza et al. 2023 (arXiv 2302.04973), in the units of `coordinates`. Scales are bounded by `least` and
    `largest`. A slot without attention has the position 0 and the least scale.

    Example:
        >>> coordinates = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
        >>> frames(torch.ones(1, 1, 2), coordinates)
        tensor([[[0.0000, 0.0000, 0.5000, 0.0010]]])
    """
    weights = attention / attention.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    position = weights @ coordinates
    offset = coordinates - position[:, :, None]
    variance = (weights[..., None] * offset.square()).sum(dim=2)
    # Bounded before the root, whose gradient at 0 is infinite.
    return torch.cat([position, variance.clamp(least**2, largest**2).sqrt()], dim=-1)


@torch.no_grad()
def centres(
    attention: Float[Tensor, "batch slots rows columns"], resolution: int
) -> Int[Tensor, "batch slots 2"]:
    """Centre pixel (y, x) of each slot: the mean of cells with more than half the attention.

    `resolution` is the side of the image. The centre of an empty slot is the middle of the image.

    Example:
        >>> attention = torch.zeros(1, 1, 4, 4)
        >>> attention[..., :2, 2:] = 1
        >>> centres(attention, 40)
        tensor([[[10, 30]]])
    """
    weights = at_least_float32(attention.flatten(2))
    weights = weights * (weights > 0.5) + 1e-6
    middle = weights @ cell_centres(attention) / weights.sum(dim=-1, keepdim=True)
    # The offset rounds halves up despite rounding errors: an empty slot is between two pixels of an odd side.
    return (middle * resolution + 1e-3).round().long().clamp(0, resolution - 1)


def cell_centres(maps: Float[Tensor, "*maps rows columns"]) -> Float[Tensor, "cells 2"]:
    """(y, x) of the centre of every cell of `maps`, in [0, 1]."""
    like = at_least_float32(maps.new_empty(0))
    axes = (torch.arange(0.5, size).to(like) / size for size in maps.shape[-2:])
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)


def spiral(number: int, finest: float) -> Float[Tensor, "number 2"]:
    """Frequencies (y, x), in radians per side of the image, evenly spread over the disc of radius `finest`
    waves: a Fermat spiral with golden-angle steps (Vogel 1979)."""
    step = torch.arange(number) + 0.5
    radius, angle = 2 * math.pi * finest * (step / number).sqrt(), step * math.pi * (3 - math.sqrt(5))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def crop(
    canvas: Float[Tensor, "canvases channels height width"],
    corner: Int[Tensor, "canvases 2"],
    side: int,
) -> Float[Tensor, "canvases channels side side"]:
    """The square of `side` pixels of each canvas whose upper left pixel is `corner` (y, x)."""
    rows, columns = (corner[:, axis, None] + torch.arange(side, device=corner.device) for axis in (0, 1))
    channels, width = canvas.shape[1], canvas.shape[3]
    canvas = canvas.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
    return canvas.gather(3, columns[:, None, None].expand(-1, channels, side, -1))


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

"""Textures as plane waves: the wave that fits the pixels of a mask, and local frequencies of an image.

A pattern that repeats across a surface is a few points in the surface's Fourier transform, wherever the
surface lies and whatever its outline. `PlaneWaves.fit` takes the strongest of them. `dominant_frequencies`
needs no masks: it starts from peaks of the image's power spectrum and moves each by the weighted median of
the local increments of phase (instantaneous frequency, Bovik, Clark and Geisler 1990, "Multichannel texture
analysis using localized spatial filters"), which jumps of phase at borders do not shift.
`local_coefficients` are the Fourier coefficients of a window around each pixel at these frequencies: one
point for each surface, however its stripes are coloured.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

RIDGE = 0.01
"""Of the least squares, as a share of a mask's area."""
WINDOW = 1 / 32
"""Deviation of the window of local coefficients, of the image's side."""
SMOOTHING = 1.0
"""Deviation in cycles of the Gaussian that joins the side lobes of a peak."""
APART = 6.0
"""Least distance of two dominant frequencies, in cycles."""
REFINEMENTS = 4
"""Moves of a dominant frequency by the increments of phase; two are often too few, more change nothing."""


class PlaneWaves(nn.Module):
    """Spectra and waves of square images. Frequencies are in cycles across the image. No weights.

    Args:
        side: side of the images in pixels.
        lowest, highest: range of frequencies of a wave.
        step: of the grid of frequencies.

    Example:
        >>> waves = PlaneWaves(side=32, highest=12.0)
        >>> stripes = torch.cos(2 * math.pi * 6.3 * (torch.arange(32) + 0.5) / 32).expand(1, 32, 32)
        >>> found = waves.fit(stripes, torch.ones(1, 1, 32, 32))
        >>> [round(value, 1) for value in found[0, 0, :2].abs().tolist()]
        [6.3, 0.0]
        >>> (waves(found)[:, 0] - stripes).abs().max().item() < 0.2
        True
    """

    across: Tensor
    down: Tensor
    pixels: Tensor
    to_across: Tensor
    to_down: Tensor
    allowed: Tensor

    def __init__(self, side: int, lowest: float = 4.0, highest: float = 16.0, step: float = 0.25):
        super().__init__()
        self.side, self.step = side, step
        across = torch.arange(0, highest + step / 2, step)
        down = torch.arange(-highest, highest + step / 2, step)
        pixels = (torch.arange(side) + 0.5) / side - 0.5
        radius = torch.hypot(across, down[:, None])
        buffers = {
            "across": across,
            "down": down,
            "pixels": pixels,
            "to_across": torch.polar(torch.ones(side, len(across)), -2 * math.pi * pixels[:, None] * across),
            "to_down": torch.polar(torch.ones(len(down), side), -2 * math.pi * down[:, None] * pixels),
            "allowed": ((radius > lowest) & (radius < highest)).float(),
        }
        for name, values in buffers.items():
            self.register_buffer(name, values, persistent=False)

    def spectrum(
        self, images: Float[Tensor, "*batch height width"]
    ) -> Complex[Tensor, "*batch frequencies_down frequencies_across"]:
        """Fourier coefficients at all frequencies of the grid (a half plane)."""
        return self.to_down @ images.to(self.to_down.dtype) @ self.to_across

    def phase(self, frequencies: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch height width"]:
        """Phase in radians at each pixel of waves of these frequencies, across and down."""
        across, down = (frequencies[..., axis, None, None] for axis in (0, 1))
        return 2 * math.pi * (across * self.pixels + down * self.pixels[:, None])

    def forward(self, waves: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch height width"]:
        """Images of waves, each two frequencies and the weights of cosine and sine."""
        phase = self.phase(waves[..., :2])
        return waves[..., 2, None, None] * phase.cos() + waves[..., 3, None, None] * phase.sin()

    def fit(
        self, image: Float[Tensor, "batch height width"], masks: Float[Tensor, "batch slots height width"]
    ) -> Float[Tensor, "batch slots 4"]:
        """The strongest wave of the pixels of each mask, refined between points of the grid by a parabola
        through the log power, with its least squares weights."""
        seen = masks * image[:, None]
        power = self.spectrum(seen).abs().square()
        columns = len(self.across)
        index = (power * self.allowed).flatten(2).argmax(dim=-1)
        row, column = index // columns, index % columns
        frequencies = torch.stack([self.across[column], self.down[row]], dim=-1)
        logs = F.pad(power.clamp(min=1e-12).log(), (1, 1, 1, 1), mode="replicate").flatten(2)
        here = (row + 1) * (columns + 2) + column + 1
        offsets = [
            vertex(*(logs.gather(2, (here + shift)[..., None])[..., 0] for shift in (-stride, 0, stride)))
            for stride in (1, columns + 2)
        ]
        frequencies = frequencies + self.step * torch.stack(offsets, dim=-1)
        phase = self.phase(frequencies)
        cosine, sine = phase.cos(), phase.sin()
        ridge = RIDGE * (masks.sum(dim=(2, 3)) + 1e-3)
        cc, ss, cs, c, s = (
            values.sum(dim=(2, 3))
            for values in (
                masks * cosine**2,
                masks * sine**2,
                masks * cosine * sine,
                seen * cosine,
                seen * sine,
            )
        )
        cc, ss = cc + ridge, ss + ridge
        determinant = cc * ss - cs.square()
        weights = torch.stack([c * ss - s * cs, s * cc - c * cs], dim=-1) / determinant[..., None]
        return torch.cat([frequencies, weights], dim=-1)


def vertex(low: Tensor, middle: Tensor, high: Tensor) -> Tensor:
    """Position of the top of a parabola through values at -1, 0 and 1, at most half a step away."""
    curvature = (low - 2 * middle + high).clamp(max=-1e-9)
    return (0.5 * (low - high) / curvature).clamp(-0.5, 0.5)


def dominant_frequencies(
    waves: PlaneWaves, image: Float[Tensor, "batch height width"], number: int
) -> Float[Tensor, "batch number 2"]:
    """The strongest frequencies across and down, at least `APART` from one another before refinement."""
    power = waves.spectrum(image).abs().square()
    whole = torch.cat([power.flip(1, 2)[..., :-1], power], dim=-1)  # the other half plane is its mirror image
    power = blur(whole[:, None], SMOOTHING / waves.step)[:, 0, :, -power.shape[-1] :] * waves.allowed
    grid = torch.stack(torch.broadcast_tensors(waves.across, waves.down[:, None]), dim=-1)
    found = []
    for _ in range(number):
        frequencies = grid.flatten(0, 1)[power.flatten(1).argmax(dim=1)]
        for _ in range(REFINEMENTS):
            real, imaginary = demodulated(waves, image, frequencies[:, None]).unbind(dim=1)
            local = torch.complex(real, imaginary)
            local = local * local.abs()  # pixels of this wave outweigh the others
            across = median_phase(local[:, :, 1:] * local[:, :, :-1].conj())
            down = median_phase(local[:, 1:] * local[:, :-1].conj())
            frequencies = frequencies + torch.stack([across, down], dim=-1) * waves.side / (2 * math.pi)
        found.append(frequencies)
        for sign in (1, -1):
            power = power * ((grid - sign * frequencies[:, None, None]).norm(dim=-1) > APART)
    return torch.stack(found, dim=1)


def local_coefficients(
    waves: PlaneWaves, image: Float[Tensor, "batch height width"], number: int
) -> Float[Tensor, "batch channels height width"]:
    """Real and imaginary parts of the coefficients of a Gaussian window around each pixel at the dominant
    frequencies; their squares sum to 1 on average."""
    maps = demodulated(waves, image, dominant_frequencies(waves, image, number))
    return maps / (maps.square().sum(dim=1).mean(dim=(1, 2)).sqrt() + 1e-6)[:, None, None, None]


def demodulated(
    waves: PlaneWaves,
    image: Float[Tensor, "batch height width"],
    frequencies: Float[Tensor, "batch number 2"],
) -> Float[Tensor, "batch channels height width"]:
    """The image times the conjugate of each wave, real parts then imaginary parts, blurred."""
    phase = waves.phase(frequencies)
    parts = torch.cat([image[:, None] * phase.cos(), -image[:, None] * phase.sin()], dim=1)
    return blur(parts, WINDOW * waves.side)


def median_phase(increments: Complex[Tensor, "batch rows columns"]) -> Float[Tensor, " batch"]:
    """The median of the angles, weighted by the magnitudes."""
    angles, order = increments.flatten(1).angle().sort(dim=1)
    total = increments.flatten(1).abs().gather(1, order).cumsum(dim=1)
    below = (total < total[:, -1:] / 2).sum(dim=1, keepdim=True)
    return angles.gather(1, below)[:, 0]


def blur(
    maps: Float[Tensor, "batch channels height width"], deviation: float
) -> Float[Tensor, "batch channels height width"]:
    """Convolution with a Gaussian, cut at 3 deviations; reflected at the borders."""
    reach = round(3 * deviation)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1, device=maps.device) ** 2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(maps.shape[1], 1, -1)
    maps = F.pad(maps, (reach,) * 4, mode="reflect").contiguous(memory_format=torch.channels_last)
    maps = F.conv2d(maps, kernel[:, :, None], groups=maps.shape[1])
    return F.conv2d(maps, kernel[..., None], groups=maps.shape[1])

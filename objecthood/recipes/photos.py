"""The model `photos` of `hub.load`, which is not trained and has no recipe."""

from __future__ import annotations

from objecthood.models.spectral import SpectralSegmenter


def photos(sides: tuple[int, ...] = (448, 320)) -> SpectralSegmenter:
    """Frozen features of the bundled backbone, at scales `sides`, and a consensus of normalised cuts."""
    return SpectralSegmenter(sides=sides).eval()

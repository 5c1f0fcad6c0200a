"""The model `photos` of `hub.load`, which is not trained and has no recipe."""

from __future__ import annotations

from objecthood.models.spectral import SpectralSegmenter


def photos() -> SpectralSegmenter:
    """Frozen features of the bundled backbone at two scales, and a consensus of normalised cuts."""
    return SpectralSegmenter().eval()

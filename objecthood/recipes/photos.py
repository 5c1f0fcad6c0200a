"""The model `photos`: nothing is trained, so it is no recipe to train, and `hub.load` knows it by name."""

from __future__ import annotations

from objecthood.models.spectral import SpectralSegmenter


def photos() -> SpectralSegmenter:
    """Frozen features of the bundled backbone, and a consensus of normalised cuts."""
    return SpectralSegmenter().eval()

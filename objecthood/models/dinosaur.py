"""Slots over frozen features, which they must reconstruct: object discovery in photographs.

Seitzer et al. 2023, "Bridging the Gap to Real-World Object-Centric Learning" (DINOSAUR, arXiv 2209.14860),
with its MLP decoder (`nn.feature_decoders`) or its autoregressive one (`nn.autoregressive_decoder`), which
SPOT trains with several patch orders (Kakogeorgiou et al. 2024, arXiv 2312.00648).

Differences: the backbone is never trained (as in DINOSAUR; SPOT's second stage trains its last blocks, so
that its published weights have a `grouped` backbone beside the reconstructed one). Off by default: masks of
the slots' attention in place of the decoder's, masks that follow the edges of the image (`nn.guided_filter`),
positions added to what slots group, convolutions before the slots (`nn.local_context`).
"""

from __future__ import annotations

from objecthood.models.of_features import FeatureModel


class Dinosaur(FeatureModel):
    """Slots over the features of images: a `FeatureModel` whose images stand for themselves."""

"""Set prediction: a picture is encoded, grouped into slots, and every slot says what object it stands for.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), section 3.2
and appendix E.3. Trained with properties as labels; which slot answers for which object is left to
assignment.

Differences from the paper: none in `clevr`; `fast_clevr` has other strides and learned slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn import ConvEncoder, GaussianSlots, Grouping, LearnedSlots, SlotAttention
from objecthood.nn.encoders import check_pictures
from objecthood.nn.initialization import glorot
from objecthood.nn.views import symmetric


class SetPrediction(NamedTuple):
    """What a set predictor makes of a batch of pictures."""

    properties: Float[Tensor, "batch slots properties"]
    """In [0, 1]; CLEVR: 3 coordinates, one-hot size 2, material 2, shape 3, colour 8, real-object flag."""
    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots, of every iteration, on the encoder's grid."""


class SetPredictor(nn.Module):
    """Encoder, grouping, and a two-layer head with sigmoid shared by all slots.

    Args:
        encoder: pictures in [-1, 1] to features on a grid.
        grouping: features to slots.
        num_properties: outputs of each slot (CLEVR: 19).
        resolution: side of the pictures, in pixels.

    Example:
        >>> import torch
        >>> from objecthood.models import set_predictor
        >>> set_predictor.clevr()(torch.rand(2, 3, 128, 128)).properties.shape
        torch.Size([2, 10, 19])
    """

    encoder: ConvEncoder
    grouping: Grouping

    def __init__(self, encoder: ConvEncoder, grouping: Grouping, num_properties: int, resolution: int):
        super().__init__()
        self.encoder, self.grouping, self.resolution = encoder, grouping, resolution
        self.head = nn.Sequential(
            glorot(nn.Linear(self.slot_dim, self.slot_dim)),
            nn.ReLU(),
            glorot(nn.Linear(self.slot_dim, num_properties)),
        )

    @property
    def num_slots(self) -> int:
        """Slots used when a call names no number."""
        return self.grouping.initial_slots.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.grouping.slot_attention.slot_dim

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> SetPrediction:
        """Say what is in `images` ([0, 1]); number of slots and iterations as built unless named.

        `noise` (standard normal) is what Gaussian slots start from; drawn unless given.
        """
        check_pictures(images, self.resolution)
        features = self.encoder(symmetric(images).contiguous(memory_format=torch.channels_last))
        slots, attention = self.grouping(features.flatten(1, 2), num_slots, iterations, noise=noise)
        properties = self.head(slots).float().sigmoid()
        return SetPrediction(properties, slots, attention.unflatten(-1, features.shape[1:3]))


def clevr(num_slots: int = 10, resolution: int = 128) -> SetPredictor:
    """The paper's model for CLEVR10 at 128 x 128: 32 x 32 features, ten slots."""
    return SetPredictor(
        ConvEncoder(channels=64, feature_dim=64, strides=(1, 2, 2, 1)),
        Grouping(GaussianSlots(num_slots, 64), SlotAttention(64, 64, iterations=3, hidden_dim=128)),
        num_properties=19,
        resolution=resolution,
    )


def fast_clevr(num_slots: int = 10, resolution: int = 64) -> SetPredictor:
    """A cheaper relative: half the picture's side in features at once, learned slots with bi-level
    gradient."""
    return SetPredictor(
        ConvEncoder(channels=64, feature_dim=64, strides=(2, 1, 1, 1)),
        Grouping(LearnedSlots(num_slots, 64), SlotAttention(64, 64, iterations=3, gradient="bilevel")),
        num_properties=19,
        resolution=resolution,
    )

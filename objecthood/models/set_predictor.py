"""Set prediction: object properties from slots, trained with labels and Hungarian matching.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), section 3.2
and appendix E.3.

Differences from the paper: none in `clevr`; `fast_clevr` has other strides, smaller kernels, learned slots,
and an auxiliary head on features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.models.base import ExportStages, SlotModel, SlotOutput
from objecthood.nn import ConvEncoder, GaussianSlots, Grouping, LearnedSlots, SlotAttention
from objecthood.nn.color_transforms import symmetric
from objecthood.nn.encoders import SameConv2d, check_images
from objecthood.nn.initialization import glorot
from objecthood.nn.precision import at_least_float32
from objecthood.runtime import renamed


class SetPredictorOutput(NamedTuple):
    """Output of `SetPredictor` for a batch of images."""

    properties: Float[Tensor, "batch slots properties"]
    """In [0, 1]; CLEVR: 3 coordinates, one-hot size 2, material 2, shape 3, colour 8, real-object flag."""
    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots of every iteration, on the encoder's grid."""


class SetPredictor(SlotModel):
    """Encoder, grouping, and a two-layer head with sigmoid, shared by all slots.

    Args:
        encoder: images in [-1, 1] to features on a grid.
        grouping: features to slots.
        num_properties: outputs of each slot (CLEVR: 19).
        resolution: side of the images, in pixels.
        feature_dim: input size of the auxiliary head on features (`read_features`, a variant for training);
            0: none.

    Example:
        >>> import torch
        >>> from objecthood.models import set_predictor
        >>> set_predictor.clevr()(torch.rand(2, 3, 128, 128)).properties.shape
        torch.Size([2, 10, 19])
    """

    encoder: ConvEncoder
    grouping: Grouping
    result_kind = "objects"

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: Grouping,
        num_properties: int,
        resolution: int,
        feature_dim: int = 0,
    ):
        super().__init__()
        self.encoder, self.grouping = encoder, grouping
        self.image_size = resolution, resolution
        self.feature_grid = encoder.grid(self.image_size)
        self.head = nn.Sequential(
            glorot(nn.Linear(self.slot_dim, self.slot_dim)),
            nn.ReLU(),
            glorot(nn.Linear(self.slot_dim, num_properties)),
        )
        self.feature_head = nn.Linear(feature_dim, num_properties) if feature_dim else None

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> SetPredictorOutput:
        """Predicted object properties of `images` in [0, 1].

        Args:
            num_slots, iterations: those of the grouping unless given.
            noise: standard normal noise of the initial slots, drawn unless given.

        Raises:
            ValueError: `images` are not floats of the model's size.
        """
        return self.group(self.encode(images), num_slots, iterations, noise)

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of `images` in [0, 1]."""
        check_images(images, self.resolution)
        return self.encoder(symmetric(images).contiguous(memory_format=torch.channels_last))

    def group(
        self,
        features: Float[Tensor, "batch grid_height grid_width feature_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> SetPredictorOutput:
        """Output for encoded images; arguments as in `forward`."""
        slots, attention = self.grouping(features.flatten(1, 2), num_slots, iterations, noise=noise)
        return SetPredictorOutput(self.read(slots), slots, attention.unflatten(-1, features.shape[1:3]))

    def read_features(
        self,
        features: Float[Tensor, "batch grid_height grid_width feature_dim"],
        places: Float[Tensor, "batch objects 2"],
    ) -> Float[Tensor, "batch objects properties"]:
        """Properties in [0, 1] predicted from the features at `places` (see `sample_at`)."""
        assert self.feature_head is not None, "built without `feature_dim`"
        found = sample_at(features.permute(0, 3, 1, 2), places)
        return at_least_float32(self.feature_head(found.to(features.dtype))).sigmoid()

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`, without masks; only the first restart is used, as restarts cannot be
        ranked."""
        found = self(images, num_slots, iterations, self._restart_noise(restarts, noise)[0])
        return SlotOutput(**found._asdict())

    def export_stages(self) -> ExportStages:
        return ExportStages(symmetric, self.encoder, self.grouping, head=self.head)

    def every_iteration(
        self, features: Float[Tensor, "batch grid_height grid_width feature_dim"]
    ) -> list[SetPredictorOutput]:
        """The output of each iteration, with the gradient through all iterations.

        For intermediate losses (a variant, as in Carion et al. 2020, arXiv 2005.12872). Slot attention runs
        one iteration at a time, so its `attention_bias` and `gradient` have no effect.
        """
        inputs, grid = features.flatten(1, 2), features.shape[1:3]
        slots, outputs = self.grouping.initial_slots(inputs.shape[0]), []
        for _ in range(self.grouping.slot_attention.iterations):
            slots, attention = self.grouping.slot_attention(inputs, slots, iterations=1)
            outputs.append(SetPredictorOutput(self.read(slots), slots, attention.unflatten(-1, grid)))
        return outputs

    def read(self, slots: Float[Tensor, "batch slots slot_dim"]) -> Float[Tensor, "batch slots properties"]:
        """Predicted properties of slots, in [0, 1]."""
        return at_least_float32(self.head(slots)).sigmoid()


def sample_at(
    maps: Float[Tensor, "batch channels rows columns"], places: Float[Tensor, "batch objects 2"]
) -> Float[Tensor, "batch objects channels"]:
    """Values of `maps` at coordinates `places` (across, down; -1 to 1 from border to border), bilinear.

    Example:
        >>> sample_at(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[0.5, 0.0], [0.0, 0.0]]]))
        tensor([[[1.0000],
                 [0.5000]]])
    """
    maps = at_least_float32(maps)
    found = F.grid_sample(maps, places[:, :, None].to(maps), padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def clevr(num_slots: int = 10, resolution: int = 128) -> SetPredictor:
    """The paper's model for CLEVR10 at 128 x 128: 32 x 32 features, ten slots."""
    return SetPredictor(
        ConvEncoder(channels=64, feature_dim=64, strides=(1, 2, 2, 1)),
        Grouping(GaussianSlots(num_slots, 64), SlotAttention(64, 64, iterations=3, hidden_dim=128)),
        num_properties=19,
        resolution=resolution,
    )


def fast_clevr(num_slots: int = 10, resolution: int = 128, read_features: bool = True) -> SetPredictor:
    """A faster variant: features at an eighth of the resolution, learned slots, and, with `read_features`,
    the auxiliary head on features."""
    encoder = ConvEncoder(channels=64, feature_dim=64, strides=(4, 2, 1, 1), kernel=3)
    encoder.convolutions[0] = SameConv2d(3, 64, kernel=5, stride=4)  # a kernel of 3 skips every 4th pixel
    return SetPredictor(
        encoder,
        Grouping(LearnedSlots(num_slots, 64), SlotAttention(64, 64, iterations=3)),
        num_properties=19,
        resolution=resolution,
        feature_dim=64 if read_features else 0,
    )


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

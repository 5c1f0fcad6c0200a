"""Frozen image features by name, whatever network computes them: the contract of a backbone.

`backbone("hf:facebook/dinov2-small")` is a module of images in [0, 1] to features on a grid. Its weights are
restored by identity (`nn.frozen`) and stored in no file; which layer is read, and whether the last norm is
applied, are arguments, which recipes record.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn import frozen


class Backbone(nn.Module):
    """Features of images, of any size that is a multiple of `stride`; nothing in it is trained.

    Args:
        part: a frozen module of the signature (images [batch, 3, height, width] in [0, 1], layer,
            final_norm) -> [batch, rows, columns, feature_dim], with the attributes `stride` and
            `feature_dim`.
        layer: how many blocks to pass; 0: all.
        final_norm: whether to apply the network's last norm.

    Attributes:
        identity: name, revision and SHA-256 of the weights, means and deviations included.
        stride: pixels a side of a patch.
        feature_dim: size of a feature.

    Example:
        >>> features = backbone("efficientnet-lite0", final_norm=True)
        >>> features(torch.rand(1, 3, 64, 96)).shape, features.grid((64, 96))
        (torch.Size([1, 4, 6, 304]), (4, 6))
    """

    def __init__(self, part: frozen.Frozen, layer: int = 0, final_norm: bool = False):
        super().__init__()
        self.part, self.layer, self.final_norm = part, layer, final_norm
        module: Any = part.module
        self.stride: int = module.stride
        self.feature_dim: int = module.feature_dim

    @property
    def identity(self) -> frozen.Identity:
        """Of the weights."""
        return self.part.identity

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.part.module.parameters()).device

    @property
    def is_bundled(self) -> bool:
        """Whether the features are those of the package's own network, all layers, normalised."""
        return self.identity.name.startswith("bundled:") and self.final_norm and not self.layer

    @property
    def key(self) -> str:
        """What features depend on beside the images."""
        return f"{self.identity} {self.identity.sha256} layer {self.layer} norm {self.final_norm}"

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features of images of this height and width in pixels.

        Raises:
            ValueError: a side that is not a multiple of the stride.
        """
        height, width = image_size
        if min(height, width) < 1 or height % self.stride or width % self.stride:
            nearest = " x ".join(str(max(1, round(side / self.stride)) * self.stride) for side in image_size)
            raise ValueError(
                f"images of {height} x {width} pixels must have sides that are multiples of {self.stride}, "
                f"the patch of {self.identity}; take {nearest}"
            )
        return height // self.stride, width // self.stride

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch rows columns feature_dim"]:
        """Features of images in [0, 1], without a gradient.

        Raises:
            ValueError: a side that is not a multiple of the stride.
        """
        self.grid((images.shape[2], images.shape[3]))
        return self.part(images, self.layer, self.final_norm)


def backbone(name: str, layer: int = 0, final_norm: bool = False) -> Backbone:
    """The backbone of that name: "efficientnet-lite0", which comes with the package, "hf:OWNER/NAME" or
    "timm:NAME", each with "@COMMIT" behind it where a revision is wanted; other arguments as `Backbone`.

    Raises:
        FrozenPartError: there is none of that name or revision.
    """
    full, _, revision = (name if ":" in name else f"bundled:{name}").partition("@")
    return Backbone(frozen.restore(full, revision), layer, final_norm)

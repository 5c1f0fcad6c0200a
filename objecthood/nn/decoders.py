"""Decoders: each slot is decoded to an image and a mask logit per pixel.

`SpatialBroadcastDecoder` (Watters et al. 2019, arXiv 1901.07017) as in Locatello et al. 2020 (arXiv
2006.15055), appendix E.3. `PatchDecoder` is a faster variant, not in the paper: a coarse grid whose cells
decode to patches (pixel shuffle). With `attention_conditioned_masks` it adds the logarithm of the last
attention to the mask logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.encoders import SameConv2d, convolution_format
from objecthood.nn.initialization import glorot
from objecthood.nn.positions import PositionEmbedding, border_distances
from objecthood.nn.precision import at_least_float32, without_autocast
from objecthood.runtime import renamed


class DecoderOutput(NamedTuple):
    """Decoded image of each slot, in the units of the training target, and its mask logits."""

    appearance: Float[Tensor, "batch slots 3 height width"]
    mask_logits: Float[Tensor, "batch slots height width"]
    unconditioned_logits: Float[Tensor, "batch slots height width"] | None = None
    """Mask logits before the attention is added; None for decoders without attention-conditioned masks."""


class SpatialBroadcastDecoder(nn.Module):
    """The paper's decoder.

    Args:
        slot_dim: size of a slot.
        grid: side of the square grid that slots are broadcast to (paper: 8 for CLEVR, else the image's side).
        channels: output channels of every layer but the last, which has 4: RGB and mask logit.
        strides: strides of all layers (paper, CLEVR: 2, 2, 2, 2, 1, 1); the image has side grid * product.
        kernels: kernel sides of all layers (paper: 5, and 3 for the last).

    A first layer of stride 1 is computed from the slot without broadcasting (`BroadcastConv2d`).
    """

    def __init__(
        self,
        slot_dim: int,
        grid: int,
        channels: Sequence[int],
        strides: Sequence[int],
        kernels: Sequence[int],
    ):
        super().__init__()
        self.grid, self.resolution = grid, grid * math.prod(strides)
        sizes = [slot_dim, *channels, 4]
        self.position = PositionEmbedding(slot_dim)
        layers: list[nn.Module] = []
        for index, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
            kind: type[nn.Module] = SameConv2d
            if stride > 1:
                kind = SameConvTranspose2d
            elif index == 0:
                kind = BroadcastConv2d
            elif index == len(strides) - 1:
                kind = OutputConv2d
            layers.append(kind(sizes[index], sizes[index + 1], kernel, stride))
        self.layers = nn.ModuleList(layers)

    def forward(
        self, slots: Float[Tensor, "batch slots slot_dim"], attention: Tensor | None = None
    ) -> DecoderOutput:
        """Decode every slot; `attention` is ignored."""
        flat = slots.flatten(0, 1)
        positions = self.position(self.grid, self.grid).permute(2, 0, 1)
        first, *others = self.layers
        if isinstance(first, BroadcastConv2d):
            canvas = first(flat, positions)
        else:
            canvas = first((flat[:, :, None, None] + positions).contiguous(memory_format=torch.channels_last))
        for layer in others:
            canvas = layer(canvas.relu())
        return as_output(canvas, slots.shape[1])


class SameConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution cropped as TensorFlow's SAME: output size = input size * stride.

    The reference crops the smaller half at the top and left. PyTorch's `output_padding` crops the larger
    half there, which shifts the image by a pixel per layer.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__(in_channels, out_channels, kernel, stride, padding=(kernel - stride) // 2)
        glorot(self)

    def forward(self, image: Float[Tensor, "batch in_channels height width"]) -> Tensor:  # type: ignore[override]
        """[batch, out_channels, height * stride, width * stride]"""
        height, width = image.shape[-2] * self.stride[0], image.shape[-1] * self.stride[1]
        layout = convolution_format(image, self.kernel_size[0])
        image, weight = image.contiguous(memory_format=layout), self.weight.contiguous(memory_format=layout)
        padding = (self.kernel_size[0] - self.stride[0]) // 2
        canvas = F.conv_transpose2d(image, weight, None, self.stride, padding)
        # Negative padding avoids the copy in the gradient of a slice. The bias is added here: inside the
        # convolution it costs six times as much as the rest (oneDNN, bfloat16).
        canvas = F.pad(canvas, (0, width - canvas.shape[-1], 0, height - canvas.shape[-2]))
        assert self.bias is not None
        return canvas + self.bias.to(canvas.dtype)[:, None, None]


class BroadcastConv2d(SameConv2d):
    """A SAME convolution over broadcast slots plus position embedding, without broadcasting.

    By linearity, conv(copies + positions) = conv(copies) + conv(positions), and all slots share the second
    term. The first is constant except near the borders, where zero padding hides taps of the kernel: a kernel
    of side s has s * s distinct responses, each a product of the slot with a partial sum of the kernel. Equal
    to the plain convolution up to rounding.
    """

    def forward(  # type: ignore[override]
        self, slots: Float[Tensor, "batch channels"], positions: Float[Tensor, "channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The convolution of `slots[:, :, None, None] + positions`, in the next layer's memory format."""
        side, (height, width) = self.kernel_size[0], positions.shape[1:]
        if min(height, width) < side - 1:  # both borders hide taps at one position
            return super().forward(slots[:, :, None, None] + positions)
        visible = visible_taps(side).to(self.weight)
        kernels = torch.einsum("oiyx,ay,bx->aboi", self.weight, visible, visible)
        response = F.linear(slots, kernels.flatten(0, 2)).view(slots.shape[0], side, side, -1)
        if convolution_format(positions[None], side) == torch.contiguous_format:
            response = response.permute(0, 3, 1, 2).contiguous()
            response = stretch_middle(stretch_middle(response, height, dim=2), width, dim=3)
            return response + super().forward(positions[None])
        response = stretch_middle(stretch_middle(response, height, dim=1), width, dim=2)
        shared = super().forward(positions[None]).permute(0, 2, 3, 1)
        return (response + shared).permute(0, 3, 1, 2)


class OutputConv2d(SameConv2d):
    """A SAME convolution to few channels: on a CPU, one matrix product for all taps, then shifted sums.

    CPU libraries pad output channels to 16, which wastes three quarters of the work for 4. In 16 bits each
    tap's response is rounded before the sum in float32. Equal to the plain convolution up to rounding.
    """

    def forward(self, image: Float[Tensor, "batch in_channels height width"]) -> Tensor:
        """[batch, out_channels, height, width]"""
        if image.is_cuda:
            return super().forward(image)
        side, reach = self.kernel_size[0], self.kernel_size[0] // 2
        taps = self.weight.permute(2, 3, 0, 1).flatten(0, 2)
        rows = image.permute(0, 2, 3, 1).flatten(0, 2)
        height, width = image.shape[-2:]
        maps = (taps @ rows.T).view(side * side, self.out_channels, -1, height, width)
        assert self.bias is not None
        canvas = self.bias[:, None, None, None]
        for index, response in enumerate(maps):
            down, right = index // side - reach, index % side - reach
            if abs(down) < height and abs(right) < width:  # else the tap covers only padding
                canvas = canvas + F.pad(response, (-right, right, -down, down)).to(canvas.dtype)
        return canvas.transpose(0, 1)


class PatchDecoder(nn.Module):
    """A fast decoder: few layers on a coarse grid; every cell decodes to a patch of RGB and mask logits.

    Args:
        slot_dim: size of a slot.
        grid: side of the coarse grid.
        patch: side of a cell's patch in pixels; the image has side grid * patch.
        channels: channels of the hidden layers.
        depth: number of hidden convolutions.
        kernel: side of all kernels; with 1, cells are decoded independently.
        last_kernel: side of the output layer's kernel (default: `kernel`).
        attention_conditioned_masks: add log(last attention), upsampled bilinearly, to the mask logits.
    """

    @renamed.arguments
    def __init__(
        self,
        slot_dim: int,
        grid: int,
        patch: int,
        channels: int,
        depth: int = 2,
        kernel: int = 3,
        attention_conditioned_masks: bool = False,
        last_kernel: int | None = None,
    ):
        super().__init__()
        self.grid, self.patch, self.resolution = grid, patch, grid * patch
        self.attention_conditioned_masks = attention_conditioned_masks
        self.from_slot = nn.Linear(slot_dim, channels)
        self.from_position = nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))
        sizes = [channels] * (depth + 1) + [4 * patch * patch]
        kernels = [kernel] * depth + [kernel if last_kernel is None else last_kernel]
        self.layers = nn.ModuleList(
            SameConv2d(a, b, side) for a, b, side in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )

    def forward(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots rows columns"] | None = None,
    ) -> DecoderOutput:
        """Decode every slot; `attention` of the last iteration is required by `attention_conditioned_masks`.

        Raises:
            ValueError: the required `attention` is None.
        """
        canvas = self.from_slot(slots.flatten(0, 1))[:, None, None, :] + self._positions(slots, attention)
        canvas = canvas.permute(0, 3, 1, 2)
        for layer in self.layers:
            canvas = layer(canvas.relu())
        output = as_output(join_patches(canvas, self.patch), slots.shape[1])
        return add_attention(output, attention) if self.attention_conditioned_masks else output

    def _positions(self, slots: Tensor, attention: Tensor | None) -> Tensor:
        """Position embeddings [..., rows, columns, channels] of the cells."""
        dtype = self.from_slot.weight.dtype
        embeddings: Tensor = self.from_position(border_distances(self.grid, self.grid, slots.device, dtype))
        return embeddings


def add_attention(
    output: DecoderOutput, attention: Float[Tensor, "batch slots rows columns"] | None
) -> DecoderOutput:
    """`output` with the logarithm of `attention`, upsampled bilinearly, added to the mask logits."""
    if attention is None:
        raise ValueError(
            "a decoder with attention-conditioned masks needs `attention` [batch, slots, rows, columns]; got "
            "None"
        )
    # 1e-4 bounds the logarithm: a mask may include pixels without attention.
    bias = enlarge((attention + 1e-4).log(), *output.mask_logits.shape[-2:])
    logits = output.mask_logits
    return output._replace(mask_logits=logits + bias, unconditioned_logits=logits)


def composite(
    appearance: Float[Tensor, "batch slots 3 height width"],
    mask_logits: Float[Tensor, "batch slots height width"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots height width"]]:
    """Reconstruction in [0, 1] units of appearances in [-1, 1], and alpha masks."""
    masks = at_least_float32(mask_logits).softmax(dim=1)
    reconstruction = (masks[:, :, None] * at_least_float32(appearance)).sum(dim=1)
    return from_symmetric(reconstruction), masks


def from_symmetric(image: Tensor) -> Tensor:
    """[-1, 1] units to [0, 1], in one pass over memory."""
    return torch.add(image.new_full((), 0.5), image, alpha=0.5)  # allocated on the device: no transfer


def drop_slots(output: DecoderOutput, keep: Float[Tensor, "batch slots"] | None) -> DecoderOutput:
    """`output` with the mask logits of dropped slots lowered, so that their alpha masks are 0 up to 1e-8.

    With alpha masks m, the new ones are (keep + 1e-8) m, normalised over slots: the masked decoder of Fan et
    al. 2024 (arXiv 2406.09196), differentiable in `keep` at 0 as well. None: unchanged.

    Example:
        >>> output = DecoderOutput(torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 4, 4))
        >>> drop_slots(output, torch.tensor([[1.0, 0.0]])).mask_logits.softmax(dim=1)[0, :, 0, 0]
        tensor([1.0000e+00, 1.0000e-08])
    """
    if keep is None:
        return output
    lowered = (at_least_float32(keep) + 1e-8).log()[:, :, None, None]
    conditioned, unconditioned = output.mask_logits + lowered, output.unconditioned_logits
    return output._replace(
        mask_logits=conditioned,
        unconditioned_logits=None if unconditioned is None else unconditioned + lowered,
    )


def join_patches(
    canvas: Float[Tensor, "images channels rows columns"], patch: int
) -> Float[Tensor, "images out_channels height width"]:
    """`pixel_shuffle`, in a single pass over memory for channels-last input.

    Example:
        >>> canvas = torch.rand(2, 4 * 9, 5, 6)
        >>> torch.equal(join_patches(canvas, 3), F.pixel_shuffle(canvas, 3))
        True
    """
    cells = canvas.permute(0, 2, 3, 1).unflatten(-1, (-1, patch, patch)).permute(0, 3, 1, 4, 2, 5)
    return cells.flatten(4, 5).flatten(2, 3)


def enlarge(
    maps: Float[Tensor, "batch slots rows columns"], height: int, width: int
) -> Float[Tensor, "batch slots height width"]:
    """Bilinear interpolation as two matrix products: a third of `F.interpolate`'s time on a CPU."""
    rows, columns = (
        interpolation(*sizes, maps) for sizes in zip(maps.shape[-2:], (height, width), strict=True)
    )
    with without_autocast(maps):
        return rows @ (maps @ columns.T)


def interpolation(size: int, larger: int, like: Tensor) -> Float[Tensor, "larger size"]:
    """The matrix of linear interpolation along an axis, with the dtype and device of `like`."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], larger, mode="linear")[0].T


def as_output(canvas: Float[Tensor, "images 4 height width"], num_slots: int) -> DecoderOutput:
    """A decoder's four output channels as RGB and mask logits per slot."""
    appearance, mask_logits = canvas.unflatten(0, (-1, num_slots)).split([3, 1], dim=2)
    return DecoderOutput(appearance, mask_logits.squeeze(2))


def visible_taps(side: int) -> Float[Tensor, "positions taps"]:
    """Taps of a kernel of odd `side` inside the image, at each distinct position along a zero-padded axis.

    Example:
        >>> visible_taps(3)
        tensor([[0., 1., 1.],
                [1., 1., 1.],
                [1., 1., 0.]])
    """
    position, tap = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    offset = position - side // 2
    return ((tap >= -offset) & (tap < side - offset)).float() if side > 1 else torch.ones(1, 1)


def stretch_middle(tensor: Tensor, size: int, dim: int) -> Tensor:
    """`tensor` with the middle entry along `dim` repeated to give the axis `size` entries."""
    radius = tensor.shape[dim] // 2
    shape = list(tensor.shape)
    shape[dim] = size - 2 * radius
    middle = tensor.narrow(dim, radius, 1).expand(shape)
    return torch.cat([tensor.narrow(dim, 0, radius), middle, tensor.narrow(dim, radius + 1, radius)], dim=dim)


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

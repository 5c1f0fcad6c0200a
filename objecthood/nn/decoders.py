"""Slots to images: every slot paints an image and says where it should be seen.

Spatial broadcast (Watters et al. 2019, arXiv 1901.07017) as in Locatello et al. 2020 (arXiv 2006.15055),
appendix E.3: a slot is copied to every position of a grid, positions are added, convolutions paint.
`PatchDecoder` is the fast relative: a coarse grid whose every cell paints a whole patch (pixel shuffle). Both
return `DecoderOutput`s.

Differences from the paper: `PatchDecoder` throughout; `attention_conditioned_masks`, off by default, adds the logarithm
of the last attention to the mask logits, so that masks are born where the attention already is.
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
from objecthood.nn.precision import without_autocast
from objecthood.runtime import renamed


class DecoderOutput(NamedTuple):
    """What every slot paints, in the units of the training target, and the logits of its mask."""

    appearance: Float[Tensor, "batch slots 3 height width"]
    mask_logits: Float[Tensor, "batch slots height width"]
    unconditioned_logits: Float[Tensor, "batch slots height width"] | None = None
    """Of a guided decoder: mask logits before the attention is added, what slots know by themselves."""


class SpatialBroadcastDecoder(nn.Module):
    """The paper's decoder.

    Args:
        slot_dim: size of a slot.
        grid: side of the square grid that slots are copied to (paper: 8 for CLEVR, else the image's side).
        channels: output channels of every layer but the last, which paints 4: RGB and mask logit.
        strides: of every layer, the last included; their product enlarges the grid (paper, CLEVR: 2, 2, 2, 2,
            1, 1).
        kernels: side of every layer's kernel (paper: 5, and 3 for the last).

    A first layer with stride 1 sees a field that is constant but for the positions; it is computed from the
    slot alone, exactly (`BroadcastConv2d`).
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
                kind = PaintingConv2d
            layers.append(kind(sizes[index], sizes[index + 1], kernel, stride))
        self.layers = nn.ModuleList(layers)

    def forward(
        self, slots: Float[Tensor, "batch slots slot_dim"], attention: Tensor | None = None
    ) -> DecoderOutput:
        """Paint every slot; `attention` is not used."""
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

    The reference crops the smaller half at the top and left; PyTorch's `output_padding` crops the larger
    there, which shifts the image by a pixel per layer.
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
        # Cropped by padding and not by slices, whose gradient is laid out anew; and given to the convolution,
        # the bias would cost six times what all else does (oneDNN, bfloat16).
        canvas = F.pad(canvas, (0, width - canvas.shape[-1], 0, height - canvas.shape[-2]))
        assert self.bias is not None
        return canvas + self.bias.to(canvas.dtype)[:, None, None]


class BroadcastConv2d(SameConv2d):
    """A SAME convolution over slots copied to every position plus position codes, without making the copies.

    The convolution is linear: conv(copies + positions) = conv(copies) + conv(positions). The second term is
    shared by all slots. The first is constant except near the borders, where zero padding hides some taps of
    the kernel; a kernel of side s has s distinct rows and s distinct columns, so s * s products of a slot
    with a summed kernel are all that differs. Equal to the plain convolution to rounding.
    """

    def forward(  # type: ignore[override]
        self, slots: Float[Tensor, "batch channels"], positions: Float[Tensor, "channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The convolution of `slots[:, :, None, None] + positions`, laid out as the next one wants it."""
        side, (height, width) = self.kernel_size[0], positions.shape[1:]
        if min(height, width) < side - 1:  # opposite borders hide taps of the same position
            return super().forward(slots[:, :, None, None] + positions)
        visible = visible_taps(side).to(self.weight)
        kernels = torch.einsum("oiyx,ay,bx->aboi", self.weight, visible, visible)
        response = F.linear(slots, kernels.flatten(0, 2)).view(len(slots), side, side, -1)
        if convolution_format(positions[None], side) == torch.contiguous_format:
            response = response.permute(0, 3, 1, 2).contiguous()
            response = stretch_middle(stretch_middle(response, height, dim=2), width, dim=3)
            return response + super().forward(positions[None])
        response = stretch_middle(stretch_middle(response, height, dim=1), width, dim=2)
        shared = super().forward(positions[None]).permute(0, 2, 3, 1)
        return (response + shared).permute(0, 3, 1, 2)


class PaintingConv2d(SameConv2d):
    """A SAME convolution to few channels: on a processor one product with all taps of its kernel, whose maps
    are moved to where each tap looks from, and added.

    Libraries lay out the channels that come of a convolution 16 by 16: of four, they compute three quarters
    in vain. In 16 bits what a tap gives is rounded before it is added (in float32). Equal to the plain
    convolution to rounding.
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
        for index, seen in enumerate(maps):
            down, right = index // side - reach, index % side - reach
            if abs(down) < height and abs(right) < width:  # else the tap sees nothing but padding
                canvas = canvas + F.pad(seen, (-right, right, -down, down)).to(canvas.dtype)
        return canvas.transpose(0, 1)


class PatchDecoder(nn.Module):
    """A fast decoder: few layers on a coarse grid; every cell paints a patch of RGB and mask logits.

    Args:
        slot_dim: size of a slot.
        grid: side of the coarse grid.
        patch: side of the patch that a cell paints; the image has side grid * patch.
        channels: of the hidden layers.
        depth: hidden convolutions after the first sum of slot and position.
        kernel: side of every convolution; with 1 cells are painted independently.
        last_kernel: side of the last one, which paints; `kernel` unless given.
        attention_conditioned_masks: add log(last attention) to the mask logits, enlarged bilinearly (variant, not the
            paper).
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
        self.grid, self.patch, self.resolution, self.attention_conditioned_masks = (
            grid,
            patch,
            grid * patch,
            attention_conditioned_masks,
        )
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
        """Paint every slot; `attention` of the last iteration is needed where the decoder is guided by it."""
        dtype = self.from_slot.weight.dtype
        positions = self.from_position(border_distances(self.grid, self.grid, slots.device, dtype))
        canvas = self.from_slot(slots.flatten(0, 1))[:, None, None, :] + positions
        canvas = canvas.permute(0, 3, 1, 2)
        for layer in self.layers:
            canvas = layer(canvas.relu())
        painting = as_output(join_patches(canvas, self.patch), slots.shape[1])
        return guided(painting, attention) if self.attention_conditioned_masks else painting


def guided(
    painting: DecoderOutput, attention: Float[Tensor, "batch slots rows columns"] | None
) -> DecoderOutput:
    """The same with the logarithm of `attention`, enlarged bilinearly, added to the mask logits."""
    if attention is None:
        raise ValueError(
            "an attention-guided decoder needs `attention` [batch, slots, rows, columns]; got None"
        )
    # 1e-4 bounds the logarithm: a slot that lost a position entirely can still be painted there.
    guide = enlarge((attention + 1e-4).log(), *painting.mask_logits.shape[-2:])
    own = painting.mask_logits
    return painting._replace(mask_logits=own + guide, unconditioned_logits=own)


def join_patches(
    canvas: Float[Tensor, "paintings channels rows columns"], patch: int
) -> Float[Tensor, "paintings painted height width"]:
    """`pixel_shuffle`, in a single pass over memory each way where channels lie last.

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
    """Bilinear interpolation as two products: on a processor a third of `F.interpolate`'s time."""
    rows, columns = (
        interpolation(*sizes, maps) for sizes in zip(maps.shape[-2:], (height, width), strict=True)
    )
    with without_autocast(maps):
        return rows @ (maps @ columns.T)


def interpolation(size: int, larger: int, like: Tensor) -> Float[Tensor, "larger size"]:
    """The matrix that interpolates an axis linearly, with the dtype and on the device of `like`."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], larger, mode="linear")[0].T


def as_output(canvas: Float[Tensor, "paintings 4 height width"], num_slots: int) -> DecoderOutput:
    """RGB and mask logit of a decoder's four channels, for each slot."""
    appearance, mask_logits = canvas.unflatten(0, (-1, num_slots)).split([3, 1], dim=2)
    return DecoderOutput(appearance, mask_logits.squeeze(2))


def visible_taps(side: int) -> Float[Tensor, "places taps"]:
    """Which taps of a kernel of odd `side` fall inside, at each distinct place along a zero-padded axis.

    Example:
        >>> visible_taps(3)
        tensor([[0., 1., 1.],
                [1., 1., 1.],
                [1., 1., 0.]])
    """
    place, tap = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    offset = place - side // 2
    return ((tap >= -offset) & (tap < side - offset)).float() if side > 1 else torch.ones(1, 1)


def stretch_middle(tensor: Tensor, size: int, dim: int) -> Tensor:
    """`tensor` with the middle entry along `dim` repeated so that the axis has `size` entries."""
    radius = tensor.shape[dim] // 2
    shape = list(tensor.shape)
    shape[dim] = size - 2 * radius
    middle = tensor.narrow(dim, radius, 1).expand(shape)
    return torch.cat([tensor.narrow(dim, 0, radius), middle, tensor.narrow(dim, radius + 1, radius)], dim=dim)


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)

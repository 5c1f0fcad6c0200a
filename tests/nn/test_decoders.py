"""Decoders: fast layers equal the plain ones; shapes; attention-conditioned masks."""

import pytest
import torch
import torch.nn.functional as F

from objecthood.nn import PatchDecoder, SpatialBroadcastDecoder, encoders
from objecthood.nn.decoders import (
    BroadcastConv2d,
    OutputConv2d,
    SameConvTranspose2d,
    as_output,
    enlarge,
    join_patches,
    stretch_middle,
    visible_taps,
)
from objecthood.nn.encoders import SameConv2d


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (3, 3), (4, 4), (4, 5), (5, 4), (6, 9), (12, 8)])
def test_broadcast_convolution_equals_the_convolution_of_copies(height, width, side):
    layer = BroadcastConv2d(3, 4, side).double()
    layer.bias.data.normal_()
    plain = SameConv2d(3, 4, side).double()
    plain.load_state_dict(layer.state_dict())
    slots = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.randn(3, height, width, dtype=torch.float64, requires_grad=True)
    fast, slow = layer(slots, positions), plain(slots[:, :, None, None] + positions)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    direction = torch.randn_like(slow)
    ours = torch.autograd.grad((fast * direction).sum(), [slots, positions, layer.weight, layer.bias])
    wanted = torch.autograd.grad((slow * direction).sum(), [slots, positions, plain.weight, plain.bias])
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (6, 9), (12, 8)])
def test_output_convolution_equals_the_plain_one(height, width, side):
    layer = OutputConv2d(3, 4, side).double()
    layer.bias.data.normal_()
    image = torch.randn(5, 3, height, width, dtype=torch.float64, requires_grad=True)
    fast, slow = layer(image), SameConv2d.forward(layer, image)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    direction = torch.randn_like(slow)
    sources = [image, layer.weight, layer.bias]
    ours, wanted = (torch.autograd.grad((one * direction).sum(), sources) for one in (fast, slow))
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind, stride", [(BroadcastConv2d, 1), (SameConvTranspose2d, 2)])
def test_memory_formats_do_not_change_results(kind, stride, monkeypatch):
    """With and without AVX-512 maps are laid out differently: the same numbers and gradients."""
    layer = kind(3, 4, 5, stride).double()
    positions = torch.randn(3, 32, 32, dtype=torch.float64)
    inputs = [torch.randn(2, 3, dtype=torch.float64), positions] if stride == 1 else [positions[None]]
    found = []
    for has_avx512 in (False, True):
        monkeypatch.setattr(encoders, "_has_avx512", lambda answer=has_avx512: answer)
        layer.zero_grad()
        output = layer(*inputs)
        output.square().sum().backward()
        found.append((output.detach(), layer.weight.grad, layer.bias.grad))
        assert output.is_contiguous() != has_avx512 or stride == 2  # cropped outputs are never contiguous
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-12, atol=1e-12)


def transposed(image: torch.Tensor, kernel: torch.Tensor, stride: int) -> torch.Tensor:
    """Every input paints its kernel at its stride; the smaller half of the overhang is cut first."""
    _, height, width = image.shape
    _, out_channels, side, _ = kernel.shape
    canvas = torch.zeros(out_channels, (height - 1) * stride + side, (width - 1) * stride + side).double()
    for row in range(height):
        for column in range(width):
            stamp = torch.einsum("i,ioyx->oyx", image[:, row, column], kernel)
            canvas[:, row * stride : row * stride + side, column * stride : column * stride + side] += stamp
    cut = (side - stride) // 2
    return canvas[:, cut : cut + height * stride, cut : cut + width * stride]


@pytest.mark.parametrize("side, stride", [(5, 2), (4, 2), (3, 2), (5, 1), (3, 1), (5, 3)])
@pytest.mark.parametrize("height, width", [(1, 1), (3, 4), (8, 8)])
def test_transposed_convolution_is_cropped_as_in_tensorflow(side, stride, height, width):
    layer = SameConvTranspose2d(3, 2, side, stride).double()
    image = torch.randn(3, height, width, dtype=torch.float64)
    wanted = transposed(image, layer.weight.detach(), stride)
    ours = layer(image[None])[0].detach()
    assert ours.shape == (2, height * stride, width * stride)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


def test_visible_taps_are_those_inside_a_zero_padded_axis():
    for side in (1, 3, 5, 7):
        inside = F.conv1d(torch.ones(1, 1, side), torch.eye(side)[:, None], padding=side // 2)[0].T
        assert torch.equal(visible_taps(side), inside)


def test_stretching_repeats_the_middle():
    assert stretch_middle(torch.tensor([1, 2, 3, 4, 5]), 7, dim=0).tolist() == [1, 2, 3, 3, 3, 4, 5]
    assert stretch_middle(torch.tensor([[1, 2, 3]]), 2, dim=1).tolist() == [[1, 3]]


@pytest.mark.parametrize("strides, resolution", [((1, 1), 6), ((2, 1), 12), ((2, 2, 1), 24)])
def test_broadcast_decoder_decodes_slots_independently(strides, resolution):
    decoder = SpatialBroadcastDecoder(8, 6, (7,) * (len(strides) - 1), strides, (5,) * len(strides))
    slots = torch.randn(2, 3, 8)
    painting = decoder(slots)
    assert decoder.resolution == resolution
    assert painting.appearance.shape == (2, 3, 3, resolution, resolution)
    assert painting.mask_logits.shape == (2, 3, resolution, resolution)
    alone = decoder(slots[1:, 2:])
    torch.testing.assert_close(painting.appearance[1, 2], alone.appearance[0, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(painting.mask_logits[1, 2], alone.mask_logits[0, 0], rtol=0, atol=1e-5)


def test_output_splits_colour_and_mask():
    canvas = torch.randn(6, 4, 5, 5)
    painting = as_output(canvas, 3)
    assert torch.equal(painting.appearance[1, 2], canvas[5, :3])
    assert torch.equal(painting.mask_logits[0, 1], canvas[1, 3])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("depth", [0, 2])
def test_patch_decoder_decodes_whole_patches(kernel, depth):
    decoder = PatchDecoder(8, grid=3, patch=4, channels=6, depth=depth, kernel=kernel)
    painting = decoder(torch.randn(2, 5, 8))
    assert decoder.resolution == 12 and len(decoder.layers) == depth + 1
    assert painting.appearance.shape == (2, 5, 3, 12, 12) and painting.mask_logits.shape == (2, 5, 12, 12)


def test_cells_of_a_patch_decoder_with_kernel_one_are_independent():
    small = PatchDecoder(8, grid=3, patch=2, channels=6, kernel=1)
    large = PatchDecoder(8, grid=5, patch=2, channels=6, kernel=1)
    large.load_state_dict(small.state_dict())
    slots = torch.randn(1, 1, 8)
    ours, wanted = small(slots).appearance[0, 0], large(slots).appearance[0, 0]
    corners, others = ((0, 0), (2, 2), (4, 4)), ((0, 0), (4, 4), (8, 8))  # border, middle, border
    for (row, column), (y, x) in zip(corners, others, strict=True):
        mine, theirs = ours[:, row : row + 2, column : column + 2], wanted[:, y : y + 2, x : x + 2]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert (ours[:, :2, :2] - ours[:, 2:4, :2]).abs().max() > 1e-4, "position tells cells apart"


def test_attention_conditions_masks_only():
    plain = PatchDecoder(8, grid=3, patch=4, channels=6)
    guided = PatchDecoder(8, grid=3, patch=4, channels=6, attention_conditioned_masks=True)
    guided.load_state_dict(plain.state_dict())
    slots, attention = torch.randn(2, 5, 8), torch.rand(2, 5, 6, 6).softmax(dim=1)
    ours, wanted = guided(slots, attention), plain(slots)
    assert torch.equal(ours.appearance, wanted.appearance)
    assert torch.equal(ours.unconditioned_logits, wanted.mask_logits) and wanted.unconditioned_logits is None
    guide = F.interpolate((attention + 1e-4).log(), (12, 12), mode="bilinear")
    torch.testing.assert_close(ours.mask_logits - wanted.mask_logits, guide, rtol=0, atol=1e-5)
    lost = guided(slots, torch.zeros(2, 5, 6, 6))
    assert lost.mask_logits.isfinite().all()
    assert torch.equal(plain(slots, attention).mask_logits, wanted.mask_logits)


def test_attention_conditioned_masks_need_attention():
    guided = PatchDecoder(8, grid=3, patch=4, channels=6, attention_conditioned_masks=True)
    with pytest.raises(ValueError, match="needs `attention`") as caught:
        guided(torch.randn(2, 5, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size, larger", [((32, 32), (64, 64)), ((18, 18), (35, 35)), ((5, 7), (20, 21))])
def test_maps_are_enlarged_as_by_bilinear_interpolation(size, larger):
    maps = torch.randn(2, 3, *size)
    wanted = F.interpolate(maps, larger, mode="bilinear")
    torch.testing.assert_close(enlarge(maps, *larger), wanted, rtol=0, atol=1e-5)


def test_patches_are_joined_as_by_pixel_shuffle_in_either_layout():
    canvas = torch.rand(2, 4 * 9, 5, 6)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(join_patches(canvas.to(memory_format=layout), 3), F.pixel_shuffle(canvas, 3))

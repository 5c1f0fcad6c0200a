"""Convolutions padded as TensorFlow pads them, against its rule written out; shapes of the encoder."""

import numpy as np
import pytest
import torch

from objecthood.nn import ConvEncoder, encoders
from objecthood.nn.encoders import SameConv2d, check_images, same_padding


def convolve(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME: out = ceil(n / s), pad = max((out - 1) s + k - n, 0), the smaller half first."""
    out_channels, _, side, _ = kernel.shape
    _, height, width = image.shape
    out_height, out_width = -(-height // stride), -(-width // stride)
    top = max((out_height - 1) * stride + side - height, 0) // 2
    left = max((out_width - 1) * stride + side - width, 0) // 2
    result = np.empty((out_channels, out_height, out_width))
    for channel in range(out_channels):
        for row in range(out_height):
            for column in range(out_width):
                total = bias[channel]
                for y in range(side):
                    for x in range(side):
                        source = row * stride + y - top, column * stride + x - left
                        if 0 <= source[0] < height and 0 <= source[1] < width:
                            total += kernel[channel, :, y, x] @ image[:, source[0], source[1]]
                result[channel, row, column] = total
    return result


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("height, width", [(7, 7), (8, 6), (2, 9), (1, 1)])
def test_same_convolution_equals_the_rule_written_out(height, width, side, stride):
    layer = SameConv2d(3, 2, side, stride).double()
    layer.bias.data.normal_()
    image = torch.randn(3, height, width, dtype=torch.float64)
    wanted = convolve(image.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy(), stride)
    ours = layer(image[None])[0].detach()
    assert ours.shape == wanted.shape
    torch.testing.assert_close(ours, torch.from_numpy(wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "size, kernel, stride, wanted",
    [(128, 5, 2, (1, 2)), (128, 5, 1, (2, 2)), (35, 5, 2, (2, 2)), (9, 1, 2, (0, 0))],
)
def test_padding_of_known_cases(size, kernel, stride, wanted):
    assert same_padding(size, kernel, stride) == wanted


@pytest.mark.parametrize("size, stride", [(32, 1), (33, 2), (8, 1)])
def test_memory_formats_do_not_change_results(size, stride, monkeypatch):
    """With and without AVX-512, from images laid out either way: the same image and gradients."""
    layer = SameConv2d(3, 4, 5, stride).double()
    image = torch.randn(2, 3, size, size, dtype=torch.float64)
    found = []
    for has_avx512 in (False, True):
        monkeypatch.setattr(encoders, "_has_avx512", lambda answer=has_avx512: answer)
        for layout in (torch.contiguous_format, torch.channels_last):
            layer.zero_grad()
            output = layer(image.contiguous(memory_format=layout))
            output.square().sum().backward()
            found.append((output.detach(), layer.weight.grad, layer.bias.grad))
    for output, *gradients in found[1:]:
        torch.testing.assert_close(output, found[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradients, list(found[0][1:]), rtol=1e-12, atol=1e-12)


def test_large_kernels_on_large_maps_are_channels_first_without_avx512(monkeypatch):
    monkeypatch.setattr(encoders, "_has_avx512", lambda: False)
    plain, last = torch.contiguous_format, torch.channels_last
    assert encoders.convolution_format(torch.empty(1, 3, 32, 32), 5) == plain
    assert encoders.convolution_format(torch.empty(1, 3, 31, 31), 5) == last
    assert encoders.convolution_format(torch.empty(1, 3, 64, 64), 1) == last
    monkeypatch.setattr(encoders, "_has_avx512", lambda: True)
    assert encoders.convolution_format(torch.empty(1, 3, 64, 64), 5) == last


def test_start_values_are_glorot_and_zero():
    layer = SameConv2d(64, 64, 5)
    limit = (6 / (2 * 64 * 25)) ** 0.5
    assert 0.99 * limit < layer.weight.abs().max() <= limit and (layer.bias == 0).all()
    encoder = ConvEncoder(channels=32, feature_dim=64)
    assert all((p == 0).all() for name, p in encoder.named_parameters() if name.endswith("bias"))
    assert encoder.norm.eps == 1e-3


@pytest.mark.parametrize(
    "strides, grid", [((1, 1, 1, 1), 12), ((2, 1), 6), ((1, 2, 2, 1), 3), ((2, 2, 2), 2)]
)
def test_grid_follows_the_strides(strides, grid):
    encoder = ConvEncoder(channels=8, feature_dim=5, strides=strides)
    assert encoder(torch.rand(2, 3, 12, 12)).shape == (2, grid, grid, 5)


def test_features_know_their_position():
    encoder = ConvEncoder(channels=8, feature_dim=5, strides=(1,))
    features = encoder(torch.zeros(1, 3, 16, 16))[0]
    assert (features[4, 4] - features[11, 4]).abs().max() > 1e-4
    assert (features[4, 4] - features[4, 11]).abs().max() > 1e-4


IMAGE, CLIP = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 3, 8, 8)
MISTAKES = {
    "channels last": (IMAGE.permute(0, 2, 3, 1), ["images.permute(0, 3, 1, 2)"]),
    "uint8": ((255 * IMAGE).byte(), ["Convert uint8 images with images.float() / 255"]),
    "both": (
        (255 * IMAGE).byte().permute(0, 2, 3, 1),
        ["images.float() / 255", "images.permute(0, 3, 1, 2)"],
    ),
    "another size": (torch.rand(2, 3, 9, 9), ["interpolate(images, (8, 8)"]),
    "channels last and another size": (
        torch.rand(2, 9, 9, 3),
        ["images.permute(0, 3, 1, 2)", "interpolate(images, (8, 8)"],
    ),
    "one image": (IMAGE[0], ["images[None]"]),
    "one channel": (IMAGE[:, :1], ["images.repeat_interleave(3, -3)"]),
    "whole numbers": (IMAGE.long(), ["floats in [0, 1]"]),
    "an array": (IMAGE.numpy(), ["torch.as_tensor(images)"]),
    "clips with channels last": (CLIP.permute(0, 1, 3, 4, 2), ["frames.permute(0, 1, 4, 2, 3)"]),
    "clips of another size": (torch.rand(2, 4, 3, 9, 9), ["interpolate(frames.flatten(0, 1), (8, 8)"]),
    "one clip": (CLIP[0], ["frames[None]"]),
}


@pytest.mark.parametrize("images, remedies", MISTAKES.values(), ids=MISTAKES)
def test_images_that_do_not_fit_are_told_with_the_remedy(unchecked, images, remedies):
    has_time = any("frames" in remedy for remedy in remedies)
    with pytest.raises(ValueError) as caught:
        check_images(images, 8, has_time=has_time)
    message = str(caught.value)
    assert "\n" not in message and all(remedy in message for remedy in remedies)
    if isinstance(images, torch.Tensor):
        assert f"got {list(images.shape)}, {images.dtype}. " in message
    wrong = {"permute", "interpolate", "/ 255", "[None]", "repeat"}
    assert not [
        word for word in wrong if word in message.split(" got ")[1] and word not in str(remedies)
    ] or (isinstance(images, np.ndarray))


def test_each_remedy_does_what_it_promises(unchecked):
    """The call that the message names gives what the model takes."""
    for name, (images, remedies) in MISTAKES.items():
        if isinstance(images, np.ndarray) or "whole" in name:
            continue
        has_time = any("frames" in remedy for remedy in remedies)
        if "permute" in str(remedies):
            images = images.permute(0, 1, 4, 2, 3) if has_time else images.permute(0, 3, 1, 2)
        if "/ 255" in str(remedies):
            images = images.float() / 255
        if "[None]" in str(remedies):
            images = images[None]
        if "repeat" in str(remedies):
            images = images.repeat_interleave(3, -3)
        if "interpolate" in str(remedies):
            flat = images.flatten(0, 1) if has_time else images
            images = torch.nn.functional.interpolate(flat, (8, 8), mode="bilinear", antialias=True)
            has_time = False
        check_images(images, 8, has_time=has_time)
    check_images(IMAGE, 8)
    check_images(IMAGE[..., :5], None)
    check_images(CLIP, 8, has_time=True)

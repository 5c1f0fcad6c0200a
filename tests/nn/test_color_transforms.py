"""Input transforms."""

import torch

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.nn.color_transforms import (
    background_luma,
    color_and_chromaticity,
    luma,
    opponent_chromaticity,
    symmetric,
)


def test_the_papers_transform_is_symmetric():
    image = torch.rand(2, 3, 5, 6)
    assert torch.equal(symmetric(image), image * 2 - 1)
    assert torch.equal(symmetric(image, torch.rand(2, 3, 5, 6)), image * 2 - 1)


def test_background_luma_ignores_objects():
    """A quadratic of the position, with a coloured and a dark grey thing on it, is given back."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    light = 0.5 + 0.1 * x - 0.08 * y + 0.05 * x * y - 0.06 * x * x
    image = light.expand(1, 3, 32, 32).clone()
    image[:, 0, 4:12, 4:12] = 0.9
    image[:, :, 18:26, 6:14] = 0.15
    assert (background_luma(image)[0] - light).abs().max() < 0.01


def test_chromaticity_removes_shading_and_keeps_objects():
    """On rendered scenes the ground hardly varies, and grey things differ from it."""
    scenes = ClevrLike(objects=(3, 6), resolution=64)[range(40)]
    seen = opponent_chromaticity(scenes["image"])[:, 0]
    ground = scenes["masks"] == 0
    before = luma(scenes["image"])[ground].std() * 2.5
    assert seen[ground].std() < 0.6 * before
    greys = scenes["properties"][:, :, 10] == 1
    for picture, thing in greys.nonzero().tolist():
        mask = scenes["masks"][picture] == thing + 1
        if mask.sum() > 60:
            assert seen[picture][mask].abs().mean() > 0.1


def test_a_reconstruction_uses_the_background_luma_of_its_image():
    picture, wrong = torch.rand(1, 3, 16, 16) * 0.2 + 0.4, torch.full((1, 3, 16, 16), 0.2)
    assert opponent_chromaticity(wrong)[:, 0].abs().max() < 0.01, (
        "by its own light a flat image shows nothing"
    )
    assert (opponent_chromaticity(wrong, picture)[:, 0] < -0.3).all()


def test_gradients_do_not_flow_through_the_background_luma():
    image = (torch.rand(1, 3, 16, 16) * 0.5 + 0.2).requires_grad_()
    reference = torch.rand(1, 3, 16, 16).requires_grad_()
    opponent_chromaticity(image, reference).sum().backward()
    assert image.grad.isfinite().all() and reference.grad is None


def test_color_and_chromaticity_concatenates_both():
    """A changed brightness of a coloured thing is seen in the second half alone."""
    image, reference = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    both = color_and_chromaticity(image, reference)
    assert torch.equal(both, torch.cat([opponent_chromaticity(image, reference), symmetric(image)], dim=1))

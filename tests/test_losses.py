"""Losses against loops."""

import torch

from objecthood import losses


def test_reconstruction_error_is_the_mean_square_in_symmetric_units():
    ours, images = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    total = 0.0
    for mine, wanted in zip(ours.flatten().tolist(), images.flatten().tolist(), strict=True):
        total += ((2 * mine - 1) - (2 * wanted - 1)) ** 2
    assert abs(float(losses.reconstruction_error(ours, images)) - total / ours.numel()) < 1e-6


def test_reconstruction_error_has_the_gradient_of_a_mean_square():
    ours = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: losses.reconstruction_error(x, images), (ours,))

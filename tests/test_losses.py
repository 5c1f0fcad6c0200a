"""Losses against loops."""

from itertools import permutations

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


def test_set_error_is_the_least_sum_of_huber_costs():
    predicted, target = torch.randn(3, 4, 5) * 2, torch.randn(3, 4, 5) * 2

    def cost(one, other):
        distances = [abs(a - b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
        return sum(d * d / 2 if d < 1 else d - 0.5 for d in distances) / len(distances)

    total = 0.0
    for slots, objects in zip(predicted, target, strict=True):
        total += min(
            sum(cost(slots[slot], one) for slot, one in zip(order, objects, strict=True))
            for order in permutations(range(4))
        )
    assert abs(float(losses.set_error(predicted, target)) - total / 3) < 1e-5
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        losses.set_error(predicted[:, order], target), losses.set_error(predicted, target)
    )


def test_set_error_reaches_every_matched_property():
    predicted = torch.rand(2, 3, 19, requires_grad=True)
    losses.set_error(predicted, torch.rand(2, 3, 19)).backward()
    assert (predicted.grad != 0).all()

"""Muon's directions, what it is given, and the learning rates of the recipes against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_vits import stand_in
from torch import nn

from objecthood.nn.frozen import RESTORERS
from objecthood.nn.muon import Muon, is_matrix, orthogonalize
from objecthood.recipes import RECIPES


@pytest.mark.parametrize(
    "shape", [(1, 16, 16), (3, 64, 64), (2, 64, 192), (2, 192, 64), (4, 32, 800), (1, 128, 17)]
)
def test_singular_values_become_nearly_one(shape):
    matrices = torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None, None]
    values = torch.linalg.svdvals(torch.stack(orthogonalize(list(matrices))))
    # A square of Gaussian noise has some singular values near zero: too small for five iterations.
    smallest = values.quantile(0.1, dim=-1) if shape[1] == shape[2] else values.amin(dim=-1)
    assert (smallest >= 0.6).all() and values.max() <= 1.3


def test_directions_are_kept():
    left, right = (torch.linalg.qr(torch.randn(24, 24)).Q for _ in range(2))
    values = torch.linspace(0.2, 1, 24)
    turned = left.T @ orthogonalize([(left * values) @ right.T])[0] @ right
    assert (turned - turned.diag().diag()).abs().max() < 1e-3
    assert (turned.diag() > 0.6).all()


def test_matrices_of_any_sizes_are_taken_together_and_do_not_touch():
    matrices = [torch.randn(shape) for shape in ((20, 30), (20, 50), (30, 20), (16, 16), (20, 30))]
    for matrix, together in zip(matrices, orthogonalize(matrices), strict=True):
        torch.testing.assert_close(together, orthogonalize([matrix])[0], rtol=0, atol=1e-5)


def quintic(matrix: torch.Tensor) -> torch.Tensor:
    """Five iterations of Jordan et al. 2024 on the matrix itself, in float64."""
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    wide = wide / wide.norm()
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


@pytest.mark.parametrize("shape", [(16, 16), (64, 192), (192, 64), (32, 800)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_the_iteration_is_the_published_one(shape, size):
    matrix = torch.randn(shape) * size
    torch.testing.assert_close(orthogonalize([matrix])[0].double(), quintic(matrix), rtol=0, atol=2e-3)


def test_a_zero_gradient_moves_nothing():
    assert (orthogonalize([torch.zeros(16, 20)])[0] == 0).all()
    weight = nn.Parameter(torch.randn(16, 20))
    weight.grad = torch.zeros_like(weight)
    before = weight.detach().clone()
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (16, 4, 3, 3)])
def test_muon_lowers_a_quadratic(shape):
    weight, target = nn.Parameter(torch.randn(shape)), torch.randn(shape)
    optimizer = Muon([weight], lr=0.05)
    errors = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (
            1 - step / 200
        )  # steps of a fixed length must become shorter
        error = (weight - target).square().mean()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(error.item())
    assert errors[-1] < 0.03 * errors[0]


def test_a_step_is_the_learning_rate_long():
    weight = nn.Parameter(torch.zeros(40, 20))
    weight.grad = torch.randn(40, 20)
    Muon([weight], lr=0.01).step()
    values = torch.linalg.svdvals(weight.detach()) / (0.01 * 2**0.5)  # sqrt(rows / columns) of a tall matrix
    assert values.min() > 0.6 and values.max() < 1.3


def test_weights_of_one_shape_do_not_touch():
    gradients = torch.randn(2, 16, 20)
    together = [nn.Parameter(torch.zeros(16, 20)) for _ in range(2)]
    alone = nn.Parameter(torch.zeros(16, 20))
    for weight, gradient in zip([*together, alone], [*gradients, gradients[1]], strict=True):
        weight.grad = gradient.clone()
    Muon(together, lr=0.1).step()
    Muon([alone], lr=0.1).step()
    torch.testing.assert_close(together[1], alone, rtol=0, atol=1e-6)


def test_weights_without_gradient_stay():
    weight = nn.Parameter(torch.ones(16, 16))
    Muon([weight], lr=0.1).step()
    assert (weight == 1).all()


MATRICES = [(16, 16), (64, 64), (16, 4, 2, 2), (32, 3, 5, 5)]
OTHERS = [(15, 64), (64, 15), (64,), (4, 32, 3, 3), (1, 1, 64), ()]


@pytest.mark.parametrize("shape", MATRICES + OTHERS)
def test_matrices_are_large_both_ways(shape):
    assert is_matrix(nn.Parameter(torch.zeros(shape))) == (shape in MATRICES)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_weight_has_one_optimizer(recipe, monkeypatch):
    monkeypatch.setitem(RESTORERS, "hf", stand_in)
    model = recipe.build_model()
    optimizers = recipe.build_optimizers(model)
    given = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(id(parameter) for parameter in model.parameters())
    for optimizer in optimizers:
        is_muon = isinstance(optimizer, Muon)
        wanted = recipe.muon_learning_rate if is_muon else recipe.learning_rate
        for group in optimizer.param_groups:
            assert group["lr"] == group["base_lr"] == wanted
            if recipe.muon_learning_rate:
                assert all(is_matrix(parameter) == is_muon for parameter in group["params"])
    assert optimizers[0].defaults["eps"] == 1e-8 and optimizers[0].defaults["weight_decay"] == 0


PAPER = [name for name in RECIPES if name.endswith("-paper")]


@pytest.mark.parametrize("name", [name for name in PAPER if RECIPES[name].decay_half_life == 100_000])
def test_learning_rate_of_the_paper(name):
    recipe = RECIPES[name]
    for step in (0, 1, 5000, 10_000, 10_001, 100_000, 250_000, 500_000):
        wanted = 4e-4 * min(1, step / 10_000) * 0.5 ** (step / 100_000)
        assert math.isclose(recipe.learning_rate * recipe.learning_rate_factor(step), wanted, rel_tol=1e-12)
    figures = {10_000: 3.73e-4, 100_000: 2.0e-4, 500_000: 1.25e-5}  # spec: 0.5 ** 0.1 and so on
    for step, figure in figures.items():
        assert math.isclose(recipe.learning_rate * recipe.learning_rate_factor(step), figure, rel_tol=2e-3)


def test_learning_rate_without_halving_is_a_cosine_to_zero():
    recipe = replace(RECIPES["tetrominoes"], steps=1200, warmup_steps=200, decay_half_life=0)
    factor = recipe.learning_rate_factor
    assert [factor(0), factor(100), factor(200)] == [0, 0.5, 1]
    assert math.isclose(factor(700), 0.5) and math.isclose(factor(450), (1 + math.cos(math.pi / 4)) / 2)
    assert factor(1200) == factor(2000) == 0
    assert replace(recipe, warmup_steps=0).learning_rate_factor(0) == 1
    assert replace(recipe, warmup_steps=2000).learning_rate_factor(1200) == 0.6, "warm-up outlasts the run"

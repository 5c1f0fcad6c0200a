"""Soft k-means against loops and scikit-learn; initialisation; refused calls."""

import math

import pytest
import torch
from sklearn.cluster import KMeans

from objecthood.nn import SoftKMeans, SpatialBias
from objecthood.nn.soft_kmeans import far_apart, unit

GRID = (6, 5)


def scene(batch=3, dim=8, things=3):
    """Inputs of a few kinds, a block each on a ground of the first, with a little noise."""
    kinds = torch.eye(dim, dtype=torch.float64)[: things + 1]
    labels = torch.zeros(batch, 12, 12, dtype=torch.long)
    for thing in range(things):
        labels[:, 4 * thing : 4 * thing + 3, 3 * thing : 3 * thing + 4] = thing + 1
    labels = labels.flatten(1)
    return kinds[labels] + 0.02 * torch.randn(batch, 144, dim, dtype=torch.float64), labels


def looped(model, keys, means, iterations):
    """Of one image: means and attention of the last iteration, number by number."""
    keys, means = keys.tolist(), means.tolist()
    for _ in range(iterations):
        attention = []
        for key in keys:
            powers = [
                math.exp(sum(a * b for a, b in zip(key, mean, strict=True)) / model.temperature)
                for mean in means
            ]
            attention.append([power / sum(powers) for power in powers])
        means = []
        for slot in range(len(attention[0])):
            total = [
                sum(row[slot] * key[axis] for row, key in zip(attention, keys, strict=True))
                for axis in range(len(keys[0]))
            ]
            length = math.sqrt(sum(number**2 for number in total))
            means.append([number / length for number in total])
    return torch.tensor(means, dtype=torch.float64), torch.tensor(attention, dtype=torch.float64).T


@torch.no_grad()
@pytest.mark.parametrize("iterations", [1, 4])
def test_an_iteration_equals_a_loop(iterations):
    model = SoftKMeans(4, GRID, 7, 5, temperature=0.3).double()
    inputs = torch.randn(2, 30, 7, dtype=torch.float64)
    found = model.cluster(inputs, iterations=iterations)
    keys = unit(model.project_k(model.norm_inputs(inputs)))
    begun = far_apart(keys, 4, GRID)
    for picture in range(2):
        means, attention = looped(model, keys[picture], begun[picture], iterations)
        torch.testing.assert_close(found.means[picture], means, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.attention[picture], attention, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_low_temperature_equals_kmeans():
    inputs, labels = scene()
    model = SoftKMeans(4, (12, 12), 8, 8, iterations=10, temperature=0.01).double()
    model.project_k.weight.copy_(torch.eye(8))
    found = model.cluster(inputs).attention.argmax(dim=1)
    keys = unit(model.norm_inputs(inputs))
    for picture in range(len(inputs)):
        peers = KMeans(4, n_init=3, random_state=0).fit_predict(keys[picture].numpy())
        assert len({*zip(found[picture].tolist(), peers.tolist(), strict=True)}) == 4, "one to one"
        assert len({*zip(found[picture].tolist(), labels[picture].tolist(), strict=True)}) == 4


@torch.no_grad()
def test_initial_means_are_on_every_object_and_no_edge():
    keys, _ = scene()
    keys = unit(keys)
    chosen = far_apart(keys, 4, (12, 12))
    kinds = chosen[..., :4].argmax(dim=-1)
    assert (kinds[:, 0] == 0).all(), "the ground first, which most inputs are like"
    assert (kinds.sort(dim=1).values == torch.arange(4)).all()
    lined = keys.clone().unflatten(1, (12, 12))
    lined[:, :, 11] = -keys[0, -1]  # a line is farther from the ground than any thing
    chosen = far_apart(lined.flatten(1, 2), 4, (12, 12))
    assert (chosen[..., 0] > -0.5).all(), "the line is begun on by none"


@torch.no_grad()
def test_means_continue_from_given_ones():
    inputs, _ = scene()
    model = SoftKMeans(4, (12, 12), 8, 6).double()
    once, twice = model.cluster(inputs, iterations=2), model.cluster(inputs, iterations=5)
    again = model.cluster(inputs, iterations=3, means=once.means)
    for part, other in zip(again, twice, strict=True):
        torch.testing.assert_close(part, other)


@torch.no_grad()
def test_bias_acts_from_the_second_iteration_or_with_previous_attention():
    inputs, _ = scene()
    attention_bias = SpatialBias((12, 12), split_slots=True).double()
    with_it, without = (
        SoftKMeans(4, (12, 12), 8, 6, attention_bias=one).double() for one in (attention_bias, None)
    )
    without.load_state_dict(with_it.state_dict(), strict=False)
    first = with_it.cluster(inputs, iterations=1)
    assert torch.equal(first.attention, without.cluster(inputs, iterations=1).attention)
    assert not torch.allclose(with_it.cluster(inputs).attention, without.cluster(inputs).attention)
    later = with_it.cluster(inputs, iterations=1, means=first.means, previous=first.attention)
    torch.testing.assert_close(later.attention, with_it.cluster(inputs, iterations=2).attention)


def test_gradient_reaches_features_through_all_iterations():
    inputs, _ = scene()
    model = SoftKMeans(4, (12, 12), 8, 6).double()
    model.cluster(inputs.requires_grad_()).slots.square().sum().backward()
    assert torch.isfinite(inputs.grad).all() and (model.project_k.weight.grad != 0).all()


def test_order_of_inputs_matters_for_initialisation_only():
    inputs, _ = scene()
    model = SoftKMeans(4, (12, 12), 8, 6).double()
    begun = unit(torch.randn(3, 4, 6, dtype=torch.float64))
    order = torch.randperm(144)
    one, other = model.cluster(inputs, means=begun), model.cluster(inputs[:, order], means=begun)
    torch.testing.assert_close(one.slots, other.slots)
    torch.testing.assert_close(one.attention[:, :, order], other.attention)


@pytest.mark.parametrize(
    "inputs, slots, what",
    [
        (torch.rand(2, 29, 7), 4, r"inputs \[batch, 30, channels\].*got inputs \[2, 29, 7\]"),
        (torch.rand(2, 30, 7), 31, "from 1 to 30 slots.*got.* 31 slots"),
        (torch.rand(2, 30, 7), 0, "and 0 slots"),
    ],
)
def test_wrong_calls_are_told(inputs, slots, what):
    with pytest.raises(ValueError, match=what):
        SoftKMeans(4, GRID, 7, 5).cluster(inputs, slots)
    with pytest.raises(ValueError, match=r"`iterations` \(=0\) must be at least 1"):
        SoftKMeans(4, GRID, 7, 5).cluster(torch.rand(2, 30, 7), iterations=0)
    with pytest.raises(ValueError, match="`temperature`"):
        SoftKMeans(4, GRID, 7, 5, temperature=0.0)

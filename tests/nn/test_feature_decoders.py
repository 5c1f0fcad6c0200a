"""Decoders of features: the papers' equations, causality, patch orders; the loss of self-training."""

import pytest
import torch
from torch.nn import functional as F

from objecthood.losses import attention_distillation
from objecthood.nn.autoregressive_decoder import EVERY, AutoregressiveDecoder, patch_orders
from objecthood.nn.feature_decoders import MLPFeatureDecoder
from objecthood.nn.stored_vit import Shape, StoredViT

SLOTS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
TARGET = torch.randn(2, 3, 4, 24, generator=torch.Generator().manual_seed(2))


def autoregressive(**options):
    return AutoregressiveDecoder(16, (3, 4), 24, blocks=2, heads=2, **options).eval()


def test_the_mlp_decoder_computes_what_the_paper_says():
    decode = MLPFeatureDecoder(16, (3, 4), 24, hidden_dim=32)
    hidden = SLOTS[:, :, None] + decode.positions
    for layer in (decode.first, *decode.hidden):
        hidden = layer(hidden).relu()
    masks = decode.to_mask(hidden).softmax(dim=1)
    expected = (masks * decode.to_feature(hidden)).sum(dim=1)
    found = decode(SLOTS)
    torch.testing.assert_close(found.features.flatten(1, 2), expected)
    torch.testing.assert_close(found.masks.flatten(2), masks[..., 0])
    assert len(decode.hidden) == 2 and decode.to_feature.out_features == 24


def test_the_order_of_slots_does_not_matter_to_what_is_decoded():
    order = torch.tensor([3, 0, 4, 2, 1])
    for decode in (MLPFeatureDecoder(16, (3, 4), 24, 32), autoregressive()):
        one, other = decode(SLOTS, TARGET), decode(SLOTS[:, order], TARGET)
        torch.testing.assert_close(one.features, other.features)
        torch.testing.assert_close(one.masks[:, order], other.masks)
        torch.testing.assert_close(one.masks.sum(dim=1), torch.ones(2, 3, 4))


@pytest.mark.parametrize("number", range(9))
def test_a_patch_sees_only_those_before_it_in_the_order(number):
    decode, order = autoregressive(orders=9), patch_orders(3, 4)[number]
    place = 5
    changed = TARGET.flatten(1, 2).clone()
    changed[:, order[place]] += 1
    one = decode(SLOTS, TARGET, number).features.flatten(1, 2)[:, order]
    other = decode(SLOTS, changed.view_as(TARGET), number).features.flatten(1, 2)[:, order]
    differs = (one - other).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.tolist() == [False] * (place + 1) + [True] * (11 - place)


def test_orders_are_nine_permutations_that_end_in_all_corners():
    orders = patch_orders(3, 4)
    assert orders.sort(dim=1).values.tolist() == [list(range(12))] * 9
    assert len({tuple(order.tolist()) for order in orders}) == 9
    assert orders[0].tolist() == list(range(12))
    assert sorted(orders[:8, 0].tolist()) == sorted([0, 3, 8, 11] * 2)
    assert sorted(orders[8, -10:].tolist()) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11], "the border comes last"


def test_training_draws_an_order_and_every_order_is_their_mean():
    decode = autoregressive(orders=9)
    each = [decode(SLOTS, TARGET, number) for number in range(9)]
    every = decode(SLOTS, TARGET, EVERY)
    torch.testing.assert_close(every.features, torch.stack([one.features for one in each]).mean(dim=0))
    torch.testing.assert_close(every.masks, torch.stack([one.masks for one in each]).mean(dim=0))
    assert torch.equal(decode(SLOTS, TARGET).features, each[0].features)
    decode.train()
    drawn = [decode(SLOTS, TARGET).features for _ in range(40)]
    numbers = {
        number
        for features in drawn
        for number, one in enumerate(each)
        if torch.allclose(one.features, features, atol=1e-6)
    }
    assert len(numbers) > 5


def test_decoders_learn_features_from_slots():
    torch.manual_seed(0)
    for decode in (MLPFeatureDecoder(16, (3, 4), 24, 64), autoregressive()):
        optimizer = torch.optim.Adam(decode.parameters(), 1e-2)
        errors = []
        for _ in range(60):
            error = F.mse_loss(decode(SLOTS, TARGET).features, TARGET)
            error.backward()
            optimizer.step()
            optimizer.zero_grad()
            errors.append(error.item())
        assert errors[-1] < 0.3 * errors[0]


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"`heads` \(=5\) must divide the features' size, 24"):
        AutoregressiveDecoder(16, (3, 4), 24, heads=5)
    with pytest.raises(ValueError, match=r"`orders` \(=10\) must be 1 to 9"):
        AutoregressiveDecoder(16, (3, 4), 24, heads=2, orders=10)
    with pytest.raises(ValueError, match=r"`layers` \(=0\) must be at least 1"):
        MLPFeatureDecoder(16, (3, 4), 24, layers=0)


def hard(labels, count):
    return F.one_hot(torch.tensor(labels), count).transpose(1, 2).float()


def test_distillation_is_the_cross_entropy_to_the_matched_segment():
    attention = torch.tensor([[[0.7, 0.6, 0.1, 0.2], [0.3, 0.4, 0.9, 0.8]]])
    masks = hard([[1, 1, 0, 0]], 2)  # the other way round
    expected = -torch.tensor([0.7, 0.6, 0.9, 0.8]).log().mean()
    torch.testing.assert_close(attention_distillation(attention, masks), expected)
    torch.testing.assert_close(attention_distillation(attention, masks.flip(1)), expected)


def test_distillation_leaves_out_segments_without_partner_and_patches_without_segment():
    attention = torch.tensor([[[0.7, 0.6, 0.1, 0.2], [0.3, 0.4, 0.9, 0.8]]])
    three = hard([[0, 0, 1, 2]], 3)
    found = attention_distillation(attention, three)
    wanted = [-torch.tensor([0.7, 0.6, last]).log().mean() for last in (0.9, 0.8)]
    assert any(torch.isclose(found, one) for one in wanted)
    nowhere = three.clone()
    nowhere[:, :, 3] = 0
    torch.testing.assert_close(attention_distillation(attention, nowhere), wanted[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "module, shape",
    [
        (MLPFeatureDecoder(slot_dim=4, grid=(2, 2), feature_dim=6, hidden_dim=8), (3, 4)),
        (StoredViT(Shape(dim=64, depth=1, patch=8), (16, 16)), (3, 16, 16)),
    ],
    ids=["decoder", "backbone"],
)
def test_an_exported_graph_takes_any_batch(module, shape, unchecked):
    sizes = ({0: torch.export.Dim("batch")},)
    graph = torch.export.export(module, (torch.rand(3, *shape),), dynamic_shapes=sizes).module()
    five = torch.rand(5, *shape)
    for one, other in zip(graph(five), module(five), strict=True):
        torch.testing.assert_close(one, other)

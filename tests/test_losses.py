"""Losses against loops."""

import functools
import math
from itertools import permutations

import pytest
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


def test_matching_loss_is_the_minimum_sum_of_huber_costs():
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
    assert abs(float(losses.matching_loss(predicted, target)) - total / 3) < 1e-5
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        losses.matching_loss(predicted[:, order], target), losses.matching_loss(predicted, target)
    )


def test_matching_loss_has_gradients_for_matched_properties():
    predicted = torch.rand(2, 3, 19, requires_grad=True)
    losses.matching_loss(predicted, torch.rand(2, 3, 19)).backward()
    assert (predicted.grad != 0).all()


def cosine(one, other):
    """Of two float64 lists, by loops."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def cross_entropy(logits, right):
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[right]


def looped_set_contrast(predicted, found, temperature):
    def sets(slots):
        return [[sum(values) / len(one) for values in zip(*one, strict=True)] for one in slots.tolist()]

    ours, theirs = sets(predicted), sets(found)
    rows = [[cosine(one, other) / temperature for other in theirs] for one in ours]
    return sum(cross_entropy(row, frame) for frame, row in enumerate(rows)) / len(rows)


def looped_nearest_contrast(predicted, found, temperature):
    def likeness(ours, theirs):
        table = [[cosine(one, other) for other in theirs] for one in ours]
        there = sum(max(row) for row in table) / len(table)
        back = sum(max(column) for column in zip(*table, strict=True)) / len(theirs)
        return (there + back) / (2 * temperature)

    rows = [[likeness(one, other) for other in found.tolist()] for one in predicted.tolist()]
    return sum(cross_entropy(row, frame) for frame, row in enumerate(rows)) / len(rows)


def looped_single_slot_contrast(predicted, found, temperature):
    total, (frames, slots, _) = 0.0, predicted.shape
    for slot in range(slots):
        ours, theirs = predicted[:, slot].tolist(), found[:, slot].tolist()
        for frame, one in enumerate(ours):
            total += cross_entropy([cosine(one, other) / temperature for other in theirs], frame)
    return total / (frames * slots)


def looped_slot_slot_contrast(slots, temperature, holds=None):
    """SlotContrast: which slot of all clips in the earlier frame is slot `later`? Mean over those asked."""
    total, asked = 0.0, 0
    holds = torch.ones(slots.shape[:3], dtype=torch.bool) if holds is None else holds
    for now in range(1, slots.shape[1]):
        before, here = (slots[:, time].flatten(0, 1).tolist() for time in (now - 1, now))
        held_before, held_here = (holds[:, time].flatten().tolist() for time in (now - 1, now))
        candidates = [index for index, holding in enumerate(held_before) if holding]
        for later, one in enumerate(here):
            if held_before[later] and held_here[later]:
                asked += 1
                logits = [cosine(before[earlier], one) / temperature for earlier in candidates]
                total += cross_entropy(logits, candidates.index(later))
    return total / max(asked, 1)


PAIRS = {
    "set": (losses.set_contrast, looped_set_contrast),
    "nearest": (losses.nearest_contrast, looped_nearest_contrast),
    "single": (losses.slot_infonce, looped_single_slot_contrast),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_contrastive_losses_equal_loops(name, temperature):
    ours, loop = PAIRS[name]
    predicted, found = (torch.randn(5, 3, 7, dtype=torch.float64) for _ in range(2))
    wanted = loop(predicted, found, temperature)
    assert abs(float(ours(predicted, found, temperature)) - wanted) < 1e-12
    assert abs(float(ours(predicted.float(), found.float(), temperature)) - wanted) < 1e-4


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_slot_slot_contrast_equals_a_loop(temperature):
    slots = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    wanted = looped_slot_slot_contrast(slots, temperature)
    assert abs(float(losses.slot_slot_contrast(slots, temperature)) - wanted) < 1e-12
    holds = torch.rand(2, 3, 4) < 0.6
    wanted = looped_slot_slot_contrast(slots, temperature, holds)
    assert abs(float(losses.slot_slot_contrast(slots, temperature, holds)) - wanted) < 1e-12
    assert wanted > 0 and losses.slot_slot_contrast(slots, temperature, torch.zeros_like(holds)) == 0
    with pytest.raises(ValueError, match=r"`slots` .time 1. must have at least 2 frames"):
        losses.slot_slot_contrast(slots[:, :1])


def test_slot_slot_contrast_takes_the_softmax_over_the_earlier_frame():
    """Two equal slots that part: both earlier candidates fit a later slot equally well, so each is a guess.

    Reversed in time two slots become equal: both point at slot 0 of the earlier frame, one rightly.
    """
    earlier = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    later = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    parting = torch.stack([earlier, later])[None]
    assert math.isclose(losses.slot_slot_contrast(parting, 1.0).item(), math.log(2), rel_tol=1e-6)
    merging = (cross_entropy([1.0, 0.0], 0) + cross_entropy([1.0, 0.0], 1)) / 2
    assert math.isclose(losses.slot_slot_contrast(parting.flip(1), 1.0).item(), merging, rel_tol=1e-6)
    assert abs(merging - math.log(2)) > 0.1


def test_slot_slot_contrast_has_the_negatives_and_the_mean_of_slotcontrast():
    """Cross entropy over axis 1 of earlier x later cosines, of all clips at once, with one-hot targets."""
    slots = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    rows = torch.nn.functional.normalize(slots, dim=-1)
    every = torch.cat(list(rows), dim=1)
    cosines = torch.einsum("tid,tjd->tij", every[:-1], every[1:])
    one_hot = torch.eye(15, dtype=torch.float64).expand_as(cosines)
    wanted = torch.nn.functional.cross_entropy(cosines / 0.1, one_hot)
    torch.testing.assert_close(losses.slot_slot_contrast(slots), wanted, rtol=1e-12, atol=1e-12)


def test_contrast_is_invariant_to_slot_order():
    predicted, found = (torch.randn(6, 4, 5, dtype=torch.float64) for _ in range(2))
    orders = [torch.stack([torch.randperm(4) for _ in range(6)]) for _ in range(2)]
    mixed = [
        slots.gather(1, order[..., None].expand_as(slots))
        for slots, order in zip((predicted, found), orders, strict=True)
    ]
    close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    for of_sets in (losses.set_contrast, losses.nearest_contrast):
        close(of_sets(*mixed), of_sets(predicted, found))
    order = [2, 0, 3, 1]
    close(
        losses.slot_infonce(predicted[:, order], found[:, order]),
        losses.slot_infonce(predicted, found),
    )
    assert float(losses.slot_infonce(*mixed)) != float(losses.slot_infonce(predicted, found))
    clips = predicted.view(2, 3, 4, 5)
    close(losses.slot_slot_contrast(clips[:, :, order]), losses.slot_slot_contrast(clips))


def test_collapsed_slots_minimise_infonce_but_not_slot_slot_contrast():
    """The degenerate optimum: one code for a frame, in every slot."""
    codes = 10 * torch.eye(6)[:, None].expand(6, 4, 6)
    assert losses.slot_infonce(codes, codes) < 1e-3
    clips = codes[:, None].expand(6, 2, 4, 6)
    assert losses.slot_slot_contrast(clips) > math.log(4) - 1e-3


def test_mixed_slots_cost_more_with_nearest_contrast():
    """Two frames of two things each, told whole, or mixed in one slot while the other repeats it."""
    things = torch.eye(4).view(2, 2, 4)
    mixed = things.mean(dim=1, keepdim=True).expand(2, 2, 4)
    for loss, dearer in ((losses.set_contrast, False), (losses.nearest_contrast, True)):
        assert (loss(mixed, things, 1.0) - loss(things, things, 1.0) > 0.05) == dearer


def test_contrast_has_a_gradient_and_is_lower_for_equal_sets():
    predicted, found = torch.randn(4, 3, 8, requires_grad=True), torch.randn(4, 3, 8)
    for loss in (losses.set_contrast, losses.nearest_contrast, losses.slot_infonce):
        loss(predicted, found).backward()
        assert (predicted.grad != 0).all()
        predicted.grad = None
        assert loss(found, found) < loss(predicted, found)
    assert abs(float(losses.set_contrast(found, torch.ones(4, 3, 8))) - math.log(4)) < 1e-6, "a guess"

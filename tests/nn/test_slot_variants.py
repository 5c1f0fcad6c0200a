"""Variants of slot attention: each equation by loops in float64, and what each variant is for."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from objecthood.export.stages import stages_of_discovery
from objecthood.models.autoencoder import SlotAutoencoder, fast_tetrominoes
from objecthood.nn import (
    MESH,
    AdaSlot,
    ConvEncoder,
    Grouping,
    InvariantSlotAttention,
    KMeans,
    LearnedSlots,
    MetaSlot,
    MultiHeadSlotAttention,
    PatchDecoder,
    SlotAttention,
    SlotMixture,
    SpatialBias,
)
from objecthood.nn.decoders import DecoderOutput, drop_slots
from objecthood.nn.slot_frames import RelativePatchDecoder, frames

BATCH, SLOTS, GRID, INPUT_DIM, SLOT_DIM = 2, 3, (3, 4), 5, 6
INPUTS = GRID[0] * GRID[1]


def jittered(module):
    """`module` in float64 and without noise, all its weights away from their start values."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return module.double().eval()


def example():
    torch.manual_seed(1)
    inputs, slots = torch.randn(BATCH, INPUTS, INPUT_DIM), torch.randn(BATCH, SLOTS, SLOT_DIM)
    return inputs.double(), slots.double()


def softmax(values):
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def competition(logits):
    """Softmax over slots of a list of lists [slots][inputs]."""
    columns = [softmax([row[i] for row in logits]) for i in range(len(logits[0]))]
    return [[column[j] for column in columns] for j in range(len(logits))]


def updated(module, slot, update):
    """GRU and residual MLP of one slot."""
    slot = module.gru(update[None], slot[None])[0]
    return slot + module.mlp(module.norm_mlp(slot))


def weighted_mean(weights, vectors, epsilon=1e-8):
    total = sum(weight + epsilon for weight in weights)
    return sum((weight + epsilon) / total * vector for weight, vector in zip(weights, vectors, strict=True))


@torch.no_grad()
def test_multi_head_slot_attention_equals_loops():
    module = jittered(MultiHeadSlotAttention(INPUT_DIM, SLOT_DIM, num_heads=2, hidden_dim=7))
    inputs, slots = example()
    found = module(inputs, slots, iterations=2)
    size = SLOT_DIM // 2
    for image in range(BATCH):
        x = module.norm_inputs(inputs[image])
        keys, values, state = x @ module.project_k.weight.T, x @ module.project_v.weight.T, [*slots[image]]
        for iteration in range(2):
            queries = [module.project_q(module.norm_slots(slot)) for slot in state]
            updates, mean = [[] for _ in state], torch.zeros(SLOTS, INPUTS).double()
            for head in (slice(0, size), slice(size, SLOT_DIM)):
                attention = competition(
                    [[(q[head] @ k[head]).item() / math.sqrt(size) for k in keys] for q in queries]
                )
                mean += torch.tensor(attention).double() / 2
                for slot in range(SLOTS):
                    updates[slot].append(weighted_mean(attention[slot], values[:, head]))
            torch.testing.assert_close(found.attention[image, iteration], mean)
            state = [
                updated(module, slot, module.project_output.weight @ torch.cat(update))
                for slot, update in zip(state, updates, strict=True)
            ]
        torch.testing.assert_close(found.slots[image], torch.stack(state))


def test_a_single_head_with_an_identity_for_output_is_slot_attention():
    torch.manual_seed(0)
    plain = jittered(SlotAttention(INPUT_DIM, SLOT_DIM))
    module = MultiHeadSlotAttention(INPUT_DIM, SLOT_DIM, num_heads=1).double()
    module.load_state_dict(plain.state_dict() | {"project_output.weight": torch.eye(SLOT_DIM).double()})
    for one, other in zip(module(*example()), plain(*example()), strict=True):
        torch.testing.assert_close(one, other)


def test_the_bias_acts_on_every_head():
    """A bias that forbids a slot all inputs leaves it no attention in any head."""

    def forbid(attention, content):
        assert attention.shape == content.shape == (BATCH, SLOTS, INPUTS)
        torch.testing.assert_close(content.sum(dim=1), torch.ones(BATCH, INPUTS).double())
        return torch.where(torch.arange(SLOTS)[:, None] == 1, -1e4, torch.zeros_like(attention))

    options = {"num_heads": 2, "attention_bias": forbid, "bias_before_attention": True}
    attention = jittered(MultiHeadSlotAttention(INPUT_DIM, SLOT_DIM, **options))(*example()).attention
    assert (attention[:, :, 1] == 0).all() and (attention[:, :, 0] > 0).all()


def test_heads_divide_the_slot():
    with pytest.raises(ValueError, match=r"`num_heads` \(=4\) must divide `slot_dim` \(=6\)"):
        MultiHeadSlotAttention(INPUT_DIM, SLOT_DIM, num_heads=4)


@torch.no_grad()
def test_k_means_equals_loops():
    module = jittered(KMeans(SLOTS, GRID, INPUT_DIM, SLOT_DIM, hidden_dim=7))
    inputs, slots = example()
    found = module(inputs, slots, iterations=2)
    for image in range(BATCH):
        x = module.norm_inputs(inputs[image])
        keys = [key / key.norm() for key in x @ module.project_k.weight.T]
        means = [slot / slot.norm() for slot in slots[image]]
        for iteration in range(2):
            owners = [max(range(SLOTS), key=lambda j, k=key: (means[j] @ k).item()) for key in keys]
            assignment = one_hot(torch.tensor(owners), SLOTS).T.double()
            assert torch.equal(found.attention[image, iteration], assignment)
            means = [weighted_mean(assignment[j], keys) for j in range(SLOTS)]
            means = [mean / mean.norm() for mean in means]
        for slot in range(SLOTS):
            value = module.project_v(weighted_mean(assignment[slot], x))
            wanted = value + module.mlp(module.norm_mlp(value))
            torch.testing.assert_close(found.slots[image, slot], wanted)


def test_assignments_of_k_means_have_the_gradient_of_the_softmax_or_none():
    inputs, slots = example()
    slots.requires_grad_()
    for straight_through in (True, False):
        module = jittered(KMeans(SLOTS, GRID, INPUT_DIM, SLOT_DIM, straight_through=straight_through))
        (gradient,) = torch.autograd.grad(
            module(inputs, slots, iterations=1).slots.sum(), slots, allow_unused=True
        )
        assert (gradient is not None and gradient.abs().sum() > 0) == straight_through


def test_empty_slots_of_k_means_do_not_blow_up_gradients():
    """Assignments of a slot without inputs had gradients of 3e5 an iteration, and trainings ended."""
    module = jittered(KMeans(SLOTS, GRID, INPUT_DIM, SLOT_DIM))
    inputs, slots = example()
    slots[:, 1] = slots[:, 0]
    inputs.requires_grad_()
    found = module(inputs, slots, iterations=1)
    assert (found.attention[:, -1, 1] == 0).all()
    (gradient,) = torch.autograd.grad(found.slots[:, 1].sum(), inputs)
    (other,) = torch.autograd.grad(module(inputs, slots, iterations=1).slots[:, 0].sum(), inputs)
    assert gradient.norm() < 10 * other.norm()


def sinkhorn_of(cost, a, b, v, iterations=5):
    """Plan and potentials, by sums of exponentials."""
    for _ in range(iterations):
        u = [math.log(a[i]) - math.log(sum(math.exp(v[j] - cost[j][i]) for j in range(SLOTS))) for i in a]
        v = [math.log(b[j]) - math.log(sum(math.exp(u[i] - cost[j][i]) for i in a)) for j in range(SLOTS)]
    return [[math.exp(u[i] + v[j] - cost[j][i]) for i in a] for j in range(SLOTS)], v


def entropy_of(cost, a, b, v):
    return -sum(t * math.log(t) for row in sinkhorn_of(cost, a, b, v)[0] for t in row)


@torch.no_grad()
def test_mesh_equals_loops_with_a_numerical_gradient():
    """One iteration; the gradient of the entropy is taken by finite differences."""
    module = jittered(MESH(INPUT_DIM, SLOT_DIM, hidden_dim=7, steps=2, step_size=0.7))
    inputs, slots = example()
    found = module(inputs, slots, iterations=1)
    for image in range(BATCH):
        x = module.norm_inputs(inputs[image])
        keys, values = x @ module.project_k.weight.T, x @ module.project_v.weight.T
        normal = [module.norm_slots(slot) for slot in slots[image]]
        queries = [module.project_q(slot) for slot in normal]
        cost = [[(key - query).norm().item() for key in keys] for query in queries]
        shares = softmax([module.share_of_input(one).item() for one in x])
        a = {i: SLOTS * share for i, share in enumerate(shares)}
        b = [SLOTS * share for share in softmax([module.share_of_slot(slot).item() for slot in normal])]
        v = [0.0] * SLOTS
        for _ in range(2):
            gradient, start = [[0.0] * INPUTS for _ in range(SLOTS)], v
            for j in range(SLOTS):
                for i in range(INPUTS):
                    sides = []
                    for step in (1e-5, -1e-5):
                        moved = [list(row) for row in cost]
                        moved[j][i] += step
                        sides.append(entropy_of(moved, a, b, start))
                    gradient[j][i] = (sides[0] - sides[1]) / 2e-5
            _, v = sinkhorn_of(cost, a, b, start)
            length = math.sqrt(sum(g * g for row in gradient for g in row))
            cost = [[cost[j][i] - 0.7 * gradient[j][i] / length for i in a] for j in range(SLOTS)]
        plan, _ = sinkhorn_of(cost, a, b, v)
        for slot in range(SLOTS):
            for i in range(INPUTS):
                share = plan[slot][i] / sum(row[i] for row in plan)
                assert abs(found.attention[image, 0, slot, i].item() - share) < 1e-6
            update = sum(weight * value for weight, value in zip(plan[slot], values, strict=True))
            wanted = updated(module, slots[image, slot], update)
            torch.testing.assert_close(found.slots[image, slot], wanted, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_entropy_is_autograds():
    torch.manual_seed(0)
    module = MESH(INPUT_DIM, SLOT_DIM).double()
    logits = torch.randn(BATCH, SLOTS, INPUTS).double().requires_grad_()
    a, b = torch.randn(BATCH, 1, INPUTS).double(), torch.randn(BATCH, SLOTS, 1).double()
    v = torch.randn_like(b)
    u, after = module.sinkhorn(logits, a, b, v)
    plan = (logits + u + after).exp()
    (wanted,) = torch.autograd.grad(-(plan * plan.log()).sum(), logits)
    torch.testing.assert_close(module.entropy_gradient(logits.detach(), a, b, v), wanted)


def test_mesh_lowers_the_entropy_and_keeps_the_shares_of_slots():
    inputs, slots = example()
    entropies = []
    for steps in (0, 2, 8):
        module = jittered(MESH(INPUT_DIM, SLOT_DIM, steps=steps, step_size=1.0))
        attention = module(inputs, slots, iterations=1).attention[:, 0]
        entropies.append(-(attention * attention.clamp_min(1e-30).log()).sum(dim=1).mean().item())
    assert entropies[0] > 1.2 * entropies[1] > 1.5 * entropies[2]
    logits = torch.randn(BATCH, SLOTS, INPUTS).double()
    shares = torch.randn(BATCH, SLOTS, 1).double().log_softmax(dim=1)
    plan = module.transport(logits, torch.zeros(BATCH, 1, INPUTS).double(), shares).exp()
    torch.testing.assert_close(plan.sum(dim=2), shares.exp()[..., 0])


def test_noise_parts_identical_slots():
    """What plain slot attention cannot do."""
    inputs, slots = example()
    slots = slots[:, :1].expand(-1, SLOTS, -1).contiguous()
    module = jittered(MESH(INPUT_DIM, SLOT_DIM))
    same = jittered(SlotAttention(INPUT_DIM, SLOT_DIM))(inputs, slots).slots
    torch.testing.assert_close(same[:, 0], same[:, 1])
    parted = module.train()(inputs, slots).slots
    assert (parted[:, 0] - parted[:, 1]).abs().max() > 0.1
    assert not torch.equal(module(inputs, slots).slots, parted)
    torch.manual_seed(3)
    one = module(inputs, slots).slots
    torch.manual_seed(3)
    assert torch.equal(module(inputs, slots).slots, one), "the global generator decides"


@torch.no_grad()
def test_invariant_slot_attention_equals_loops():
    module = jittered(InvariantSlotAttention(GRID, INPUT_DIM, SLOT_DIM, hidden_dim=7))
    inputs, slots = example()
    found = module(inputs, slots, iterations=2)
    where = [
        torch.tensor([2 * (row + 0.5) / GRID[0] - 1, 2 * (column + 0.5) / GRID[1] - 1]).double()
        for row in range(GRID[0])
        for column in range(GRID[1])
    ]
    for image in range(BATCH):
        x, state = module.norm_inputs(inputs[image]), [*slots[image]]
        frame = [(torch.zeros(2).double(), torch.full((2,), 0.1).double())] * SLOTS
        for iteration in range(2):
            seen = []
            for position, scale in frame:
                near = [module.project_position((at - position) / (5 * scale)) for at in where]
                seen.append(
                    [
                        [module.encode(project(one) + offset) for one, offset in zip(x, near, strict=True)]
                        for project in (module.project_k, module.project_v)
                    ]
                )
            queries = [module.project_q(module.norm_slots(slot)) for slot in state]
            attention = competition(
                [
                    [(query @ key).item() / math.sqrt(SLOT_DIM) for key in keys]
                    for query, (keys, _) in zip(queries, seen, strict=True)
                ]
            )
            torch.testing.assert_close(found.attention[image, iteration], torch.tensor(attention).double())
            state = [updated(module, state[j], weighted_mean(attention[j], seen[j][1])) for j in range(SLOTS)]
            frame = []
            for weights in attention:
                position = weighted_mean(weights, where)
                variance = weighted_mean(weights, [(at - position) ** 2 for at in where])
                frame.append((position, variance.sqrt()))
        torch.testing.assert_close(found.slots[image], torch.stack(state))


@pytest.mark.parametrize("scale, shift", [(1.0, 0.3), (0.5, 0.0), (2.0, -0.7)])
def test_slots_do_not_depend_on_where_and_how_large_the_grid_is(scale, shift):
    """With the frames of a previous attention, coordinates count only relative to them."""
    module = jittered(InvariantSlotAttention((6, 6), INPUT_DIM, SLOT_DIM))
    inputs, (_, slots) = torch.randn(BATCH, 36, INPUT_DIM).double(), example()
    previous = torch.randn(BATCH, SLOTS, 36).double().softmax(dim=1)
    wanted = module(inputs, slots, previous=previous)
    alone = module(inputs, slots)
    module.coordinates = scale * module.coordinates + shift
    for one, other in zip(module(inputs, slots, previous=previous), wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(module(inputs, slots).slots, alone.slots), "the first frame is the image's"


def test_invariant_slot_attention_refuses_another_grid():
    module = InvariantSlotAttention(GRID, INPUT_DIM, SLOT_DIM)
    with pytest.raises(ValueError, match="built for a grid of 3 x 4 inputs; got 7 inputs"):
        module(torch.randn(1, 7, INPUT_DIM), torch.randn(1, SLOTS, SLOT_DIM))


def test_frames_are_means_and_deviations_and_finite_without_attention():
    coordinates = torch.tensor([[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [0.0, 0.0]])
    attention = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]], requires_grad=True)
    found = frames(attention, coordinates)
    assert found[0, 0].tolist() == pytest.approx([0, 2, 1e-3, 1])
    assert found[0, 1].tolist() == pytest.approx([0, 0, 1e-3, 1e-3])
    found.sum().backward()
    assert attention.grad.isfinite().all()


def test_the_relative_decoder_moves_and_grows_with_the_attention():
    torch.manual_seed(0)
    decode = RelativePatchDecoder(8, grid=8, patch=2, channels=16, kernel=1).double()
    slots = torch.randn(1, 1, 8).double()

    def decoded(top, left, side):
        attention = torch.zeros(1, 1, 16, 16).double()
        attention[..., top : top + side, left : left + side] = 1
        return decode(slots, attention).appearance[0, 0]

    one = decoded(2, 4, 4)
    torch.testing.assert_close(decoded(6, 2, 4)[:, 4:, :-2], one[:, :-4, 2:])  # 4 down, 2 left
    # Four cells around the middle, 1/16 and 3/16 away from it: the scale, and the image, are three times.
    small, large = (torch.zeros(1, 1, 16, 16).double() for _ in range(2))
    small[..., 7:9, 7:9] = 1
    large[..., 6::3, 6::3][..., :2, :2] = 1
    small, large = (decode(slots, attention).appearance[0, 0] for attention in (small, large))
    torch.testing.assert_close(large[:, 10:12, 4:6], small[:, 8:10, 6:8])  # cells at 3/8, -3/8 and 1/8, -1/8
    assert not torch.allclose(large[:, 8:10, 6:8], small[:, 8:10, 6:8])
    with pytest.raises(ValueError, match="RelativePatchDecoder needs `attention`"):
        decode(slots)


@torch.no_grad()
def test_slot_mixture_equals_loops():
    module = jittered(SlotMixture(INPUT_DIM, SLOT_DIM, hidden_dim=7))
    inputs, slots = example()
    found = module(inputs, slots, iterations=3)
    for image in range(BATCH):
        x = module.norm_inputs(inputs[image])
        keys, values = x @ module.project_k.weight.T, x @ module.project_v.weight.T
        means, weights = [*slots[image]], [1 / SLOTS] * SLOTS
        deviations = [module.initial_log_deviation.exp()] * SLOTS
        for iteration in range(3):
            logits = []
            for mean, deviation, weight in zip(means, deviations, weights, strict=True):
                query = module.project_q(module.norm_slots(mean))
                r = module.project_deviation(module.norm_deviation(deviation.log())).exp()
                density = torch.distributions.Normal(query, r)
                logits.append(
                    [
                        math.log(weight) + density.log_prob(key).sum().item() / math.sqrt(SLOT_DIM)
                        for key in keys
                    ]
                )
            attention = competition(logits)
            torch.testing.assert_close(found.attention[image, iteration], torch.tensor(attention).double())
            weights = [sum(row) / INPUTS for row in attention]
            means = [
                updated(module, mean, weighted_mean(row, values))
                for mean, row in zip(means, attention, strict=True)
            ]
            deviations = [
                (weighted_mean(row, [(value - mean) ** 2 for value in values]) + 1e-4).sqrt()
                for mean, row in zip(means, attention, strict=True)
            ]
        for slot in range(SLOTS):
            wanted = module.output(torch.cat([means[slot], deviations[slot].log()]))
            torch.testing.assert_close(found.slots[image, slot], wanted)


def test_a_slot_mixture_tells_apart_what_differs_in_spread_alone():
    """Two components of one mean: inputs near it go to the narrow one, others to the wide one."""
    module = jittered(SlotMixture(INPUT_DIM, SLOT_DIM))
    module.project_deviation.weight.data = torch.eye(SLOT_DIM).double()
    module.norm_deviation = torch.nn.Identity()
    module.project_q.weight.data.zero_()
    state = torch.zeros(1, 2, 2 * SLOT_DIM + 1).double()
    state[0, 0, SLOT_DIM:-1], state[0, 1, SLOT_DIM:-1] = math.log(0.3), math.log(2.0)
    attention = module.logits(state, torch.randn(1, 200, INPUT_DIM).double() * 2).softmax(dim=1)[0, 0]
    assert attention.max() < 1 and module.logits(state, torch.zeros(1, 1, INPUT_DIM).double()).argmax(1) == 0
    far = module.logits(state, torch.full((1, 1, INPUT_DIM), 9.0).double())
    assert far.argmax(dim=1) == 1


def keep(module, slots, seed=0):
    """Which slots AdaSlot keeps; it does not look at the attention."""
    torch.manual_seed(seed)
    return module.keep(slots, slots.new_zeros(*slots.shape[:2], 1))


def test_adaslot_keeps_the_more_probable_and_samples_in_training():
    module = jittered(AdaSlot(INPUT_DIM, SLOT_DIM, hidden_dim=7))
    _, slots = example()
    logits = module.score(module.norm_keep(slots))
    kept = keep(module, slots)
    for image in range(BATCH):
        for slot in range(SLOTS):
            dropping, keeping = logits[image, slot].tolist()
            assert kept[image, slot].item() == (1.0 if keeping > dropping else 0.0)
    probability = torch.tensor([[softmax(pair)[1] for pair in image] for image in logits.tolist()]).double()
    torch.testing.assert_close(module.penalty(slots), module.weight * probability.mean())
    module.train()
    samples = torch.stack([keep(module, slots, seed).detach() for seed in range(800)])
    assert ((samples == 0) | (samples == 1)).all()
    torch.testing.assert_close(samples.mean(dim=0), probability, rtol=0, atol=0.08)
    assert torch.equal(keep(module, slots, 5), keep(module, slots, 5))


def test_the_penalty_alone_drops_slots():
    torch.manual_seed(0)
    module = AdaSlot(INPUT_DIM, SLOT_DIM, weight=1.0)
    slots = torch.randn(8, SLOTS, SLOT_DIM)
    optimizer = torch.optim.Adam(module.score.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        module.penalty(slots).backward()
        optimizer.step()
    assert module.penalty(slots) < 0.05 and keep(module.eval(), slots).sum() == 0


def metaslot(num_prototypes, **options):
    torch.manual_seed(0)
    return jittered(MetaSlot(INPUT_DIM, SLOT_DIM, num_prototypes=num_prototypes, hidden_dim=7, **options))


@torch.no_grad()
def test_metaslot_equals_loops():
    module = metaslot(2)
    inputs, slots = example()
    found = module(inputs, slots, iterations=2)
    num_left = []
    for image in range(BATCH):
        x = module.norm_inputs(inputs[image])
        keys, values = x @ module.project_k.weight.T, x @ module.project_v.weight.T
        state, left = [*slots[image]], list(range(SLOTS))
        for stage in range(2):
            for iteration in range(2):
                queries = [module.project_q(module.norm_slots(state[j])) for j in left]
                shares = competition([[(q @ k).item() / math.sqrt(SLOT_DIM) for k in keys] for q in queries])
                attention = torch.zeros(SLOTS, INPUTS).double()
                for j, share in zip(left, shares, strict=True):
                    state[j] = updated(module, state[j], weighted_mean(share, values))
                    attention[j] = torch.tensor(share).double()
                if stage == 1:
                    torch.testing.assert_close(found.attention[image, iteration], attention)
            if stage == 0:
                distances = [[(s - e).norm().item() for e in module.prototypes] for s in state]
                nearest = [row.index(min(row)) for row in distances]
                left = [j for j in range(SLOTS) if nearest[j] not in nearest[:j]]
                state = [module.prototypes[n].clone() for n in nearest]
        num_left.append(len(left))
        for j in range(SLOTS):
            wanted = state[j] if j in left else torch.zeros(SLOT_DIM).double()
            torch.testing.assert_close(found.slots[image, j], wanted)
        kept = module.keep(found.slots, found.attention[:, -1])[image]
        assert kept.nonzero()[:, 0].tolist() == left
    assert min(num_left) < SLOTS, "the example drops slots"


def test_metaslot_gives_the_same_set_in_any_order():
    module = metaslot(2)
    inputs, slots = example()
    one, other = module(inputs, slots).slots, module(inputs, slots.flip(1)).slots
    for image in range(BATCH):
        distances = torch.cdist(one[image], other[image])
        assert (distances.amin(dim=0) < 1e-9).all() and (distances.amin(dim=1) < 1e-9).all()


def test_metaslot_has_the_gradient_of_the_given_slots_but_for_dropped_ones():
    module = metaslot(2)
    inputs, slots = example()
    found = module(inputs, slots.requires_grad_())
    (gradient,) = torch.autograd.grad(found.slots.square().sum(), slots)
    kept = module.keep(found.slots, found.attention[:, -1])
    assert ((gradient.abs().sum(dim=-1) > 0) == (kept > 0)).all() and kept.min() == 0


def test_the_codebook_of_metaslot_learns_the_slots():
    """After some calls on the same images, prototypes are their slots; without training nothing changes."""
    torch.manual_seed(0)
    module = MetaSlot(INPUT_DIM, SLOT_DIM, num_prototypes=8, noise_scale=0.0, decay=0.5).eval()
    inputs, slots = (part.float() for part in example())

    def distance():
        found = module(inputs, slots).slots
        return torch.cdist(found[(found != 0).any(dim=-1)], module.prototypes).amin(dim=-1).mean().item()

    before, probability = distance(), module.probability.item()
    assert distance() == before and probability == pytest.approx(0.02)
    module.train()
    for _ in range(200):
        module(inputs, slots)
    assert module.eval().probability.item() == pytest.approx(0.02 * 1.001**200, rel=1e-3)
    assert distance() < 0.2 * before and module.prototypes.isfinite().all()


def test_noise_of_metaslot_falls_to_zero_and_is_of_training_alone():
    module = metaslot(4).train()
    inputs = torch.zeros(200, INPUTS, INPUT_DIM).double()
    deviations = [(module.noisy(inputs, t, 3) - inputs).std().item() for t in range(3)]
    assert deviations == pytest.approx([0.5, 0.25, 0.0], rel=0.05)
    assert module.eval().noisy(inputs, 0, 3) is inputs


def test_dropped_slots_are_not_decoded_and_all_are_if_all_are_dropped():
    torch.manual_seed(0)
    output = DecoderOutput(torch.randn(1, 3, 3, 4, 4), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4))
    keep = torch.tensor([[1.0, 0.0, 1.0]], requires_grad=True)
    masks = drop_slots(output, keep).mask_logits.softmax(dim=1)
    for slot in range(3):
        share = output.mask_logits.exp()[0, slot] * keep[0, slot]
        wanted = share / (output.mask_logits.exp()[0, 0] + output.mask_logits.exp()[0, 2])
        torch.testing.assert_close(masks[0, slot], wanted, rtol=1e-5, atol=1e-6)
    # The derivative of z m / sum(z m) at z = 0 is m / sum(z m).
    masks[0, 1].sum().backward()
    dropped = output.mask_logits.exp()
    torch.testing.assert_close(keep.grad[0, 1], (dropped[0, 1] / (dropped[0, 0] + dropped[0, 2])).sum())
    unconditioned = drop_slots(output, keep).unconditioned_logits.softmax(dim=1)
    assert unconditioned[0, 1].max() < 1e-5 < unconditioned[0, 0].max()
    none = drop_slots(output, torch.zeros(1, 3)).mask_logits.softmax(dim=1)
    torch.testing.assert_close(none, output.mask_logits.softmax(dim=1))
    assert drop_slots(output, None) is output


def test_a_model_with_adaslot_decodes_kept_slots_only_also_when_exported():
    torch.manual_seed(0)
    model = fast_tetrominoes(slot_module="adaslot").eval()
    module = model.grouping.slot_attention
    module.score[2].weight.data *= 20  # decided, one way or the other
    images = torch.rand(3, 3, 35, 35)
    with torch.no_grad():
        output = model(images)
        keep = module.keep(output.slots, output.attention[:, -1].flatten(2))
        assert 0 < keep.sum() < keep.numel(), "the example has both"
        assert ((output.masks.amax(dim=(2, 3)) > 1e-6) == (keep > 0)).all()
        _, encode, step, decode = stages_of_discovery(model)
        slots, attention, *_ = step(module_start(model), encode(images), torch.zeros(3, 4, 324))
        _, logits = decode(slots, attention.unflatten(-1, (18, 18)))
        one = model(images, iterations=1)
    torch.testing.assert_close(logits.softmax(dim=1), one.masks)


def module_start(model):
    return model.grouping.initial_slots(3)


@pytest.mark.parametrize("name", ["multi-head-slot-attention", "mesh"])
def test_stages_of_exportable_variants_give_the_models_attention(name):
    torch.manual_seed(0)
    model = fast_tetrominoes(slot_module=name).eval()
    images = torch.rand(3, 3, 35, 35)
    with torch.no_grad():
        _, encode, step, _ = stages_of_discovery(model)
        slots, bias = module_start(model), torch.zeros(3, 4, 324)
        for _ in range(3):
            slots, attention, bias, _ = step(slots, encode(images), bias)
        wanted = model(images)
    torch.testing.assert_close(slots, wanted.slots)
    torch.testing.assert_close(attention.unflatten(-1, (18, 18)), wanted.attention[:, -1])


@pytest.mark.parametrize("name", ["slot-mixture", "invariant-slot-attention", "metaslot", "k-means"])
def test_stages_of_the_others_are_refused(name):
    with pytest.raises(ValueError, match="which has no iterations of slots to export"):
        stages_of_discovery(fast_tetrominoes(slot_module=name))


def test_invariant_models_have_relative_positions_only():
    model = fast_tetrominoes(slot_module="invariant-slot-attention")
    assert isinstance(model.decoder, RelativePatchDecoder) and model.encoder.position is None
    plain = fast_tetrominoes()
    assert type(plain.decoder) is PatchDecoder and plain.encoder.position is not None


@pytest.mark.parametrize(
    "kind, options",
    [
        (MultiHeadSlotAttention, {"num_heads": 2}),
        (MESH, {}),
        (SlotMixture, {}),
        (AdaSlot, {}),
    ],
)
@pytest.mark.parametrize("gradient", ["full", "implicit", "bilevel"])
def test_the_gradient_option_works_in_every_variant(kind, options, gradient):
    """The gradient of the initial slots: through all iterations, none, or as of one iteration."""
    module = jittered(kind(INPUT_DIM, SLOT_DIM, gradient=gradient, **options))
    inputs, slots = example()
    slots.requires_grad_()
    (found,) = torch.autograd.grad(module(inputs, slots).slots.sum(), slots, allow_unused=True)
    if gradient == "implicit":
        assert found is None
        return
    assert found.isfinite().all() and found.abs().sum() > 0
    one = kind(INPUT_DIM, SLOT_DIM, **options).double().eval()
    one.load_state_dict(module.state_dict())
    state = one.start(slots)
    with torch.no_grad():
        x = one.norm_inputs(inputs)
        for _ in range(2):
            state, _ = one.step(state, x)
    begun = one.start(slots)
    last = one.finish(one.step(state + (begun - begun.detach()), x)[0])
    (wanted,) = torch.autograd.grad(last.sum(), slots)
    assert torch.allclose(found, wanted) == (gradient == "bilevel")


def test_a_bias_before_attention_reaches_every_variant():
    bias = SpatialBias(GRID, split_slots=True, split_and_merge=True).double()
    options = {"attention_bias": bias, "bias_before_attention": True}
    for module in (
        MultiHeadSlotAttention(INPUT_DIM, SLOT_DIM, num_heads=2, **options),
        MESH(INPUT_DIM, SLOT_DIM, **options),
        SlotMixture(INPUT_DIM, SLOT_DIM, **options),
        InvariantSlotAttention(GRID, INPUT_DIM, SLOT_DIM, **options),
    ):
        with_bias = jittered(module)(*example()).attention[:, 0]
        module.attention_bias = None
        assert not torch.allclose(module(*example()).attention[:, 0], with_bias)


def test_relative_decoding_trains_with_invariant_slots():
    torch.manual_seed(0)
    model = SlotAutoencoder(
        ConvEncoder(channels=8, feature_dim=16, strides=(2,), kernel=(3,), positions=False),
        Grouping(LearnedSlots(3, 12), InvariantSlotAttention((8, 8), 16, 12)),
        RelativePatchDecoder(12, grid=4, patch=4, channels=16, kernel=1),
    )
    model(torch.rand(2, 3, 16, 16)).reconstruction.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

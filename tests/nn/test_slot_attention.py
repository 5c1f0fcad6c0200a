"""Slot attention: its symmetries, its gradients, its numerics and what it refuses."""

import pytest
import torch
from torch import nn

from objecthood.nn import GaussianSlots, Grouping, LearnedSlots, SlotAttention

GRADIENTS = ("full", "implicit", "bilevel")
VARIANTS = [
    {"competition": competition, "aggregation": aggregation}
    for competition in ("slots", "inputs")
    for aggregation in ("mean", "sum")
]


def example(gradient: str = "full", dtype=torch.float64, iterations: int = 3, **settings):
    """A small module with its weights jittered (so that no zero bias hides a mistake), inputs and slots."""
    module = SlotAttention(6, 8, iterations, hidden_dim=10, gradient=gradient, **settings).to(dtype)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module, torch.randn(2, 11, 6, dtype=dtype), torch.randn(2, 4, 8, dtype=dtype)


def test_slots_in_another_order_come_out_in_that_order():
    module, inputs, slots = example()
    order = torch.tensor([2, 0, 3, 1])
    plain, turned = module(inputs, slots), module(inputs, slots[:, order])
    torch.testing.assert_close(turned.slots, plain.slots[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(turned.attention, plain.attention[:, :, order], rtol=0, atol=1e-12)


def test_order_of_inputs_moves_attention_only():
    module, inputs, slots = example()
    order = torch.randperm(11)
    plain, turned = module(inputs, slots), module(inputs[:, order], slots)
    torch.testing.assert_close(turned.slots, plain.slots, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned.attention, plain.attention[..., order], rtol=0, atol=1e-12)


def test_images_of_a_batch_are_independent():
    module, inputs, slots = example()
    together, alone = module(inputs, slots), module(inputs[1:], slots[1:])
    torch.testing.assert_close(together.slots[1:], alone.slots, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_slots, iterations", [(1, 1), (2, 3), (4, None), (9, 7)])
def test_attention_sums_to_one_over_slots_whatever_their_number(num_slots, iterations):
    module, inputs, _ = example(dtype=torch.float32)
    output = module(inputs, torch.randn(2, num_slots, 8), iterations)
    assert output.slots.shape == (2, num_slots, 8)
    assert output.attention.shape == (2, iterations or 3, num_slots, 11)
    torch.testing.assert_close(
        output.attention.sum(dim=2), torch.ones(2, iterations or 3, 11), rtol=0, atol=1e-6
    )
    assert output.attention.min() >= 0


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_more_iterations_go_on_where_fewer_stopped(gradient):
    module, inputs, slots = example(gradient)
    few, many = module(inputs, slots, 3), module(inputs, slots, 5)
    torch.testing.assert_close(many.attention[:, :3], few.attention, rtol=0, atol=1e-12)
    torch.testing.assert_close(module(inputs, few.slots, 2).slots, many.slots, rtol=0, atol=1e-12)


def test_an_iteration_equals_its_equations_written_out():
    module, inputs, slots = example(iterations=1)
    output = module(inputs, slots)
    for picture in range(2):
        x = nn.functional.layer_norm(
            inputs[picture], (6,), module.norm_inputs.weight, module.norm_inputs.bias, 1e-3
        )
        keys, values = x @ module.project_k.weight.T, x @ module.project_v.weight.T
        norm = module.norm_slots
        queries = nn.functional.layer_norm(slots[picture], (8,), norm.weight, norm.bias, 1e-3)
        queries = queries @ module.project_q.weight.T
        attention = torch.empty(4, 11, dtype=torch.float64)
        for place in range(11):
            shares = [torch.exp(queries[slot] @ keys[place] / 8**0.5) for slot in range(4)]
            for slot in range(4):
                attention[slot, place] = shares[slot] / sum(shares)
        torch.testing.assert_close(output.attention[picture, 0], attention, rtol=0, atol=1e-12)
        for slot in range(4):
            weights = (attention[slot] + 1e-8) / (attention[slot] + 1e-8).sum()
            update = sum(weights[place] * values[place] for place in range(11))
            new = module.gru(update[None], slots[picture, slot][None])[0]
            new = new + module.mlp(module.norm_mlp(new))
            torch.testing.assert_close(output.slots[picture, slot], new, rtol=0, atol=1e-12)


def test_padding_equals_leaving_out():
    module, inputs, slots = example()
    mask = torch.zeros(2, 11, dtype=torch.bool)
    mask[0, :7] = True
    mask[1, 3:9] = True
    masked = module(inputs, slots, mask=mask)
    for picture in range(2):
        kept = mask[picture]
        alone = module(inputs[picture : picture + 1, kept], slots[picture : picture + 1])
        torch.testing.assert_close(masked.slots[picture], alone.slots[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            masked.attention[picture][..., kept], alone.attention[0], rtol=0, atol=1e-12
        )
        assert (masked.attention[picture][..., ~kept] == 0).all()
    everything = module(inputs, slots, mask=torch.ones(2, 11, dtype=torch.bool))
    torch.testing.assert_close(everything.slots, module(inputs, slots).slots, rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", [1e6, torch.inf, torch.nan])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_padding_may_hold_anything(options, padding):
    module, inputs, slots = example(**options)
    mask = torch.arange(11).expand(2, 11) < 8
    other = inputs.masked_fill(~mask[..., None], padding).requires_grad_()
    wanted, found = module(inputs.requires_grad_(), slots, mask=mask), module(other, slots, mask=mask)
    torch.testing.assert_close(found.slots, wanted.slots, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.attention, wanted.attention, rtol=0, atol=1e-12)
    for mine, theirs in zip(
        gradients(found.slots, module, other), gradients(wanted.slots, module, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_image_that_is_all_padding_leaves_the_others_alone(options):
    module, inputs, slots = example(**options)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 8:] = mask[1] = False
    inputs[1] = torch.nan
    output = module(inputs.requires_grad_(), slots, mask=mask)
    alone = module(inputs[:1], slots[:1], mask=mask[:1])
    assert (output.attention[1] == 0).all() and output.slots[1].isfinite().all()
    torch.testing.assert_close(output.slots[0], alone.slots[0], rtol=0, atol=1e-12)
    for mine, theirs in zip(
        gradients(output.slots[:1], module, inputs), gradients(alone.slots, module, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    every = gradients(module(inputs, slots, mask=mask).slots, module, inputs)
    assert all(part.isfinite().all() for part in every)
    gathered = module.aggregate(output.attention[:, -1], inputs.detach().nan_to_num(), mask)
    assert (gathered[1] == 0).all(), "an update of 0"


@pytest.mark.parametrize("iterations", [1, 3])
def test_full_gradient_equals_finite_differences(iterations):
    module = SlotAttention(3, 4, iterations, hidden_dim=5).double()
    inputs = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    slots = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]
    weights = [(parameter.data + 0.1).requires_grad_() for parameter in module.parameters()]

    def run(inputs, slots, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (inputs, slots))

    assert torch.autograd.gradcheck(run, (inputs, slots, *weights))


def gradients(output, module, *tensors):
    """Of a fixed projection of the slots, for parameters and tensors (None where nothing flows)."""
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    wanted = [*module.parameters(), *tensors]
    return torch.autograd.grad((output * direction).sum(), wanted, allow_unused=True)


@pytest.mark.parametrize("gradient", ["implicit", "bilevel"])
def test_truncated_gradients_are_those_of_the_last_step(gradient):
    module, inputs, slots = example(gradient)
    inputs.requires_grad_()
    slots.requires_grad_()
    output = module(inputs, slots)
    module.gradient = "full"
    full = module(inputs, slots)
    assert torch.equal(output.slots, full.slots) and torch.equal(output.attention, full.attention)

    before = module(inputs, slots, 2).slots.detach().requires_grad_()
    single = module(inputs, before, 1).slots
    ours = gradients(output.slots, module, inputs, slots)
    wanted = gradients(single, module, inputs, before)
    for mine, last in zip(ours[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(mine, last, rtol=0, atol=1e-12)
    if gradient == "implicit":
        assert ours[-1] is None
    else:  # straight through: the initial slots get what the slots before the last step would get
        torch.testing.assert_close(ours[-1], wanted[-1], rtol=0, atol=1e-12)
        assert wanted[-1].abs().max() > 1e-3
    full_gradients = gradients(full.slots, module, inputs, slots)
    assert not torch.allclose(ours[0], full_gradients[0]), "a truncated gradient is not the full one"


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_single_iteration_passes_the_gradient_once(gradient):
    module, inputs, slots = example(gradient, iterations=1)
    slots.requires_grad_()
    (ours,) = gradients(module(inputs, slots).slots, module, slots)[-1:]
    module.gradient = "full"
    (wanted,) = gradients(module(inputs, slots).slots, module, slots)[-1:]
    if gradient == "implicit":
        assert ours is None
    else:
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


def test_gradient_reaches_every_parameter_and_the_start():
    group = Grouping(GaussianSlots(4, 8), SlotAttention(6, 8))
    group(torch.randn(2, 11, 6)).slots.square().sum().backward()
    for name, parameter in group.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_no_gradient_is_kept_where_none_is_wanted(gradient):
    module, inputs, slots = example(gradient)
    with torch.no_grad():
        assert not module(inputs, slots).slots.requires_grad


def test_competition_runs_in_float32_under_bfloat16_autocast():
    module, inputs, slots = example(dtype=torch.float32)
    seen = []
    module.gru.register_forward_pre_hook(lambda gru, arguments: seen.extend(a.dtype for a in arguments))
    with torch.autocast("cpu", torch.bfloat16):
        assert module.project_k(inputs).dtype == torch.bfloat16, "autocast is on"
        output = module(inputs, slots)
    assert output.attention.dtype == output.slots.dtype == torch.float32
    torch.testing.assert_close(output.attention.sum(dim=2), torch.ones(2, 3, 11), rtol=0, atol=1e-6)
    assert seen == [torch.float32] * 6
    torch.testing.assert_close(output.slots, module(inputs, slots).slots, rtol=0.1, atol=0.1)


def test_float32_stays_near_float64():
    module, inputs, slots = example()
    exact = module(inputs, slots).slots
    module.float()
    torch.testing.assert_close(module(inputs.float(), slots.float()).slots.double(), exact, rtol=0, atol=1e-5)


# Torch's compiler cannot trace the shape checks of the tests, so they are off; it warns of its own internals.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradient", ["full", "bilevel"])
def test_compiles_without_breaks_to_the_same_numbers(unchecked, gradient):
    module, inputs, slots = example(gradient, torch.float32, iterations=2)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    ours, plain = compiled(inputs, slots), module(inputs, slots)
    torch.testing.assert_close(ours.slots, plain.slots, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.attention, plain.attention, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_mask", [False, True])
def test_an_exported_graph_takes_any_batch(unchecked, has_mask):
    module = example(dtype=torch.float32)[0].eval()

    def arguments(size):
        mask = (torch.arange(11).expand(size, 11) < 8,) if has_mask else ()
        return torch.randn(size, 11, 6), torch.randn(size, 4, 8), None, *mask

    batch = torch.export.Dim("batch")
    sizes = ({0: batch}, {0: batch}, None, *(({0: batch},) if has_mask else ()))
    graph = torch.export.export(module, arguments(3), dynamic_shapes=sizes).module()
    for size in (1, 2, 5):
        given = arguments(size)
        ours, wanted = graph(*given), module(*given)
        torch.testing.assert_close(ours.slots, wanted.slots, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.attention, wanted.attention, rtol=0, atol=1e-6)


def test_parameters_are_those_of_the_reference():
    module = SlotAttention(64, 64, hidden_dim=128)
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    assert names == {
        *("norm_inputs", "norm_slots", "norm_mlp", "project_q", "project_k", "project_v", "gru", "mlp"),
    }
    count = sum(parameter.numel() for parameter in module.parameters())
    start = sum(parameter.numel() for parameter in GaussianSlots(7, 64).parameters())
    assert (count, start) == (54_208, 128)
    assert count + start == 54_336  # the reference's module holds mean and deviation of the start as well


def test_start_values_are_those_of_the_reference():
    module = SlotAttention(64, 64, hidden_dim=128)
    biases = [parameter for name, parameter in module.named_parameters() if "bias" in name]
    assert len(biases) == 7 and all((bias == 0).all() for bias in biases)
    for gate in module.gru.weight_hh.detach().split(64):
        assert gate.norm() > 1
    # Keras draws one orthogonal kernel [units, 3 * units] for all gates.
    recurrent = module.gru.weight_hh.detach()
    torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(64), rtol=0, atol=1e-5)
    for weight, limit in (
        (module.project_q.weight, (6 / 128) ** 0.5),
        (module.mlp[0].weight, (6 / 192) ** 0.5),
        (module.gru.weight_ih, (6 / 256) ** 0.5),
    ):
        assert 0.95 * limit < weight.abs().max() <= limit
    assert all((norm.weight == 1).all() for norm in (module.norm_inputs, module.norm_slots, module.norm_mlp))
    assert all(norm.eps == 1e-3 for norm in (module.norm_inputs, module.norm_slots, module.norm_mlp))
    assert module.project_q.bias is module.project_k.bias is module.project_v.bias is None


def test_gaussian_slots_start_in_the_range_of_the_reference():
    largest = torch.cat(
        [torch.cat(list(GaussianSlots(1, 64).parameters())).abs().flatten() for _ in range(20)]
    )
    assert 0.300 < largest.max() <= (6 / 65) ** 0.5 < 0.304


WRONG = {
    "inputs without batch": ((11, 6), (2, 4, 8), 3, None),
    "inputs not flattened": ((2, 3, 3, 6), (2, 4, 8), 3, None),
    "inputs channels first": ((2, 6, 11), (2, 4, 8), 3, None),
    "inputs of another size": ((2, 11, 7), (2, 4, 8), 3, None),
    "no inputs": ((2, 0, 6), (2, 4, 8), 3, None),
    "slots without batch": ((2, 11, 6), (4, 8), 3, None),
    "slots of another size": ((2, 11, 6), (2, 4, 6), 3, None),
    "no slots": ((2, 11, 6), (2, 0, 8), 3, None),
    "another batch": ((2, 11, 6), (3, 4, 8), 3, None),
    "slots for one image": ((2, 11, 6), (1, 4, 8), 3, None),
    "no iterations": ((2, 11, 6), (2, 4, 8), 0, None),
    "negative iterations": ((2, 11, 6), (2, 4, 8), -1, None),
    "mask of another length": ((2, 11, 6), (2, 4, 8), 3, (2, 10)),
    "mask of another batch": ((2, 11, 6), (2, 4, 8), 3, (1, 11)),
    "mask per slot": ((2, 11, 6), (2, 4, 8), 3, (2, 4, 11)),
}


@pytest.mark.parametrize("inputs, slots, iterations, mask", WRONG.values(), ids=WRONG)
def test_wrong_shapes_are_told_in_one_line_with_a_remedy(unchecked, inputs, slots, iterations, mask):
    mask_tensor = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError) as caught:
        SlotAttention(6, 8)(torch.randn(inputs), torch.randn(slots), iterations, mask_tensor)
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(list(shape)) in message for shape in (inputs, slots, mask) if shape is not None)
    assert f"iterations {iterations}" in message
    assert "input_dim=6" in message and "slot_dim=8" in message
    assert "Flatten feature maps" in message


def test_unknown_gradient_is_refused(unchecked):
    with pytest.raises(ValueError, match="`gradient` .='none'. must be one of full, implicit, bilevel"):
        SlotAttention(6, 8, gradient="none")


@pytest.mark.parametrize("kind", [GaussianSlots, LearnedSlots])
def test_noise_is_an_argument(unchecked, kind):
    start = kind(num_slots=3, dim=8)
    noise = torch.randn(2, 5, 8)
    assert torch.equal(start(2, 5, noise), start(2, 5, noise))
    assert not torch.equal(start(2, 5), start(2, 5))
    with pytest.raises(ValueError, match=r"`noise` \(shape \[2, 4, 8\]\) must be .* \[2, 5, 8\]"):
        start(2, 5, noise[:, :4])


def test_gaussian_slots_are_mean_plus_deviation_times_noise():
    start = GaussianSlots(num_slots=3, dim=2)
    start.slots_mu.data = torch.tensor([[[1.0, -1.0]]])
    start.slots_log_sigma.data = torch.tensor([[[0.0, 2.0]]]).log()
    start.slots_log_sigma.data[..., 0] = 0.0
    slots = start(1, noise=torch.tensor([[[1.0, 1.0], [0.0, 0.0], [-2.0, 3.0]]]))
    torch.testing.assert_close(slots, torch.tensor([[[2.0, 1.0], [1.0, -1.0], [-1.0, 5.0]]]))


def test_learned_slots_are_the_queries_and_beyond_them_draws_like_them():
    start = LearnedSlots(num_slots=3, dim=8)
    assert torch.equal(start(2), start.queries.expand(2, 3, 8))
    assert torch.equal(start(2, 2), start.queries[:, :2].expand(2, 2, 8))
    noise = torch.randn(2, 5, 8)
    more = start(2, 5, noise)
    assert torch.equal(more[:, :3], start(2))
    mean, deviation = start.queries[0].mean(dim=0), start.queries[0].std(dim=0)
    torch.testing.assert_close(more[:, 3:], mean + deviation * noise[:, 3:])
    assert more[:, 3:].isfinite().all()


def test_spread_moves_learned_slots_by_noise_in_units_of_their_deviation():
    start = LearnedSlots(num_slots=3, dim=8, noise_scale=0.5)
    noise = torch.randn(2, 5, 8)
    moved = start(2, 5, noise)
    deviation = start.queries[0].std(dim=0)
    torch.testing.assert_close(moved[:, :3], start.queries + 0.5 * deviation * noise[:, :3])
    torch.testing.assert_close(moved[:, 3:], start.queries[0].mean(dim=0) + deviation * noise[:, 3:])
    assert not torch.equal(start(2), start(2)), "drawn unless given"
    # Noise may not be trained away: what moves the queries carries no gradient to their deviation.
    (gradient,) = torch.autograd.grad(start(1, 3, noise[:1, :3]).sum(), start.queries)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))


def test_more_slots_than_one_learned_slot_are_finite():
    assert LearnedSlots(num_slots=1, dim=8)(2, 3).isfinite().all()


def test_grouping_takes_the_number_of_slots_from_the_noise():
    group = Grouping(GaussianSlots(5, 8), SlotAttention(6, 8))
    assert group(torch.randn(2, 11, 6)).slots.shape[1] == 5
    assert group(torch.randn(2, 11, 6), num_slots=3).slots.shape[1] == 3
    assert group(torch.randn(2, 11, 6), noise=torch.randn(2, 7, 8)).slots.shape[1] == 7
    assert group(torch.randn(2, 11, 6), iterations=6).attention.shape[1] == 6


def test_prior_sees_each_iteration_but_the_last_and_moves_the_next():
    calls, alone = [], []

    def attention_bias(attention, resemblance):
        calls.append(attention)
        alone.append(resemblance)
        bias = torch.zeros_like(attention)
        bias[:, 1] = 100.0
        return bias

    module, inputs, slots = example(attention_bias=attention_bias)
    output = module(inputs, slots)
    assert len(calls) == 2 and not any(attention.requires_grad for attention in calls)
    assert torch.equal(calls[0], output.attention[:, 0])
    torch.testing.assert_close(alone[0], calls[0])  # nothing was added yet
    assert (calls[1][:, 1] > 0.999).all() and not (alone[1][:, 1] > 0.999).any(), "contents alone"
    assert (output.attention[:, 1:, 1] > 0.999).all() and not (output.attention[:, 0, 1] > 0.999).all()


def test_an_early_prior_acts_on_every_iteration_from_what_its_slots_attend_to():
    calls = []

    def attention_bias(attention, resemblance):
        calls.append((attention, resemblance))
        return -2 * attention

    module, inputs, slots = example(attention_bias=attention_bias, bias_before_attention=True)
    output = module(inputs, slots)
    normalised, now, bias = module.norm_inputs(inputs), slots, None
    assert len(calls) == output.attention.shape[1] == 3
    for iteration, (attention, alone) in enumerate(calls):
        logits = module.queries(now) @ normalised.mT
        torch.testing.assert_close(alone, logits.softmax(dim=1))
        torch.testing.assert_close(attention, (logits if bias is None else logits + bias).softmax(dim=1))
        bias = -2 * attention
        torch.testing.assert_close(output.attention[:, iteration], (logits + bias).softmax(dim=1))
        assert not attention.requires_grad
        now = module.step(now, normalised, bias)[0]
    torch.testing.assert_close(output.slots, now)


def test_without_a_prior_early_means_nothing():
    module, inputs, slots = example()
    expected = module(inputs, slots)
    module.bias_before_attention = True
    assert torch.equal(module(inputs, slots).slots, expected.slots)

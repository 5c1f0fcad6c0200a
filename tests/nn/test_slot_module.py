"""Slot modules: what holds for all of them, what for some (the table in `nn.slot_module`), and training with
each."""

import inspect

import pytest
import torch

from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.nn import (
    SLOT_MODULES,
    ConvEncoder,
    GaussianSlots,
    Grouping,
    LearnedSlots,
    PatchDecoder,
    SlotMLP,
    SlotModule,
    SlotModuleOptions,
    SpatialBias,
)

NUM_SLOTS, GRID, INPUT_DIM, SLOT_DIM = 4, (6, 8), 7, 8
NUM_INPUTS = GRID[0] * GRID[1]
ALL = pytest.mark.parametrize("name", SLOT_MODULES)
ATTENTIVE = pytest.mark.parametrize("name", [name for name in SLOT_MODULES if name != "slot-mlp"])
OF_GRIDS = ("slot-mlp", "invariant-slot-attention")
OF_SETS = pytest.mark.parametrize("name", [name for name in SLOT_MODULES if name not in OF_GRIDS])
"""Modules that do not know where an input lies."""


def build(name, dtype=torch.float64, **options):
    """A module with all its weights away from their start values, without noise; the same ones in every
    `dtype`."""
    torch.manual_seed(0)
    own = {"num_prototypes": 1000} if name == "metaslot" else {}  # enough that no two slots share one
    module = SLOT_MODULES[name](SlotModuleOptions(NUM_SLOTS, GRID, INPUT_DIM, SLOT_DIM, **options), **own)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module.to(dtype).eval()


def example(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(3, NUM_INPUTS, INPUT_DIM).to(dtype), torch.randn(3, NUM_SLOTS, SLOT_DIM).to(dtype)


def kept(module, slots, attention):
    """A number that depends on which slots are kept; 0 for modules that keep all."""
    if not module.drops_slots:
        assert module.keep(slots, attention[:, -1]) is None and module.penalty(slots) is None
        return 0
    return (module.keep(slots, attention[:, -1]) * torch.arange(NUM_SLOTS)).sum()


@ALL
def test_the_call_is_the_contracts(name):
    module = build(name)
    assert isinstance(module, SlotModule)
    wanted = inspect.signature(SlotModule.forward)
    assert inspect.signature(type(module).forward).parameters.keys() == wanted.parameters.keys()
    assert (module.input_dim, module.slot_dim, module.iterations) == (INPUT_DIM, SLOT_DIM, 3)
    inputs, _ = example()
    assert module.norm_inputs(inputs).shape == inputs.shape and module.attention_bias is None


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_types_and_attention_that_sums_to_one(name, dtype):
    module, (inputs, slots) = build(name, dtype), example(dtype)
    found, attention = module(inputs, slots)
    assert found.shape == slots.shape and attention.shape == (3, 3, NUM_SLOTS, NUM_INPUTS)
    assert found.dtype == attention.dtype == dtype
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 3, NUM_INPUTS, dtype=dtype))
    assert module(inputs, slots, iterations=5).attention.shape[1] == 5
    module.iterations = 2
    assert module(inputs, slots).attention.shape[1] == 2


@ALL
def test_float32_and_float64_agree(name):
    wide, narrow = (build(name, dtype)(*example(dtype)) for dtype in (torch.float64, torch.float32))
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@ALL
def test_gradient_reaches_inputs_initial_slots_and_weights(name):
    module, (inputs, slots) = build(name), example()
    found, attention = module(inputs.requires_grad_(), slots.requires_grad_())
    ((found * torch.randn_like(found)).sum() + kept(module, found, attention)).backward()
    parts = {"inputs": inputs, "slots": slots, **dict(module.named_parameters())}
    if name == "implicit-slot-attention":
        assert parts.pop("slots").grad is None, "the fixed point does not depend on its start"
    for part, tensor in parts.items():
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, part
        assert torch.isfinite(tensor.grad).all(), part
    assert (inputs.grad.abs().sum(dim=2) > 0).all(), "every input counts"


@ALL
def test_masked_inputs_count_for_nothing(name):
    """NaN at padded inputs changes neither slots nor gradients; a fully masked image gets finite slots."""
    module, (inputs, slots) = build(name), example()
    mask = torch.rand(3, NUM_INPUTS) < 0.6
    mask[1] = False
    results = []
    for padding in (0.0, torch.nan):
        module.zero_grad()
        padded = inputs.masked_fill(~mask[..., None], padding).requires_grad_()
        found, attention = module(padded, slots, mask=mask)
        (found.square().sum() + kept(module, found, attention)).backward()
        results.append([found, attention, padded.grad, *(p.grad.clone() for p in module.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.isfinite(other).all() and torch.equal(one, other)
    found, attention, gradient = results[1][:3]
    assert (attention.masked_select(~mask[:, None, None]) == 0).all()
    torch.testing.assert_close(attention.sum(dim=2), mask[:, None].expand(-1, 3, -1).double())
    assert (gradient[~mask] == 0).all() and (gradient[mask].abs().sum(dim=-1) > 0).all()
    alone = module(inputs[2:], slots[2:], mask=mask[2:])
    torch.testing.assert_close(alone.slots, found[2:])
    assert not torch.allclose(module(inputs, slots).slots[2], found[2]), "the mask matters"


@ALL
def test_a_mask_of_ones_is_no_mask(name):
    module, (inputs, slots) = build(name), example()
    mask = torch.ones(3, NUM_INPUTS, dtype=torch.bool)
    for one, other in zip(module(inputs, slots), module(inputs, slots, mask=mask), strict=True):
        torch.testing.assert_close(one, other)


@OF_SETS
def test_masked_inputs_are_as_if_left_out(name):
    module, (inputs, slots) = build(name), example()
    mask = (torch.arange(NUM_INPUTS) < 30).expand(3, -1)
    kept, masked = module(inputs[:, :30], slots), module(inputs, slots, mask=mask)
    torch.testing.assert_close(masked.slots, kept.slots)
    torch.testing.assert_close(masked.attention[..., :30], kept.attention)


@OF_SETS
def test_permuting_inputs_permutes_the_attention_and_leaves_slots_alone(name):
    module, (inputs, slots) = build(name), example()
    order = torch.randperm(NUM_INPUTS)
    one, other = module(inputs, slots), module(inputs[:, order], slots)
    torch.testing.assert_close(other.slots, one.slots)
    torch.testing.assert_close(other.attention, one.attention[..., order])
    assert not torch.allclose(one.attention, other.attention)


@pytest.mark.parametrize("name", [name for name in SLOT_MODULES if name not in ("slot-mlp", "metaslot")])
def test_permuting_slots_permutes_the_output(name):
    """MetaSlot drops one of two slots by their order: see test_slot_variants."""
    module, (inputs, slots) = build(name), example()
    order = torch.tensor([2, 0, 3, 1])
    one, other = module(inputs, slots), module(inputs, slots[:, order])
    torch.testing.assert_close(other.slots, one.slots[:, order])
    torch.testing.assert_close(other.attention, one.attention[:, :, order])


def test_a_slot_mlp_averages_real_inputs_only():
    module, (inputs, slots) = SlotMLP(4, GRID, INPUT_DIM, SLOT_DIM, pooled=2).double(), example()
    module.norm_inputs.bias.data.normal_()  # so that padding would count
    mask = torch.rand(3, *GRID) < 0.6
    maps = module.norm_inputs(inputs).unflatten(1, GRID)
    found = module(inputs, slots, mask=mask.flatten(1)).slots
    for image in range(3):
        means = [
            maps[image, rows, columns][mask[image, rows, columns]].mean(dim=0)
            for rows in (slice(0, 3), slice(3, 6))
            for columns in (slice(0, 4), slice(4, 8))
        ]
        wanted = slots[image] + module.mlp(torch.stack(means, dim=1).flatten()).view(4, SLOT_DIM)
        torch.testing.assert_close(found[image], wanted)


def test_a_slot_mlp_has_an_order_of_inputs_and_of_slots():
    module, (inputs, slots) = build("slot-mlp"), example()
    slots_in_order = module(inputs, slots).slots
    assert not torch.allclose(module(inputs.flip(1), slots).slots, slots_in_order)
    assert not torch.allclose(module(inputs, slots.flip(1)).slots, slots_in_order.flip(1))


@OF_SETS
def test_numbers_of_slots_and_inputs_may_be_any(name):
    module, (inputs, _) = build(name), example()
    found, attention = module(inputs[:, :11], torch.randn(3, 6, SLOT_DIM).double())
    assert found.shape == (3, 6, SLOT_DIM) and attention.shape == (3, 3, 6, 11)


@ATTENTIVE
def test_a_prior_acts_between_iterations_and_on_the_first_after_a_previous_frame(name):
    attention_bias = SpatialBias(GRID).double()
    with_it, without = build(name, attention_bias=attention_bias), build(name)
    without.load_state_dict(with_it.state_dict(), strict=False)
    inputs, slots = example()
    one, other = with_it(inputs, slots).attention, without(inputs, slots).attention
    assert not torch.allclose(one[:, 1], other[:, 1])
    if name != "metaslot":  # whose first stage has it already
        assert torch.equal(one[:, 0], other[:, 0])
    previous = torch.randn_like(one[:, 0]).softmax(dim=1)
    held = with_it(inputs, slots, previous=previous).attention[:, 0]
    assert not torch.allclose(held, one[:, 0])
    if name != "invariant-slot-attention":  # whose first frames are those of the previous attention
        assert torch.equal(without(inputs, slots, previous=previous).attention, other)


def test_soft_kmeans_begins_from_the_slots_it_is_given():
    """The shared call is `cluster` with unit means, and returns the attention of every iteration."""
    module, (inputs, slots) = build("soft-k-means"), example()
    means = torch.nn.functional.normalize(slots, dim=-1)
    found, attention = module(inputs, slots, iterations=4)
    for iteration in range(4):
        clusters = module.cluster(inputs, iterations=iteration + 1, means=means)
        torch.testing.assert_close(attention[:, iteration], clusters.attention)
    torch.testing.assert_close(found, clusters.slots)
    torch.testing.assert_close(module(inputs, 3 * slots, iterations=4).slots, found)


@ATTENTIVE
@pytest.mark.parametrize(
    "inputs, slots, mask",
    [
        ((3, 48, 6), (3, 4, 8), None),
        ((3, 48, 7), (3, 4, 6), None),
        ((3, 48, 7), (2, 4, 8), None),
        ((3, 0, 7), (3, 4, 8), None),
        ((3, 48, 7), (3, 4, 8), torch.ones(3, 47, dtype=torch.bool)),
        ((3, 48, 7), (3, 4, 8), torch.ones(3, 48)),
    ],
)
def test_wrong_shapes_are_named_in_one_line(unchecked, name, inputs, slots, mask):
    module = build(name, torch.float32)
    with pytest.raises(ValueError, match=f"{type(module).__name__} needs inputs .*; got inputs") as caught:
        module(torch.zeros(inputs), torch.zeros(slots), mask=mask)
    assert "\n" not in str(caught.value) and str(list(inputs)) in str(caught.value)
    with pytest.raises(ValueError, match="iterations 0"):
        module(*example(torch.float32), iterations=0)


@ALL
def test_autocast_leaves_the_competition_in_float32(name):
    """Only norms and projections of inputs may round."""
    module, (inputs, slots) = build(name, torch.float32), example(torch.float32)
    wanted = module(inputs, slots)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(inputs, slots)
    assert found.attention.dtype == torch.float32 and found.slots.dtype == torch.float32
    first, exact = found.attention[:, 0], wanted.attention[:, 0]
    assert (first - exact).abs().mean() < 0.02
    torch.testing.assert_close(found.attention.sum(dim=2), wanted.attention.sum(dim=2))


@ALL
def test_modules_run_under_inference_mode_and_on_the_meta_device(name):
    module, (inputs, slots) = build(name), example()
    with torch.inference_mode():
        found = module(inputs, slots)
    assert torch.equal(found.slots, module(inputs, slots).slots) and not found.slots.requires_grad
    shapes = module.to("meta")(inputs.to("meta"), slots.to("meta"))
    assert (shapes.slots.shape, shapes.attention.shape) == (found.slots.shape, found.attention.shape)


@ALL
def test_sixteen_bits_give_slots_in_sixteen_bits_and_attention_in_thirty_two(name):
    module = build(name, torch.bfloat16)
    found, attention = module(*example(torch.bfloat16))
    assert (found.dtype, attention.dtype) == (torch.bfloat16, torch.float32)
    assert torch.isfinite(found).all()


@ALL
@pytest.mark.parametrize("initial", [GaussianSlots, LearnedSlots])
def test_an_autoencoder_learns_with_it(name, initial):
    """Twenty steps on one batch lower the error, and every weight takes part."""
    torch.manual_seed(0)
    options = SlotModuleOptions(3, (8, 8), 16, 12, attention_bias=SpatialBias((8, 8)), gradient="bilevel")
    grouping = Grouping(initial(3, 12), SLOT_MODULES[name](options))
    model = SlotAutoencoder(
        ConvEncoder(channels=8, feature_dim=16, strides=(2,), kernel=(3,)),
        grouping,
        PatchDecoder(12, grid=4, patch=4, channels=16, kernel=1, attention_conditioned_masks=True),
    )
    images = torch.zeros(4, 3, 16, 16)
    for index in range(4):
        images[index, index % 3, 4 * index : 4 * index + 5, 2:9] = 1.0
    start, losses = torch.randn(4, 3, 12), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        loss = (model(images, noise=start).reconstruction - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses
    for part, parameter in model.named_parameters():
        if name == "implicit-slot-attention" and "initial_slots" in part:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), part
    assert (grouping.num_slots, grouping.slot_dim, grouping.iterations) == (3, 12, 3)
    grouping.iterations = 5
    with torch.no_grad():
        output = model(images)
    assert output.attention.shape == (4, 5, 3, 8, 8)
    torch.testing.assert_close(output.masks.sum(dim=1), torch.ones(4, 16, 16))

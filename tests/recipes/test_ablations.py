"""Ablations: every switch equals its equations written out, and the recipe trains with every one of them."""

import dataclasses
import importlib
import json
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from places import ROOT

import objecthood as oh
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.export.stages import Step
from objecthood.nn import Grouping, LearnedSlots, SlotAttention, SlotMLP
from objecthood.recipes import RECIPES, from_dict
from objecthood.recipes.ablations import SWITCHES, Change

BASE = RECIPES["clevr6-ablation"]
CHANGES = get_args(Change)
COMBINED = {
    "none": {},
    **SWITCHES,
    "sum of softmax over inputs": {"competition": "inputs", "aggregation": "sum"},
    "all": {key: value for switch in SWITCHES.values() for key, value in switch.items()},
}


def example(**switches):
    """A small module with all its weights away from their start values, inputs and slots, in float64."""
    module = SlotAttention(6, 8, hidden_dim=10, **switches).double()
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return module, 1 + torch.randn(2, 11, 6).double(), torch.randn(2, 4, 8).double()


def literal(module, inputs, slots, iterations=3, mask=None, **switches):
    """Algorithm 1 of the paper with keys, queries and values, and the switches as plain `if`s."""
    if switches.get("normalize_inputs", True):
        norm = module.norm_inputs
        inputs = F.layer_norm(inputs, (6,), norm.weight, norm.bias, 1e-3)
    keys, values = inputs @ module.project_k.weight.T, inputs @ module.project_v.weight.T
    attentions = []
    for _ in range(iterations):
        previous = slots
        if switches.get("normalize_slots", True):
            norm = module.norm_slots
            slots = F.layer_norm(slots, (8,), norm.weight, norm.bias, 1e-3)
        queries = slots @ module.project_q.weight.T
        logits = torch.einsum("bsd,bnd->bsn", queries, keys) / 8**0.5
        real = torch.ones(logits.shape[0], 1, logits.shape[2]) if mask is None else mask[:, None].double()
        over = -1 if switches.get("competition") == "inputs" else 1
        exponentials = logits.exp() * (real if over == -1 else 1)
        attention = exponentials / exponentials.sum(dim=over, keepdim=True) * real
        if switches.get("aggregation") == "sum":
            weights = attention
        else:
            weights = (attention + 1e-8) * real
            weights = weights / weights.sum(dim=-1, keepdim=True)
        updates = torch.einsum("bsn,bnd->bsd", weights, values)
        if switches.get("update") == "replace":
            slots = updates
        else:
            slots = module.gru(updates.flatten(0, 1), previous.flatten(0, 1)).view_as(previous)
        if switches.get("mlp", True):
            norm = module.norm_mlp
            hidden = F.layer_norm(slots, (8,), norm.weight, norm.bias, 1e-3)
            hidden = (hidden @ module.mlp[0].weight.T + module.mlp[0].bias).relu()
            slots = slots + hidden @ module.mlp[2].weight.T + module.mlp[2].bias
        attentions.append(attention)
    return slots, torch.stack(attentions, dim=1)


@pytest.mark.parametrize("switches", COMBINED.values(), ids=COMBINED)
@pytest.mark.parametrize("padded", [False, True])
def test_every_switch_equals_its_equations_written_out(switches, padded):
    module, inputs, slots = example(**switches)
    mask = torch.arange(11).expand(2, 11) < torch.tensor([[8], [5]]) if padded else None
    output = module(inputs, slots, mask=mask)
    wanted_slots, wanted_attention = literal(module, inputs, slots, mask=mask, **switches)
    torch.testing.assert_close(output.slots, wanted_slots, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.attention, wanted_attention, rtol=0, atol=1e-12)


@pytest.mark.parametrize("switches", [SWITCHES[name] for name in SWITCHES], ids=SWITCHES)
def test_every_switch_changes_the_slots(switches):
    plain, inputs, slots = example()
    changed = SlotAttention(6, 8, hidden_dim=10, **switches).double()
    changed.load_state_dict(plain.state_dict(), strict=False)
    assert (changed(inputs, slots).slots - plain(inputs, slots).slots).abs().max() > 1e-3


@pytest.mark.parametrize("switches", COMBINED.values(), ids=COMBINED)
@pytest.mark.parametrize("gradient", ["full", "bilevel"])
def test_what_is_switched_off_has_no_weights_and_the_rest_learns(switches, gradient):
    module = SlotAttention(6, 8, hidden_dim=10, gradient=gradient, **switches)
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    gone = {
        *({"gru"} if "update" in switches else ()),
        *({"mlp", "norm_mlp"} if "mlp" in switches else ()),
        *({"norm_inputs"} if "normalize_inputs" in switches else ()),
        *({"norm_slots"} if "normalize_slots" in switches else ()),
    }
    everything = {name.split(".")[0] for name, _ in SlotAttention(6, 8).named_parameters()}
    assert names == everything - gone
    module(torch.randn(2, 11, 6), torch.randn(2, 4, 8)).slots.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_switches_named_as_the_paper_has_them_change_nothing():
    named = dict(
        update="gru",
        mlp=True,
        normalize_inputs=True,
        normalize_slots=True,
        competition="slots",
        aggregation="mean",
    )
    torch.manual_seed(0)
    plain = SlotAttention(6, 8)
    after = torch.rand(1)
    torch.manual_seed(0)
    switched = SlotAttention(6, 8, **named)
    assert torch.equal(after, torch.rand(1))
    assert list(plain.state_dict()) == list(switched.state_dict())
    inputs, slots = torch.randn(2, 11, 6), torch.randn(2, 4, 8)
    for one, other in zip(plain(inputs, slots), switched(inputs, slots), strict=True):
        assert torch.equal(one, other)


def test_attention_sums_to_one_over_the_axis_of_the_softmax():
    for competition, axis in (("slots", 2), ("inputs", 3)):
        module, inputs, slots = example(competition=competition)
        total = module(inputs, slots).attention.sum(dim=axis)
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    "wrong", [{"update": "lstm"}, {"competition": "keys"}, {"aggregation": "max"}], ids=str
)
def test_unknown_switches_are_refused_with_what_is_allowed(unchecked, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"`{name}` \(='{wrong[name]}'\) must be one of ") as caught:
        SlotAttention(6, 8, **wrong)
    assert "\n" not in str(caught.value)


def test_a_prior_needs_softmax_over_slots():
    with pytest.raises(
        ValueError, match=r"`competition` \(='inputs'\) must be 'slots'.* remove one"
    ) as caught:
        SlotAttention(6, 8, attention_bias=lambda attention, alone: attention, competition="inputs")
    assert "\n" not in str(caught.value)


def small_mlp():
    return SlotMLP(num_slots=3, grid=(4, 6), input_dim=5, slot_dim=7, hidden_dim=9, pooled=2)


def test_slot_mlp_equals_its_equations_written_out():
    module, inputs, slots = (
        small_mlp().double(),
        torch.randn(2, 24, 5).double(),
        torch.randn(2, 3, 7).double(),
    )
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    output = module(inputs, slots, iterations=2)
    for image in range(2):
        norm = module.norm_inputs
        maps = F.layer_norm(inputs[image], (5,), norm.weight, norm.bias, 1e-3).view(4, 6, 5)
        means = [
            maps[2 * row : 2 * row + 2, 3 * column : 3 * column + 3].mean(dim=(0, 1))
            for row in range(2)
            for column in range(2)
        ]
        flat = torch.stack(means, dim=1).flatten()  # channels first
        hidden = (module.mlp[0].weight @ flat + module.mlp[0].bias).relu()
        wanted = slots[image] + (module.mlp[2].weight @ hidden).view(3, 7)
        torch.testing.assert_close(output.slots[image], wanted, rtol=0, atol=1e-12)
    assert output.attention.shape == (2, 2, 3, 24)
    assert (output.attention == 1 / 3).all()


def test_slot_mlp_learns_all_its_weights_and_the_initial_slots():
    group = Grouping(LearnedSlots(3, 7), small_mlp())
    group(torch.randn(2, 24, 5)).slots.square().sum().backward()
    for name, parameter in group.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "inputs, slots, iterations, mask",
    [
        ((2, 23, 5), (2, 3, 7), 1, None),
        ((2, 24, 6), (2, 3, 7), 1, None),
        ((2, 24, 5), (2, 4, 7), 1, None),
        ((2, 24, 5), (1, 3, 7), 1, None),
        ((2, 24, 5), (2, 3, 7), 0, None),
        ((2, 24, 5), (2, 3, 7), 1, torch.ones(2, 23, dtype=torch.bool)),
        ((2, 24, 5), (2, 3, 7), 1, torch.ones(2, 24)),
    ],
)
def test_slot_mlp_refuses_other_sizes_in_one_line(unchecked, inputs, slots, iterations, mask):
    with pytest.raises(ValueError, match=r"SlotMLP needs .*; got .*Build SlotMLP") as caught:
        small_mlp()(torch.randn(inputs), torch.randn(slots), iterations, mask)
    assert "\n" not in str(caught.value)
    assert str(list(inputs)) in str(caught.value) and str(list(slots)) in str(caught.value)


def test_a_model_without_iterations_is_not_taken_apart():
    with pytest.raises(ValueError, match="uses SlotMLP, which has no iterations"):
        Step(dataclasses.replace(BASE, ablation="slot-mlp").build_model())


def test_the_base_has_nothing_that_takes_over_the_work_of_attention():
    model = BASE.build_model()
    attention = model.grouping.slot_attention
    assert (BASE.ablation, BASE.restarts) == ("none", 1)
    assert attention.attention_bias is None and model.readout is None and not model.unconditioned_masks
    assert model.decoder.attention_conditioned_masks
    plain = dataclasses.replace(BASE, ablation="unconditioned-masks").build_model()
    assert not plain.decoder.attention_conditioned_masks
    assert attention.gradient == "bilevel" and attention.iterations == 3
    gaussian = dataclasses.replace(BASE, initial_slots="gaussian").build_model()
    assert gaussian.grouping.slot_attention.gradient == "full"


def test_every_change_is_made_to_the_model():
    base = {name for name, _ in BASE.build_model().named_parameters()}
    gone = {
        change: {
            name.removeprefix("grouping.slot_attention.").split(".")[0]
            for name in base
            - {n for n, _ in dataclasses.replace(BASE, ablation=change).build_model().named_parameters()}
        }
        for change in CHANGES
    }
    assert gone["no-gru"] == {"gru"} and gone["no-mlp"] == {"mlp", "norm_mlp"}
    assert gone["no-input-norm"] == {"norm_inputs"} and gone["no-slot-norm"] == {"norm_slots"}
    assert gone["no-positions"] == {"encoder"}
    assert not gone["none"] and not gone["softmax-over-inputs"] and not gone["weighted-sum"]
    kinds = {
        change: dataclasses.replace(BASE, ablation=change).build_model().grouping.slot_attention
        for change in ("softmax-over-inputs", "weighted-sum", "slot-mlp")
    }
    assert kinds["softmax-over-inputs"].competition == "inputs"
    assert kinds["weighted-sum"].aggregation == "sum"
    assert isinstance(kinds["slot-mlp"], SlotMLP)


@pytest.mark.parametrize("field", ["ablation", "initial_slots"])
def test_unknown_changes_are_refused_by_name(unchecked, field):
    with pytest.raises(ValueError, match=rf"`{field}` \(='other'\) must be one of ") as caught:
        dataclasses.replace(BASE, **{field: "other"})
    assert "\n" not in str(caught.value)


def small(change):
    """The recipe at a quarter of the pixels, with one step at half the resolution and one at the whole."""
    return dataclasses.replace(
        BASE,
        ablation=change,
        resolution=32,
        steps=2,
        low_resolution_steps=1,
        warmup_steps=0,
        batch_size=2,
        evaluate_every=2,
        validation_scenes=2,
        test_scenes=2,
    )


def scenes(split=None):
    """Four scenes that come with the package."""
    return ClevrLike(resolution=32, objects=(3, 6), count=4)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_takes_two_steps_and_scores(change):
    recipe, batch = small(change), scenes()[[0, 1]]
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    model = recipe.build_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizers = recipe.build_optimizers(model)
    for step in range(2):
        loss = recipe.loss(model, batch, step)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    with torch.no_grad():
        scores = recipe.scores(recipe.prepare_for_test(model), batch, torch.arange(2))
    assert scores.keys() == {"fg_ari", "ari", "mbo", "miou", "mse"}
    assert all(value.isfinite().all() for value in scores.values())


def test_coarse_steps_see_half_the_resolution():
    recipe, batch = small("none"), scenes()[[0, 1]]
    model, sides = recipe.build_model(), []
    model.encoder.register_forward_pre_hook(lambda _, arguments: sides.append(arguments[0].shape[-1]))
    at_resolution = model.at_resolution(
        16, lambda side: dataclasses.replace(recipe, resolution=side).build_model()
    )
    at_resolution.encoder.register_forward_pre_hook(lambda _, arguments: sides.append(arguments[0].shape[-1]))
    for step in range(2):
        recipe.loss(model, batch, step)
    assert sides == [16, 32]
    with pytest.raises(
        ValueError, match=r"`resolution` \(=36\) must be a multiple of 8.* low_resolution_steps to 0"
    ):
        dataclasses.replace(recipe, resolution=36)


@pytest.mark.parametrize(
    "change, module", [("no-gru", "slot-attention"), ("slot-mlp", "slot-attention"), ("none", "soft-k-means")]
)
def test_a_trained_change_loads_from_its_weight_file(undrawn, change, module, tmp_path, monkeypatch):
    monkeypatch.setattr(type(BASE), "dataset", lambda self, split: scenes())
    recipe = dataclasses.replace(small(change), slot_module=module)
    result = oh.train(recipe, tmp_path / "run")
    loaded = oh.load(tmp_path / "run" / "weights.safetensors")
    assert loaded.recipe == recipe
    batch, indices = scenes()[[0, 1]], torch.arange(2)
    with torch.no_grad():
        again = recipe.scores(loaded, batch, indices)["mse"].mean().item()
    assert again == pytest.approx(result["scores"]["mse"], rel=0.02)


def test_the_table_gives_means_of_seeds_and_ends_with_the_floors(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "runs" / "pages"))
    page = importlib.import_module("ablations_page")
    assert {"none" if row == "base" else row for row in page.ROWS} == set(CHANGES)
    for seed, score in enumerate((0.5, 0.7)):
        scores = {"fg_ari": score, "ari": 0.25, "mbo": 0.5, "mse": 0.0125}
        result = {"scores": scores, "cpu_seconds": 80 + seed}
        (tmp_path / f"ablation-no-gru-seed{seed}.json").write_text(json.dumps(result))
    assert len(page.ablations(tmp_path).splitlines()) == 3, "without floors there are none"
    floors = {"components": {"fg_ari": 0.83, "ari": 0.82, "mbo": 0.7, "miou": 0.7}}
    (tmp_path / "floors.json").write_text(json.dumps({"clevr6-ablation": floors}))
    *_, row, floor = page.ablations(tmp_path).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["no GRU", "2", "0.600 ± 0.141", "0.250 ± 0.000"]
    assert cells[5] == "0.0125 ± 0.0000"
    assert floor == "| floor: colour components | - | 0.830 | 0.820 | 0.700 | - | - |"


def test_an_ablation_changes_one_part_at_a_time():
    """The Slot MLP's row is the slot module of that name; other modules are compared by their own field."""
    torch.manual_seed(0)
    by_row = dataclasses.replace(BASE, ablation="slot-mlp").build_model()
    torch.manual_seed(0)
    by_field = dataclasses.replace(BASE, slot_module="slot-mlp").build_model()
    for (name, one), (other_name, other) in zip(
        by_row.state_dict().items(), by_field.state_dict().items(), strict=True
    ):
        assert name == other_name and torch.equal(one, other)
    with pytest.raises(
        ValueError,
        match=r"`slot_module` \(='soft-k-means'\) .* `ablation` \(='no-gru'\).* one of the two only",
    ):
        dataclasses.replace(BASE, ablation="no-gru", slot_module="soft-k-means")

"""A graphed step does what the loop does, keeps its tensors in place, falls back; models stay on a device."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from objecthood.graphs import GraphedStep
from objecthood.recipes import RECIPES
from objecthood.train import averaging, step_seed

FAST = replace(RECIPES["tetrominoes"], batch_size=4, steps=20, warmup_steps=3)
PAPER = replace(RECIPES["tetrominoes-paper"], batch_size=2, steps=20, warmup_steps=3, average=0.9)


@pytest.fixture(autouse=True)
def in_float64():
    """Adam makes much of the rounding of small gradients; here it is not what is compared."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(recipe):
    torch.manual_seed(7)
    model = recipe.build_model()
    return model, recipe.build_optimizers(model)


def scenes_of(recipe, step):
    scenes = recipe.dataset("train")[range(step * recipe.batch_size, (step + 1) * recipe.batch_size)]
    return {"image": scenes["image"].double()}


def loop(recipe, steps):
    """Model, averaged model, losses and norms, written as in train.py."""
    model, optimizers = build(recipe)
    average, seen = AveragedModel(model, multi_avg_fn=averaging(recipe.average)), []
    for step in range(steps):
        torch.manual_seed(step_seed(recipe.seed, step))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["base_lr"] * recipe.learning_rate_factor(step + 1)
        loss = recipe.loss(model, scenes_of(recipe, step), step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip or torch.inf)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        seen.append((loss.item(), norm.item()))
    return model, average, seen


def graphed(recipe, steps, **options):
    model, optimizers = build(recipe)
    average, seen = AveragedModel(model), []
    take = GraphedStep(recipe, model, optimizers, average, **options)
    for step in range(steps):
        torch.manual_seed(step_seed(recipe.seed, step))
        loss, norm = take(scenes_of(recipe, step), step)
        seen.append((loss.item(), norm.item()))
    return model, average, seen, take


class Recorder:
    """Stands in for CUDA graphs: its replay calls the function, whose tensors must be where they were."""

    def __init__(self):
        self.recorded = 0

    def __call__(self, advance):
        self.recorded += 1
        return advance


@pytest.mark.parametrize("recipe", [FAST, PAPER], ids=["fast", "paper"])
@pytest.mark.parametrize("capture", [None, Recorder()], ids=["eager", "recorded"])
def test_steps_are_those_of_the_loop(recipe, capture):
    model, average, seen = loop(recipe, 6)
    other, other_average, other_seen, take = graphed(recipe, 6, capture=capture)
    assert take.is_graph == (capture is not None)
    torch.testing.assert_close(torch.tensor(other_seen), torch.tensor(seen), rtol=1e-6, atol=0)
    for one, two in ((model, other), (average, other_average)):
        assert one.state_dict().keys() == two.state_dict().keys()
        for name, value in one.state_dict().items():
            torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_it_is_recorded_once_after_the_eager_steps():
    recorder = Recorder()
    model, optimizers = build(FAST)
    take = GraphedStep(FAST, model, optimizers, AveragedModel(model), eager_steps=2, capture=recorder)
    for step in range(5):
        take(scenes_of(FAST, step), step)
        assert recorder.recorded == (step >= 2) and take.is_graph == (step >= 2)


def test_what_changes_lies_in_tensors_that_keep_their_places():
    model, optimizers = build(FAST)
    take = GraphedStep(FAST, model, optimizers, AveragedModel(model))
    places = set()
    for step in range(4):
        scenes = scenes_of(FAST, step)
        take(scenes, step)
        kept = [*take._scenes.values(), take._factor, take._towards, *model.parameters()]
        places.add(tuple(tensor.data_ptr() for tensor in kept))
        assert torch.equal(take._scenes["image"], scenes["image"])
        assert take._scenes["image"].data_ptr() != scenes["image"].data_ptr()
        assert take._factor.item() == pytest.approx(FAST.learning_rate_factor(step + 1))
    assert len(places) == 1


def test_where_recording_fails_steps_go_on_one_kernel_at_a_time():
    def refuse(advance):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    expected = graphed(FAST, 4)
    with pytest.warns(
        UserWarning, match="no CUDA graph, .*: operation not permitted when stream is capturing$"
    ):
        found = graphed(FAST, 4, capture=refuse)
    assert not found[3].is_graph and found[2] == expected[2]


def test_what_does_not_fit_is_said():
    model, optimizers = build(FAST)
    with pytest.raises(ValueError, match=r"`eager_steps` \(=0\) must be at least 1"):
        GraphedStep(FAST, model, optimizers, AveragedModel(model), eager_steps=0)
    take = GraphedStep(FAST, model, optimizers, AveragedModel(model))
    take(scenes_of(FAST, 0), 0)
    with pytest.raises(ValueError, match=r"do not fit a graph recorded for .* keep the batch size"):
        take(FAST.dataset("train")[range(3)], 1)


class Traffic(TorchDispatchMode):
    """Notes operators that mix the device of the model with the processor, or bring a value over."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        result = operator(*arguments, **(keywords or {}))
        tensors = [
            leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, torch.Tensor)
        ]
        if len({tensor.device.type for tensor in tensors}) > 1 or "local_scalar" in str(operator):
            self.found.append(str(operator))
        return result


@pytest.mark.parametrize("name", ["clevr6-paper", "tetrominoes", "sprites"])
def test_a_step_stays_on_its_device(name, monkeypatch):
    """On tensors without values (`meta`) nothing can be looked at; Muon's step is among what is run."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no such device
    recipe = replace(RECIPES[name], gradient_clip=1.0)
    model = recipe.build_model().to("meta")
    images = torch.empty(2, 3, recipe.resolution, recipe.resolution, device="meta")
    muon = recipe.build_optimizers(model)[1:]
    with Traffic() as traffic:
        recipe.loss(model, {"image": images}, 1000).backward()  # coarse steps are over by then
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in muon:
            optimizer.step()
    assert traffic.found == []


def test_traffic_is_noticed():
    with Traffic() as traffic:
        torch.ones(3).to("meta")
    assert traffic.found

"""Frozen parts: used and named, neither trained nor stored; restored by identity, or refused in one line."""

import copy
import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import objecthood as oh
from objecthood.checkpoint import run as checkpoint
from objecthood.checkpoint.header import read_description
from objecthood.cli.costs import costs
from objecthood.hub.model_card import model_card
from objecthood.models import autoencoder
from objecthood.nn import Frozen, frozen
from objecthood.nn.frozen import RESTORERS, FrozenPartError, Identity, restore
from objecthood.recipes import Discovery
from objecthood.runtime import limits
from objecthood.runtime.distributed import Processes

WIDTH = 300


class Backbone(nn.Module):
    """Features [batch, height, width, 300]; dropout and batch norm show which mode it is in."""

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.Dropout(0.5),
            nn.Conv2d(WIDTH, WIDTH, 1),
        )
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)
        with torch.no_grad():
            self.layers[0].bias += shift

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).permute(0, 2, 3, 1)


NUM_WEIGHTS = sum(parameter.numel() for parameter in Backbone().parameters())


class Encoder(nn.Module):
    """A trained layer on frozen features."""

    def __init__(self, backbone: Frozen):
        super().__init__()
        self.backbone, self.project = backbone, nn.Linear(WIDTH, 64)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.backbone(images))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnFrozenFeatures(Discovery):
    backbone: str = "test:tiny"

    def build_model(self) -> autoencoder.SlotAutoencoder:
        model = super().build_model()
        model.encoder = Encoder(restore(self.backbone))
        return model


RECIPE = OnFrozenFeatures(
    name="frozen",
    data="sprites",
    resolution=16,
    num_slots=3,
    steps=4,
    batch_size=4,
    warmup_steps=1,
    ema_decay=0.9,
    muon_learning_rate=0.01,
    gradient_clip=1.0,
    evaluate_every=100,
    validation_scenes=4,
    test_scenes=4,
    precision="float32",
)


@pytest.fixture(autouse=True)
def shifts(monkeypatch):
    """What "test:NAME" gives: the backbone, its first bias moved by the value here."""
    known = {"tiny": 0.0, "other": 0.0}

    def restorer(name: str, revision: str) -> tuple[nn.Module, str]:
        return Backbone(known[name]), revision or "1"

    monkeypatch.setitem(RESTORERS, "test", restorer)
    return known


@pytest.fixture
def model():
    return RECIPE.build_model()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that nothing disturbed."""
    RESTORERS["test"] = lambda name, revision: (Backbone(), revision or "1")
    folder = tmp_path_factory.mktemp("frozen") / "run"
    try:
        return folder, oh.train(RECIPE, folder, device="cpu", checkpoint_every=2)
    finally:
        del RESTORERS["test"]


def rewrite(source: Path, target: Path, parts: object) -> Path:
    """The same file with other words about frozen parts."""
    with source.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        metadata = json.loads(file.read(length))["__metadata__"]
    save_file(load_file(source), target, metadata | {"frozen": json.dumps(parts)})
    return target


def refused(file: Path, match: str, recipe: OnFrozenFeatures = RECIPE) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        oh.load(file, recipe)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_model_state_leaves_it_out(model):
    names = [name for name, _ in model.named_parameters()] + [name for name, _ in model.named_buffers()]
    assert not [name for name in [*names, *model.state_dict()] if "backbone" in name]
    assert [name for name in model.state_dict() if "project" in name]
    count = sum(len(group["params"]) for one in RECIPE.build_optimizers(model) for group in one.param_groups)
    assert count == len(list(model.parameters()))
    model.load_state_dict(model.state_dict())


def test_it_stays_in_evaluation_mode_without_gradients(model):
    part, images = model.encoder.backbone, torch.rand(2, 3, 8, 8)
    before, sha256 = part(images), frozen.sha256_of(part.module)
    model.train().requires_grad_(True)
    assert not part.training and not any(module.training for module in part.module.modules())
    assert not any(parameter.requires_grad for parameter in part.module.parameters())
    assert torch.equal(part(images), before) and not part(images.requires_grad_()).requires_grad
    assert frozen.sha256_of(part.module) == sha256, "batch norm counts nothing"
    model.encoder(images).sum().backward()
    assert model.encoder.project.weight.grad is not None


def test_it_moves_with_the_model_and_copies_stay_where_they_are(model):
    average = AveragedModel(model)
    theirs = average.module.encoder.backbone
    assert theirs.module is model.encoder.backbone.module, "averaged weights take no second copy"
    model.to("cpu")
    assert theirs.module is model.encoder.backbone.module, "nothing was moved"
    model.double()
    assert model.encoder.backbone(torch.rand(1, 3, 8, 8).double()).dtype == torch.float64
    assert theirs(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    assert theirs.module.layers[1].num_batches_tracked.dtype == torch.int64
    model.to("meta")
    assert all(one.is_meta for one in model.encoder.backbone.module.state_dict().values())
    assert not any(parameter.requires_grad for parameter in model.encoder.backbone.module.parameters())
    assert not theirs.module.training and not model.encoder.backbone.module.training


def test_memory_format_does_not_change_the_identity(model):
    model.to(memory_format=torch.channels_last)
    assert model.encoder.backbone.module.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
    frozen.check_unchanged(model)


def test_sha256_covers_names_kinds_shapes_and_values():
    def of(**tensors: Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return frozen.sha256_of(module)

    one = torch.arange(4.0)
    written = b'["a", "uint8", [1]]\n\x07["b", "float32", []]\n\x00\x00\x80\x3f'  # which files rely on
    expected = hashlib.sha256(written).hexdigest()
    assert of(b=torch.tensor(1.0), a=torch.tensor([7], dtype=torch.uint8)) == expected
    others = (dict(b=one), dict(a=one.reshape(2, 2)), dict(a=one.int()), dict(a=one + 1), dict(a=one, b=one))
    assert len({of(a=one), *(of(**other) for other in others)}) == 6
    assert of(a=one, b=one + 1) == of(b=one + 1, a=one), "the order of registration does not matter"
    assert of(a=one.bfloat16()) != of(a=one.half()) and of(a=torch.eye(3).T) == of(a=torch.eye(3))
    assert of(a=one.to("meta")) == frozen.NO_VALUES


def test_restoring_draws_no_random_numbers():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    restore("test:tiny")
    assert torch.equal(torch.rand(2), wanted)


def test_a_run_names_it_and_stores_none_of_it(trained):
    folder, result = trained
    identity = {"name": "test:tiny", "revision": "1", "sha256": frozen.sha256_of(Backbone())}
    file = folder / "weights.safetensors"
    assert read_description(file)["frozen"] == {"encoder.backbone": identity}
    assert result["frozen"] == {"encoder.backbone": identity}
    own = sum(parameter.numel() for parameter in RECIPE.build_model().parameters())
    assert read_description(file)["parameters"] == own
    spare = 40_000  # header and metadata
    assert 4 * own < file.stat().st_size < 4 * own + spare < 4 * (own + NUM_WEIGHTS)
    saved = folder / "checkpoints" / "step_00000004"
    assert json.loads((saved / "state.json").read_text())["frozen"] == {
        "0.encoder.backbone": identity,
        "1.module.encoder.backbone": identity,
    }
    for name in ("model", "optimizers"):
        assert (saved / f"{name}.safetensors").stat().st_size < 2 * 4 * own + spare


def test_a_file_gives_the_same_outputs(trained, tmp_path):
    folder, result = trained
    model = oh.load(folder / "weights.safetensors", RECIPE)
    assert oh.evaluate(model, RECIPE) == pytest.approx(result["scores"], abs=1e-6)
    again = oh.load(oh.save(model, RECIPE, tmp_path / "again.safetensors"), RECIPE)
    images, noise = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 64)
    for one, other in zip(model(images, noise=noise), again(images, noise=noise), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_gives_the_same_weights(trained, undrawn, tmp_path, monkeypatch):
    steps = []

    def loss(self, model, scenes, step):
        steps.append(step)
        if len(steps) == 4:
            raise SystemExit  # the machine goes down
        return Discovery.loss(self, model, scenes, step)

    monkeypatch.setattr(OnFrozenFeatures, "loss", loss)
    with pytest.raises(SystemExit):
        oh.train(RECIPE, tmp_path / "run", device="cpu", checkpoint_every=2)
    oh.train(RECIPE, tmp_path / "run", device="cpu", checkpoint_every=2, resume=True)
    assert steps == [0, 1, 2, 3, 2, 3]
    for name in ("weights.safetensors", "checkpoints/step_00000004/model.safetensors"):
        one, other = (load_file(folder / name) for folder in (trained[0], tmp_path / "run"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_goes_on_with_the_same_frozen_weights_only(model, tmp_path, shifts):
    optimizers = RECIPE.build_optimizers(model)
    checkpoint.save_checkpoint(tmp_path, 1, model, optimizers, {})
    assert checkpoint.restore(tmp_path, RECIPE.build_model(), optimizers)["step"] == 1
    shifts["tiny"] = 1.0
    with pytest.raises(ValueError, match="'encoder.backbone' is test:tiny@1 with SHA-256") as caught:
        checkpoint.restore(tmp_path, RECIPE.build_model(), optimizers)
    assert "\n" not in str(caught.value)


def test_a_file_is_refused_where_the_frozen_weights_differ(trained, shifts):
    shifts["tiny"] = 1.0
    before, now = frozen.sha256_of(Backbone()), frozen.sha256_of(Backbone(1.0))
    refused(trained[0] / "weights.safetensors", f"SHA-256 {now}, but the file was made with .* {before}")


def test_a_file_is_refused_where_the_part_cannot_be_found(trained, shifts):
    del shifts["tiny"]
    refused(trained[0] / "weights.safetensors", "frozen part test:tiny@1 cannot be found")


def test_a_file_is_refused_where_nobody_restores_its_kind(trained, monkeypatch):
    monkeypatch.delitem(RESTORERS, "test")
    refused(trained[0] / "weights.safetensors", "unknown kind 'test', not one of: ")


def test_a_file_gets_the_revision_that_it_names(trained, tmp_path):
    wanted = {"name": "test:tiny", "revision": "2", "sha256": frozen.sha256_of(Backbone())}
    file = rewrite(trained[0] / "weights.safetensors", tmp_path / "w", {"encoder.backbone": wanted})
    assert oh.load(file, RECIPE).encoder.backbone.identity == Identity(**wanted)


def test_a_recipe_gets_no_part_that_the_file_does_not_name(trained, monkeypatch):
    restored = []
    monkeypatch.setitem(RESTORERS, "test", lambda name, _: restored.append(name) or (Backbone(), "1"))
    other = dataclasses.replace(RECIPE, backbone="test:other")
    refused(trained[0] / "weights.safetensors", "needs frozen part test:other, but the file names", other)
    assert not restored
    with frozen.only({"": restore("test:tiny").identity}), pytest.raises(FrozenPartError, match="tiny@9"):
        restore("test:tiny", "9")


GOOD = {"name": "test:tiny", "revision": "1", "sha256": "0" * 64}
CRAFTED = {
    "a list": ["test:tiny"],
    "a number": 3,
    "a text": {"encoder.backbone": "test:tiny"},
    "nothing": {"encoder.backbone": None},
    "a field less": {"encoder.backbone": {"name": "test:tiny", "sha256": "0" * 64}},
    "a field more": {"encoder.backbone": GOOD | {"code": "import os"}},
    "a number as revision": {"encoder.backbone": GOOD | {"revision": 1}},
    "no kind": {"encoder.backbone": GOOD | {"name": "tiny"}},
    "an unknown kind": {"encoder.backbone": GOOD | {"name": "os:system"}},
    "an attribute as kind": {"encoder.backbone": GOOD | {"name": "__class__:tiny"}},
    "a path": {"encoder.backbone": GOOD | {"name": "test:../../etc/passwd"}},
    "an absolute path": {"encoder.backbone": GOOD | {"name": "test:/etc"}},
    "an address": {"encoder.backbone": GOOD | {"name": "test:https://example.com/x"}},
    "a line more": {"encoder.backbone": GOOD | {"name": "test:tiny\n"}},
    "letters of other scripts": {"encoder.backbone": GOOD | {"name": "test:tïny"}},
    "a long name": {"encoder.backbone": GOOD | {"name": "test:" + "a" * 101}},
    "a revision with a path": {"encoder.backbone": GOOD | {"revision": "../main"}},
    "a short SHA-256": {"encoder.backbone": GOOD | {"sha256": "0" * 63}},
    "a long SHA-256": {"encoder.backbone": GOOD | {"sha256": "0" * 65}},
    "a second part": {"encoder.backbone": GOOD, "elsewhere": GOOD | {"name": "evil:part"}},
}


@pytest.mark.parametrize("what", CRAFTED)
def test_crafted_identities_are_refused_before_anything_is_restored(what, trained, tmp_path, monkeypatch):
    def never(name: str, revision: str) -> tuple[nn.Module, str]:
        raise AssertionError("restored")

    monkeypatch.setitem(RESTORERS, "test", never)
    file = rewrite(trained[0] / "weights.safetensors", tmp_path / "w", CRAFTED[what])
    with pytest.raises(ValueError) as caught:
        oh.load(file, RECIPE)
    assert "\n" not in str(caught.value) and "(restored)" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(file))


@pytest.mark.parametrize("parts", [{}, {"encoder.backbone": None, "decoder": None}])
def test_files_name_as_many_parts_as_the_model_has(parts, trained, tmp_path):
    identity = dataclasses.asdict(restore("test:tiny").identity)
    parts = dict.fromkeys(parts, identity)
    file = rewrite(trained[0] / "weights.safetensors", tmp_path / "w", parts)
    refused(file, "'decoder'" if parts else "needs frozen part test:tiny, but the file names none")


def test_only_stored_weights_are_counted_against_a_file(monkeypatch):
    """The check against crafted recipes: restored weights have a limit of their own."""
    with checkpoint.no_more_weights_than(0):
        for _ in range(15):
            restore("test:tiny")
    with checkpoint.no_more_weights_than(0), pytest.raises(ValueError, match="needs more weights"):
        for _ in range(15):
            Backbone()
    monkeypatch.setattr(limits, "FROZEN_WEIGHTS", NUM_WEIGHTS - 1)
    with checkpoint.no_more_weights_than(0), pytest.raises(ValueError, match="frozen weights"):
        restore("test:tiny")


def test_large_images_do_not_restore_it_twice(monkeypatch):
    restored = []
    monkeypatch.setitem(RESTORERS, "test", lambda name, _: restored.append(name) or (Backbone(), "1"))
    identity = restore("test:tiny").identity
    with frozen.only({"encoder.backbone": identity}):
        checkpoint.check_buffers(dataclasses.replace(RECIPE, resolution=264))
        part = RECIPE.build_model().encoder.backbone
    assert restored == ["tiny"] * 2 and part.identity == identity
    assert not part.module.layers[0].weight.is_meta


def test_changed_weights_are_not_lost_silently(model, tmp_path):
    with torch.no_grad():
        model.encoder.backbone.module.layers[0].bias.data[3] += 1
    for write in (
        lambda: oh.save(model, RECIPE, tmp_path / "w.safetensors"),
        lambda: checkpoint.save_checkpoint(tmp_path, 1, model, [], {}),
    ):
        with pytest.raises(ValueError, match="weights of frozen part 'encoder.backbone' .* were changed"):
            write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny", "nobody:tiny", "test:a/b/c"])
def test_parts_that_could_not_be_restored_are_not_built(name):
    with pytest.raises(FrozenPartError, match="frozen part"):
        Frozen(Backbone(), name)
    with pytest.raises(FrozenPartError, match="frozen part"):
        restore(name)


def test_twins_share_its_tensors():
    def build(side: int, backbone: str = "test:tiny") -> autoencoder.SlotAutoencoder:
        model = autoencoder.fast_sprites(resolution=side)
        model.encoder = Encoder(restore(backbone))
        return model

    model = build(32)
    at_resolution = model.at_resolution(16, build)
    own, others = (one.encoder.backbone.module.state_dict(keep_vars=True) for one in (model, at_resolution))
    assert own and all(own[name] is others[name] for name in own)
    with pytest.raises(FrozenPartError, match="'encoder.backbone' is test:other@1"):
        model.at_resolution(24, lambda side: build(side, "test:other"))


def test_processes_with_other_frozen_weights_do_not_train_together(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Processes, "agree", lambda self, text: asked.append(text))
    with pytest.raises(ValueError, match="processes restored different frozen weights"):
        oh.train(RECIPE, tmp_path, device="cpu")
    assert restore("test:tiny").identity.sha256 in asked[0]


def test_processes_agree_on_a_text_only_where_all_have_it(monkeypatch):
    one, other = (Processes(rank, 2, torch.device("cpu")) for rank in (0, 1))
    given: list[list[float]] = []
    monkeypatch.setattr(Processes, "largest", lambda self, *values: given.append([*values]) or [0.0, 0.0])
    one.agree("a"), other.agree("b")
    monkeypatch.setattr(
        Processes, "largest", lambda self, *values: [max(pair) for pair in zip(values, given[1], strict=True)]
    )
    assert not one.agree("a") and one.agree("b")


def test_costs_and_card_tell_of_it(trained):
    found = costs(RECIPE)
    assert found["frozen_parameters"] == {"encoder.backbone": NUM_WEIGHTS}
    assert found["parameters"]["encoder"] == 64 * WIDTH + 64
    assert found["weights_bytes"] > 20 * found["parameters"]["all"] + 4 * NUM_WEIGHTS
    facts = oh.PRETRAINED["sprites"].facts
    assert "frozen" not in model_card("x", facts, "x.png", "")
    parts = read_description(trained[0] / "weights.safetensors")["frozen"]
    card = model_card("x", facts | {"frozen": parts}, "x.png", "")
    assert "`test:tiny`, revision `1`" in card and parts["encoder.backbone"]["sha256"] in card


def test_a_copy_of_a_model_works_alone(model):
    copied, images = copy.deepcopy(model), torch.rand(1, 3, 8, 8)
    expected = model.encoder(images)
    model.to("meta")
    assert torch.equal(copied.encoder(images), expected)

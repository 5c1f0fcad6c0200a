"""Training: a whole run folder, the same weights however often it is stopped, and a model that learns."""

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import objecthood as oh
from objecthood.data.scene import Dataset
from objecthood.models import autoencoder
from objecthood.recipes import Discovery, FastTetrominoes
from objecthood.runtime.signals import Preempted

pytestmark = pytest.mark.xdist_group("training")  # that shares its undisturbed runs
SMALL = {"steps": 7, "batch_size": 4, "evaluate_every": 3, "validation_scenes": 4, "test_scenes": 6}
SMALL |= {"warmup_steps": 2, "precision": "float32"}
# The paper's method, whose slots start from noise; the fast one; and the one with most to remember.
PAPER = Discovery(name="paper", data="sprites", resolution=16, num_slots=3, **SMALL)
FAST = replace(oh.RECIPES["tetrominoes"], **SMALL)
GUIDED = replace(
    oh.RECIPES["sprites"],
    **SMALL | {"resolution": 16, "precision": "bfloat16"},
    merge_penalty_start=-100,
    restarts=2,
    low_resolution_steps=2,
)
GUARDED = replace(PAPER, gradient_clip=1.0, ema_decay=0.9, evaluate_every=100)
RECIPES = {"paper": PAPER, "fast": FAST, "guided": GUIDED}


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def same(one, other) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Undisturbed runs by name, each trained once: the recipe, its folder and its result."""

    @cache
    def trained(name):
        recipe, folder = RECIPES[name], tmp_path_factory.mktemp("runs") / name
        return recipe, folder, oh.train(recipe, folder, checkpoint_every=2)

    return trained


@pytest.fixture(params=RECIPES)
def run(request, runs):
    """Each of them; named before `undrawn` in a test, so that it is whole."""
    return runs(request.param)


@pytest.fixture
def paper(runs):
    """The folder of the undisturbed run of `PAPER`; named before `undrawn` too."""
    return runs("paper")[1]


def test_run_folder_is_whole(run):
    recipe, folder, result = run
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        *("recipe.json", "metrics.jsonl", "result.json", "weights.safetensors", "index.html", "latest.png"),
        *("figures/slots.png", "figures/attention.png", "figures/attention-animated.gif"),
        "checkpoints/step_00000007/manifest.json",
    }
    assert not [file for file in files if file.split("/")[-1].startswith(".")], "nothing half written stays"
    assert json.loads((folder / "recipe.json").read_text()) == recipe.to_dict()
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["settings"] == recipe.to_dict() and result["protocol"] == recipe.protocol
    assert result["wall_seconds"] > 0 and result["cpu_seconds"] > 0
    for picture in ("latest.png", "figures/slots.png", "figures/attention-animated.gif"):
        with Image.open(folder / picture) as image:
            image.load()
            assert min(image.size) > 16
    assert "fg_ari" in (folder / "index.html").read_text(encoding="utf-8")


def test_log_has_training_and_scores(run):
    recipe, folder, result = run
    log = lines(folder)
    assert [(line["kind"], line["step"]) for line in log] == [
        *(("evaluate", 3), ("evaluate", 6), ("train", 7), ("test", 7)),
    ]
    last = log[-1]
    assert {name: last[name] for name in result["scores"]} == result["scores"]
    assert log[2]["loss"] > 0 and log[2]["gradient_norm"] > 0
    rate = recipe.learning_rate * recipe.learning_rate_factor(7)
    assert log[2]["learning_rate"] == pytest.approx(rate, abs=1e-12)


def test_weights_load_and_score_as_told(run):
    recipe, folder, result = run
    model = oh.load(folder / "weights.safetensors")
    assert model.recipe == recipe
    assert oh.evaluate(model, recipe) == pytest.approx(result["scores"], abs=1e-6)
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_same_seed_same_weights_other_seed_others(run, undrawn, tmp_path, scoreboard):
    recipe, folder, _ = run
    oh.train(recipe, tmp_path / "again", checkpoint_every=100)
    assert same(weights(folder), weights(tmp_path / "again"))
    oh.train(replace(recipe, seed=1), tmp_path / "other")
    assert not same(weights(folder), weights(tmp_path / "other"))
    scoreboard("The same again", "same seed: the same weights, bit for bit; another seed: others", 1)


class Stop(Exception):
    """The machine goes down."""


def disturbed(recipe, monkeypatch, folder, stops, disturb):
    """Train until done, disturbed once in each step of `stops`, going on after each."""
    plain = type(recipe).loss
    waiting = list(stops)

    def loss(self, model, scenes, step):
        if waiting and step == waiting[0]:
            waiting.pop(0)
            disturb()
        return plain(self, model, scenes, step)

    monkeypatch.setattr(type(recipe), "loss", loss)
    begun = False
    while True:
        try:
            oh.train(recipe, folder, resume=begun, checkpoint_every=2)
            return
        except (KeyboardInterrupt, Stop):
            begun = True


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def crash():
    raise Stop


# Every way of stopping for the recipe with most to remember; two for the others.
CASES = [("guided", how, stops) for how in (interrupt, terminate, crash) for stops in ((0,), (3,), (2, 3, 6))]
CASES += [(name, how, (1, 4)) for name in RECIPES for how in (interrupt, crash)]


@pytest.mark.parametrize("run, disturb, stops", CASES, indirect=["run"])
def test_stopped_and_resumed_equals_undisturbed(
    run, undrawn, monkeypatch, tmp_path, disturb, stops, scoreboard
):
    recipe, folder, _ = run
    disturbed(recipe, monkeypatch, tmp_path / "run", stops, disturb)
    assert same(weights(folder), weights(tmp_path / "run"))
    told = [(line["kind"], line["step"], line.get("loss"), line.get("mse")) for line in lines(folder)]
    again = [
        (line["kind"], line["step"], line.get("loss"), line.get("mse")) for line in lines(tmp_path / "run")
    ]
    assert again == told
    what = "stopped (Ctrl-C, SIGTERM, a crash) up to three times, and resumed: no difference at all"
    scoreboard("The same again", what, len(stops))


def test_interrupt_finishes_the_step_and_saves_it(undrawn, monkeypatch, tmp_path):
    plain = Discovery.loss

    def loss(self, model, scenes, step):
        if step == 3:
            interrupt()
        return plain(self, model, scenes, step)

    monkeypatch.setattr(Discovery, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        oh.train(PAPER, tmp_path / "run")
    assert max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == "step_00000004"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "signals are as they were"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_machine_that_is_wanted_is_given_up_in_order(undrawn, monkeypatch, tmp_path, number, scoreboard):
    """The step is finished and saved, even where the signal comes twice; the exit code says: go on later."""
    plain = Discovery.loss

    def loss(self, model, scenes, step):
        if step == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        return plain(self, model, scenes, step)

    monkeypatch.setattr(Discovery, "loss", loss)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP would be ignored, and stay so
    try:
        with pytest.raises(Preempted):
            oh.train(PAPER, tmp_path / "run")
        assert signal.getsignal(number) == signal.SIG_DFL, "signals are as they were"
    finally:
        signal.signal(number, before)
    assert max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == "step_00000004"
    scoreboard("Signals", "SIGTERM, SIGUSR1, SIGHUP, twice each: step finished, saved, exit code 75", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["validation", "test"])
def test_scoring_is_cut_short_by_a_signal(paper, undrawn, monkeypatch, tmp_path, number, moment, scoreboard):
    """What is scored has been saved; gone on with, it is scored again, and nothing is different."""
    plain, told = Discovery.scores, []

    def scores(self, model, scenes, indices):
        if moment == ("test" if len(indices) == PAPER.test_scenes else "validation"):
            told.append(number)
            os.kill(os.getpid(), number)
        return plain(self, model, scenes, indices)

    with monkeypatch.context() as patched:
        patched.setattr(Discovery, "scores", scores)
        with pytest.raises(KeyboardInterrupt) as caught:
            oh.train(PAPER, tmp_path / "run")
    assert len(told) == 1 and isinstance(caught.value, Preempted) == (number != signal.SIGINT)
    newest = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert newest == ("step_00000007" if moment == "test" else "step_00000003")
    oh.train(PAPER, tmp_path / "run", resume=True)
    assert same(weights(paper), weights(tmp_path / "run"))
    names = ("kind", "step", "loss", "mse", "fg_ari")
    logs = [[[line.get(name) for name in names] for line in lines(run)] for run in (paper, tmp_path / "run")]
    assert logs[0] == logs[1]
    scoreboard("Signals", "a signal while scores are taken: given up at once, and no score lost", 1)


def poisoned(monkeypatch, poison, steps):
    """Have `poison` change the second image, or what it costs, in some steps."""
    plain = Discovery.loss

    def loss(self, model, scenes, step):
        if step in steps and len(scenes["image"]) > 1:
            return poison(plain, self, model, scenes, step)
        return plain(self, model, scenes, step)

    monkeypatch.setattr(Discovery, "loss", loss)


def nan_image(plain, self, model, scenes, step):
    scenes["image"][1, 0, 3, 4] = torch.nan
    return plain(self, model, scenes, step)


def infinite_loss(plain, self, model, scenes, step):
    return plain(self, model, scenes, step) + torch.inf


def exploding_gradient(plain, self, model, scenes, step):
    return plain(self, model, scenes, step) * 1e38 * 1e30


@pytest.mark.parametrize("poison", [nan_image, infinite_loss, exploding_gradient])
def test_a_step_without_finite_gradient_is_skipped_and_counted(
    undrawn, monkeypatch, tmp_path, poison, scoreboard
):
    poisoned(monkeypatch, poison, (0, 2, 3, 5))
    result = oh.train(GUARDED, tmp_path / "run")
    assert result["skipped_steps"] == 4 and lines(tmp_path / "run")[-2]["skipped_steps"] == 4
    kept = load_file(next((tmp_path / "run" / "checkpoints").glob("*7/model.safetensors")))
    assert all(tensor.isfinite().all() for tensor in [*kept.values(), *weights(tmp_path / "run").values()])
    what = "batches of nan, infinite loss, exploding gradient: skipped and counted, weights finite"
    scoreboard("What goes wrong inside", what, 4)


def test_a_skipped_step_leaves_everything_as_it_was(undrawn, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        poisoned(patched, nan_image, (1, 2))
        oh.train(replace(GUARDED, steps=3), tmp_path / "skipped")
    oh.train(replace(GUARDED, steps=1), tmp_path / "one")
    assert same(weights(tmp_path / "skipped"), weights(tmp_path / "one"))


def test_three_skipped_steps_in_a_row_name_the_culprits(undrawn, monkeypatch, tmp_path, scoreboard):
    poisoned(monkeypatch, nan_image, (3, 4, 5))
    with pytest.raises(FloatingPointError) as caught:
        oh.train(GUARDED, tmp_path / "run", checkpoint_every=3)
    told = str(caught.value)
    assert "\n" not in told and "the last of them step 5; offending images" in told
    assert "(indices in the training data): 21;" in told, "the second of the fourth batch of four"
    assert "encoder.convolutions.0.weight" in told and told.count("and ") and "more" in told
    kept = load_file(tmp_path / "run" / "checkpoints" / "step_00000003" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert told.endswith(f"; the batch is saved in {tmp_path / 'run' / 'bad-batch.safetensors'}")
    batch = load_file(tmp_path / "run" / "bad-batch.safetensors")
    assert batch["indices"].tolist() == [20, 21, 22, 23] and batch["image"].shape == (4, 3, 16, 16)
    assert batch["image"].isfinite().flatten(1).all(1).tolist() == [True, False, True, True]
    scoreboard(
        "What goes wrong inside",
        "three such batches in a row: stopped, images and parameters named, the batch kept",
        1,
    )


def test_a_batch_that_cannot_be_kept_hides_no_culprit(undrawn, monkeypatch, tmp_path):
    poisoned(monkeypatch, nan_image, (0, 1, 2))
    (tmp_path / "run" / "bad-batch.safetensors").mkdir(parents=True)
    with pytest.raises(
        FloatingPointError, match=r"offending images .*: 9; .*; the batch could not be saved \("
    ) as caught:
        oh.train(GUARDED, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_skipped_steps_are_counted_on_after_a_stop(undrawn, monkeypatch, tmp_path):
    def poison_and_stop(plain, self, model, scenes, step):
        if step == 4:
            interrupt()
        return nan_image(plain, self, model, scenes, step)

    poisoned(monkeypatch, poison_and_stop, (1, 4, 6))
    with pytest.raises(KeyboardInterrupt):
        oh.train(GUARDED, tmp_path / "run")
    assert oh.train(GUARDED, tmp_path / "run", resume=True)["skipped_steps"] == 3


class FewLines(Discovery):
    """A loss that is compiled in seconds: slots from noise, one convolution."""

    def loss(self, model, scenes, step):
        slots = model.grouping.initial_slots(len(scenes["image"]))
        return model.encoder.convolutions[0](scenes["image"]).square().mean() + (slots - 1).square().mean()


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler (g++)")
@pytest.mark.filterwarnings("ignore")  # of the compiler, about code that is not ours
def test_a_compiled_loss_gives_the_same_weights(undrawn, unchecked, tmp_path):
    """And the same noise."""
    recipe = FewLines(**{key: value for key, value in PAPER.to_dict().items() if key != "task"})
    plain = oh.train(recipe, tmp_path / "plain")
    compiled = oh.train(recipe, tmp_path / "compiled", compile=True)
    assert compiled["compile"] and not plain["compile"]
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert max((one[name] - other[name]).abs().max().item() for name in one) <= 1e-6
    assert not torch.equal(*(tensors["grouping.initial_slots.slots_mu"] for tensors in (one, before(recipe))))


def before(recipe):
    """The weights that training begins with."""
    torch.manual_seed(recipe.seed)
    return recipe.build_model().state_dict()


def test_a_damaged_checkpoint_costs_steps_not_the_run(paper, undrawn, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "run"
    plain, crashed = Discovery.loss, []

    def loss(self, model, scenes, step):
        if step == 5 and not crashed:
            crashed.append(step)
            raise Stop
        return plain(self, model, scenes, step)

    monkeypatch.setattr(Discovery, "loss", loss)
    with pytest.raises(Stop):
        oh.train(PAPER, folder, checkpoint_every=2)
    model = folder / "checkpoints" / "step_00000004" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    oh.train(PAPER, folder, resume=True, checkpoint_every=2)
    assert "skipped checkpoint" in capsys.readouterr().out
    assert same(weights(paper), weights(folder))


def test_a_finished_run_may_be_resumed_to_the_same_end(run, undrawn, tmp_path):
    recipe, folder, result = run
    again = shutil.copytree(folder, tmp_path / "run")
    assert oh.train(recipe, again, resume=True)["scores"] == result["scores"]
    assert same(weights(folder), weights(again))


def test_a_folder_with_a_run_is_not_taken(run):
    recipe, folder, _ = run
    before = weights(folder)
    with pytest.raises(ValueError, match="holds a run already; resume it with --resume") as caught:
        oh.train(recipe, folder)
    assert "\n" not in str(caught.value) and same(before, weights(folder))


CHANGES = [
    {"learning_rate": 1e-5},
    {"num_slots": 5},
    {"steps": 9},
    {"seed": 2},
    {"batch_size": 8},
    {"name": "x"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_a_changed_recipe_is_refused_with_the_change(run, change, scoreboard):
    recipe, folder, _ = run
    ((field, value),) = change.items()
    with pytest.raises(ValueError, match="started with other settings") as caught:
        oh.train(replace(recipe, **change), folder, resume=True)
    assert field in str(caught.value) and repr(value) in str(caught.value) and "\n" not in str(caught.value)
    scoreboard("The same again", "resumed with other settings: refused, the difference shown", 1)


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(ValueError, match="holds no run to resume"):
        oh.train(PAPER, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def test_an_unknown_device_or_precision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device 'quantum' is not available"):
        oh.train(PAPER, tmp_path / "a", device="quantum")
    with pytest.raises(ValueError, match="`precision` .='float8'."):
        oh.train(replace(PAPER, precision="float8"), tmp_path / "b")


@pytest.mark.parametrize("recipe", [PAPER, GUIDED], ids=["paper", "guided"])
def test_scores_do_not_depend_on_the_batch(recipe):
    model = recipe.build_model()
    whole = oh.evaluate(model, recipe, num_scenes=10, batch_size=10)
    for size in (1, 3, 7):
        torch.manual_seed(size)
        assert oh.evaluate(model, recipe, num_scenes=10, batch_size=size) == pytest.approx(whole, abs=1e-6)
    assert model.training, "evaluation leaves the model as it was"


def test_scores_depend_on_start_noise_of_each_image():
    """The noise that is fixed per image is really used: the paper's slots start from it."""
    model = PAPER.build_model()
    scenes = PAPER.dataset("test")[[0, 0]]
    first = PAPER.discover(model, scenes["image"], torch.tensor([0, 0]))
    other = PAPER.discover(model, scenes["image"], torch.tensor([0, 1]))
    assert torch.equal(first.slots[0], other.slots[0]) and torch.equal(first.slots[0], first.slots[1])
    assert not torch.equal(first.slots[1], other.slots[1])


def test_unknown_recipes_are_refused_by_name():
    with pytest.raises(ValueError, match="recipe 'spritez' is not known; choose one of tetrominoes"):
        oh.evaluate(PAPER.build_model(), "spritez")


class Four(Dataset):
    """The same four scenes for ever."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 4

    def batch(self, indices):
        return self.dataset.batch(indices)


class FourTetrominoes(FastTetrominoes):
    def dataset(self, split):
        return Four(super().dataset("train"))


def test_slots_learn_what_a_mean_image_cannot_tell(undrawn, tmp_path):
    """Without gradient to the encoder or the slots, images come out too much alike for the bound."""
    settings = FAST.to_dict() | {"steps": 150, "warmup_steps": 10, "evaluate_every": 200, "ema_decay": 0.0}
    settings |= {"learning_rate": 3e-3, "muon_learning_rate": 0.02, "test_iterations": 3}
    del settings["task"]
    recipe = FourTetrominoes(**settings)
    images = recipe.dataset("train")[range(4)]["image"]
    same_for_all = 4 * (images - images.mean(dim=0)).square().mean()
    before = oh.evaluate(recipe.build_model(), recipe)["mse"]
    after = oh.train(recipe, tmp_path / "run")["scores"]["mse"]
    assert after < 0.65 * same_for_all < before / 2


def test_every_weight_is_trained():
    """One step moves every weight of every model (those that start from a zero gradient aside: none)."""
    for build in (lambda: autoencoder.small_image(16, 3), lambda: autoencoder.fast_sprites(4, 16)):
        model = build()
        scene = model(torch.rand(2, 3, 16, 16))
        (scene.reconstruction - 0.3).square().mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name

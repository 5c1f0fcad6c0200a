"""DINOSAUR, SPOT and recipes of photographs, from training to prediction: tiny backbones, few images."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from processes import together
from tiny_vits import KINDS, publish, use_cache
from undrawn import leave_out_images

import objecthood as oh
from objecthood.checkpoint import read_description
from objecthood.cli.main import main
from objecthood.data.feature_cache import CachedFeatures
from objecthood.data.transforms import mirror
from objecthood.losses import attention_distillation
from objecthood.models.dinosaur import Dinosaur
from objecthood.models.of_features import feature_error
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.consensus_cut import ConsensusCut, agreement_of
from objecthood.recipes import RECIPES, FeatureDiscovery, affinity, known_features, over_features
from objecthood.recipes import features as recipes

pytest.importorskip("transformers")
SMALL = dict(
    resolution=32,
    num_slots=3,
    slot_dim=12,
    decoder_dim=16,
    decoder_heads=2,
    steps=4,
    batch_size=4,
    warmup_steps=1,
    evaluate_every=100,
    validation_scenes=2,
    test_scenes=3,
    precision="float32",
)


def draw(number, size=(48, 40)):
    """An image of two discs, and its label map."""
    numbers = np.random.default_rng(number)
    image, labels = Image.new("RGB", size, tuple(numbers.integers(0, 256, 3))), Image.new("L", size)
    for label in (1, 2):
        left, top = numbers.integers(0, 30), numbers.integers(0, 22)
        box = (left, top, left + 16, top + 16)
        ImageDraw.Draw(image).ellipse(box, fill=tuple(numbers.integers(0, 256, 3)))
        ImageDraw.Draw(labels).ellipse(box, fill=label)
    return image, np.asarray(labels)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Sixty images, in a folder and as COCO."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "images").mkdir()
    images, annotations = [], []
    for number in range(60):
        image, labels = draw(number)
        image.save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 48})
        for label in (1, 2):
            rows, columns = np.nonzero(labels == label)
            if len(rows):
                left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                outline = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": number,
                        "category_id": label,
                        "segmentation": [[int(value) for value in outline]],
                    }
                )
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "coin"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECTHOOD_CACHE", str(tmp_path / "features"))
    return use_cache(tmp_path / "hub", monkeypatch)


@pytest.fixture
def quick_cut(monkeypatch):
    """A consensus of three partitions, not of 36, for tests that look at something else."""
    cut = partial(ConsensusCut, partitions=((4, 3),), restarts=1)
    for module in (recipes, affinity):
        monkeypatch.setattr(module, "ConsensusCut", cut)
    return cut()


def prepared(name, photographs, caches, kind="dino", **changes):
    """A recipe of ours, small, with a backbone of its kind in the cache."""
    recipe = RECIPES[name]
    if recipe.backbone.startswith("hf:"):
        repository = recipe.backbone.removeprefix("hf:")
        if not (caches / f"models--{repository.replace('/', '--')}").exists():
            publish(caches, repository, kind)
    path = photographs if recipe.data == "coco" else photographs / "images"
    orders = {"patch_orders": recipe.patch_orders}
    return dataclasses.replace(recipe, **SMALL | orders | {"data_path": str(path)} | changes)


def stopped_and_resumed(recipe, run, monkeypatch):
    """A run that is killed at step 3 of 4 and resumed from step 2."""
    steps, loss = [], type(recipe).loss

    def killed(self, model, scenes, step):
        steps.append(step)
        if len(steps) == 4:
            raise SystemExit
        return loss(self, model, scenes, step)

    with monkeypatch.context() as patch:
        patch.setattr(type(recipe), "loss", killed)
        with pytest.raises(SystemExit):
            oh.train(recipe, run, device="cpu", checkpoint_every=2)
    return oh.train(recipe, run, device="cpu", resume=True)


@pytest.mark.parametrize(
    "name, kind",
    [("dinosaur-vits16-coco", "dino"), ("dinosaur-dinov2-small", "dinov2"), ("photos-slots", None)],
)
def test_from_training_to_prediction(quick_cut, name, kind, photographs, caches, tmp_path, monkeypatch):
    recipe = prepared(name, photographs, caches, kind)
    whole = oh.train(recipe, tmp_path / "whole", device="cpu")
    leave_out_images(monkeypatch)
    result = stopped_and_resumed(recipe, tmp_path / "run", monkeypatch)
    assert result["scores"] == whole["scores"], "stopped and resumed, to the bit"
    file = tmp_path / "run" / "weights.safetensors"
    model = oh.load(file)
    assert isinstance(model, Dinosaur) and not model.training
    identity = read_description(file)["frozen"]["backbone.part"]
    assert identity == dataclasses.asdict(model.backbone.identity)
    assert oh.evaluate(model, model.recipe) == pytest.approx(result["scores"], abs=1e-5)
    masked = {"fg_ari", "mbo_i", "mbo_c"} if recipe.data == "coco" else set()
    assert set(result["scores"]) == {"feature_mse"} | masked

    image = np.asarray(draw(99, (90, 60))[0])
    found = oh.predict(file, image)[0]
    assert found.labels.shape == (60, 90) and len(found.slots) == 3
    again = oh.load(oh.save(model, model.recipe, tmp_path / "again.safetensors"))
    images, noise = torch.rand(2, 3, 32, 32), torch.randn(1, 2, 3, 12)
    for one, other in zip(
        model.segment(images, noise=noise).found().values(),
        again.segment(images, noise=noise).found().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_photographs_with_masks_are_scored_beside_their_floors(undrawn, photographs, caches, tmp_path):
    recipe = prepared("dinosaur-vits16-coco", photographs, caches, "dino", steps=1)
    oh.train(recipe, tmp_path / "run", device="cpu")
    told = tmp_path / "scores.json"
    assert main(["evaluate", str(tmp_path / "run"), "--json", str(told)]) == 0
    found = json.loads(told.read_text())["floors"]
    colours = {"components", "kmeans", "kmeans_position", "blocks"}
    assert set(found) == colours | {"feature_kmeans", "feature_cut", "untrained"}
    assert all({"fg_ari", "mbo_i", "mbo_c"} <= set(scores) for scores in found.values())
    assert main(["evaluate", str(tmp_path / "run"), "--skip-floors", "--json", str(told)]) == 0
    assert "floors" not in json.loads(told.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_backbone_trains_and_loads(undrawn, quick_cut, kind, photographs, caches, tmp_path):
    publish(caches, "someone/tiny", kind)
    recipe = prepared("photos-slots", photographs, caches, backbone="hf:someone/tiny", steps=1)
    oh.train(recipe, tmp_path / "run", device="cpu")
    assert oh.load(tmp_path / "run").backbone.feature_dim == 24


def test_another_backbone_under_the_same_name_is_refused(photographs, caches, tmp_path):
    publish(caches, "someone/tiny", "dino")
    recipe = prepared("photos-slots", photographs, caches, backbone="hf:someone/tiny")
    file = oh.save(recipe.build_model(), recipe, tmp_path / "weights.safetensors")
    for weights in caches.rglob("model.safetensors"):
        weights.unlink()
    model = publish(tmp_path, "someone/other", "dino", seed=1)
    model.save_pretrained(next(caches.glob("*/snapshots/*")))
    with pytest.raises(ValueError, match=r"frozen part 'backbone.part' is .* with SHA-256") as caught:
        oh.load(file)
    assert "\n" not in str(caught.value)


def test_spot_learns_from_a_teacher(photographs, caches, tmp_path, monkeypatch):
    first = prepared("spot-vitb16-teacher", photographs, caches)
    oh.train(first, tmp_path / "teacher", device="cpu")
    second = prepared(
        "spot-vitb16", photographs, caches, teacher=str(tmp_path / "teacher/weights.safetensors")
    )
    result = stopped_and_resumed(second, tmp_path / "run", monkeypatch)
    assert set(result["scores"]) == {"feature_mse", "fg_ari", "mbo_i", "mbo_c"}
    model = oh.load(tmp_path / "run")
    assert model.grouping.slot_attention.gradient == "bilevel" and len(model.decoder.orders) == 9
    scenes = second.dataset("train")[range(4)]
    with_it, without = (dataclasses.replace(second, distillation=weight) for weight in (1.0, 0.0))
    losses = []
    for recipe in (with_it, without):
        torch.manual_seed(0)
        losses.append(recipe.loss(model.train(), scenes, 0))
    assert losses[0] > losses[1]


def test_a_teacher_that_does_not_fit_is_refused(photographs, caches, tmp_path):
    recipe = prepared("spot-vitb16", photographs, caches)
    model, scenes = recipe.build_model(), recipe.dataset("train")[range(2)]
    other = dataclasses.replace(recipe, slot_dim=8)
    file = oh.save(other.build_model(), other, tmp_path / "other.safetensors")
    for teacher, match in (("", "must name the first"), ("nowhere", "cannot be read"), (file, "not fit")):
        with pytest.raises(ValueError, match=match) as caught:
            dataclasses.replace(recipe, teacher=str(teacher)).loss(model, scenes, 0)
        assert "\n" not in str(caught.value)


def test_cached_and_computed_features_give_the_same_loss(photographs, caches, monkeypatch):
    recipe = prepared("dinosaur-vits16-coco", photographs, caches)
    cached = dataclasses.replace(recipe, cached=True)
    monkeypatch.setattr(
        over_features, "mirror", lambda maps, chosen, dim: maps
    )  # features are mirrored, or images
    model, losses = recipe.build_model(), []
    for one in (recipe, cached):
        dataset = one.dataset("train")
        assert isinstance(dataset, CachedFeatures) == one.cached
        torch.manual_seed(0)
        losses.append(one.loss(model, dataset[range(8)], 0))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name, taught", [("photos-slots", [0, 1, 2]), ("spot-vitb16", [2])])
def test_iterations_that_a_teacher_teaches(name, taught, photographs, caches, monkeypatch):
    recipe = prepared(name, photographs, caches, distillation=3.0)
    model, scenes = recipe.build_model(), recipe.dataset("train")[range(4)]
    rows, columns = model.feature_grid
    masks = torch.eye(rows * columns).unflatten(1, (rows, columns)).expand(4, -1, -1, -1)
    monkeypatch.setattr(type(recipe), "teacher_masks", lambda *given: masks)
    torch.manual_seed(0)
    loss = recipe.loss(model, scenes, 0)
    torch.manual_seed(0)
    features, _ = recipe.augmented(model, scenes)
    found = model.group(features)
    distances = [attention_distillation(found.attention[:, t].flatten(2), masks.flatten(2)) for t in taught]
    expected = feature_error(found.decoded, features).mean() + 3 * sum(distances) / len(distances)
    torch.testing.assert_close(loss, expected)


def test_slots_learn_the_segments_of_a_cut(photographs, caches):
    """The teacher's label maps, mirrored as the features are; the attention comes to agree with them."""
    recipe = prepared("photos-slots", photographs, caches, resolution=64, steps=150, learning_rate=3e-3)
    model = recipe.build_model()
    scenes = recipe.dataset("train")[range(8)]
    labels = scenes["segments"]
    assert labels.shape == (8, 4, 4, 1) and labels.min() == 0 and (labels == labels.round()).all()
    chosen = torch.tensor([True, False] * 4)
    masks = recipe.teacher_masks(scenes, scenes["features"], chosen)
    assert torch.equal(masks.argmax(dim=1)[0], labels[0, ..., 0].long().flip(1))
    assert torch.equal(masks.argmax(dim=1)[1], labels[1, ..., 0].long())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = recipe.loss(model, scenes, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    with pytest.raises(ValueError, match=r"`cached` \(=False\) must be True"):
        dataclasses.replace(recipe, cached=False)


AFFINITY = dict(resolution=64, dim=16, context_blocks=1, embedding_dim=8, compared=12, clusters=6)


def affinity_recipe(photographs, **changes):
    """`photos-affinity`, small: images of 4 x 4 cells."""
    shared = {name: value for name, value in SMALL.items() if "slot" not in name and "decoder" not in name}
    path = {"data_path": str(photographs / "images")}
    return dataclasses.replace(RECIPES["photos-affinity"], **shared | AFFINITY | path | changes)


def test_learned_affinity_from_training_to_prediction(quick_cut, photographs, tmp_path, monkeypatch):
    recipe = affinity_recipe(photographs, data="coco", data_path=str(photographs))
    whole = oh.train(recipe, tmp_path / "whole", device="cpu")
    leave_out_images(monkeypatch)
    result = stopped_and_resumed(recipe, tmp_path / "run", monkeypatch)
    assert result["scores"] == whole["scores"], "stopped and resumed, to the bit"
    assert set(result["scores"]) == {"cross_entropy", "fg_ari", "mbo_i", "mbo_c"}
    model = oh.load(tmp_path / "run")
    assert oh.evaluate(model, model.recipe) == pytest.approx(result["scores"], abs=1e-5)
    image = np.asarray(draw(99, (90, 60))[0])
    one = oh.predict(tmp_path / "run", image)[0]
    assert one.labels.shape == (60, 90) and one.slots.shape[1] == 304
    assert len(oh.predict(tmp_path / "run", image, num_slots=3)[0].slots) == 3
    picture = torch.rand(3, 48, 80)
    output, batch = model.divide(picture), model.segment(picture[None].repeat(2, 1, 1, 1))
    torch.testing.assert_close(output.masks.sum(dim=0), torch.ones(48, 80))
    torch.testing.assert_close(output.slots.norm(dim=-1), torch.ones(len(output.slots)))
    assert torch.equal(batch.masks[0], output.masks) and torch.equal(batch.masks[1], output.masks)
    with pytest.raises(ValueError, match=r"`num_segments` \(=0\) must be at least 1, or None"):
        model.segment(picture[None], num_slots=0)


def test_affinity_learns_the_agreement_of_the_teacher(quick_cut, photographs):
    """The partitions are those of `photos` on the same image, mirrored as the features are; cells that share
    segments get high affinity."""
    recipe = affinity_recipe(photographs, compared=16, context_blocks=2)
    model, scenes = recipe.build_model(), recipe.dataset("train")[range(8)]
    agreement = [agreement_of(one.flatten(0, 1).T.long()) for one in scenes["partitions"]]
    teacher = SpectralSegmenter(cut=quick_cut, sides=(64, 45))
    for image, found in zip(scenes["image"], agreement, strict=True):
        torch.testing.assert_close(found, teacher.cut.agreement(*teacher.embed(image))[0])
    optimizer = torch.optim.Adam(model.affinity.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss = recipe.loss(model, scenes, step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    both = ([False] * 8, [True] * 8)
    for mirrored in map(torch.tensor, both):
        features, labels = (mirror(scenes[name], mirrored, dim=2) for name in ("features", "partitions"))
        # A wrong mirror image compares cells with others; the network was trained on both sides.
        right = affinity.affinity_error(model, features, labels.flatten(1, 2))
        wrong = affinity.affinity_error(model, features, labels.flip(2).flatten(1, 2))
        assert right.mean() < wrong.mean()
    probability = model.affinity.probability(model.affinity(F.normalize(scenes["features"], dim=-1)))
    wanted = torch.stack(agreement)
    assert probability[wanted > 0.9].mean() > probability[wanted < 0.1].mean() + 0.3


def test_affinity_over_another_backbone(quick_cut, photographs, caches, tmp_path):
    publish(caches, "someone/tiny", "dinov2")
    recipe = affinity_recipe(
        photographs, backbone="hf:someone/tiny", final_norm=False, resolution=32, steps=1
    )
    oh.train(recipe, tmp_path / "run", device="cpu")
    assert oh.load(tmp_path / "run").slot_dim == 24


@pytest.mark.parametrize(
    "changes, match",
    [
        (dict(cached=False), r"`cached` \(=False\) must be True"),
        (dict(distance=1.0), r"`distance` \(=1.0\) must lie between 0 and 1"),
        (dict(compared=1), "compared"),
        (dict(context_blocks=17), "context_blocks"),
    ],
)
def test_affinity_recipes_out_of_range(changes, match):
    with pytest.raises(ValueError, match=match) as caught:
        dataclasses.replace(RECIPES["photos-affinity"], **changes)
    assert "\n" not in str(caught.value)


def test_classes_are_read_with_the_orientation_of_the_objects(photographs):
    recipe = dataclasses.replace(
        RECIPES["dinosaur-vits16-coco"], data="coco-stored", data_path=str(photographs), resolution=32
    )
    scenes = recipe.dataset("validation")
    assert scenes.scenes.orientation == scenes.by_class.orientation == "stored"


def test_mirroring_turns_the_chosen_ones_alone():
    maps = torch.rand(3, 2, 4, 5)
    found = mirror(maps, torch.tensor([True, False, True]), dim=2)
    assert torch.equal(found[1], maps[1]) and torch.equal(found[0], maps[0].flip(1))


def test_the_best_restart_has_the_lowest_error_of_features(photographs, caches):
    recipe = prepared("photos-slots", photographs, caches, initial_slots="gaussian")
    model, images = recipe.build_model().eval(), torch.rand(4, 3, 32, 32)
    noise = torch.randn(5, 4, 3, 12)
    assert model.restarts_differ
    fixed = dataclasses.replace(recipe, initial_slots="learned").build_model()
    assert not fixed.restarts_differ
    with pytest.raises(ValueError, match="must be 1 for these weights"):
        oh.predict(fixed, images[0], restarts=2)
    measure = "reconstruction error of features"
    each = [model.anomaly_score(images, model.segment(images, noise=one[None]))[measure] for one in noise]
    best = model.anomaly_score(images, model.segment(images, noise=noise))[measure]
    torch.testing.assert_close(best, torch.stack(each).amin(dim=0))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_the_features(quick_cut, undrawn, photographs, caches, tmp_path, monkeypatch, capfd):
    """All splits are computed by all processes, to the bytes of one, and one of them tells how far it is."""
    recipe = prepared("photos-slots", photographs, caches, steps=1)
    sizes = [len(recipe.dataset(split)) for split in ("validation", "train", "test")]
    recipe.build_optimizers(recipe.build_model())  # imports much of PyTorch here, not in each process
    capfd.readouterr()
    opened = []

    def build(*given, **options):
        opened.append([len(given[0]), options["rank"]])
        return CachedFeatures(*given, **options)

    def work():
        oh.train(recipe, tmp_path / "run", device="cpu")
        return opened

    monkeypatch.setattr(known_features, "CachedFeatures", build)
    monkeypatch.setenv("OBJECTHOOD_CACHE", str(tmp_path / "by two"))
    first, second = together(2, tmp_path, work)
    assert second == [[size, 1] for size in sizes for _ in ("features", "segments")]
    assert first[: len(second)] == [[size, 0] for size, _ in second]
    told = capfd.readouterr().out
    for kind in ("features", "segments"):
        assert told.count(f"{kind} {sizes[1]}/{sizes[1]} ") == 1, told
    one, two = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("[fi]*.bin")}
        for folder in (tmp_path / "features", tmp_path / "by two")
    )
    assert len(one) == 4 and one == two


def test_the_command_trains_on_a_folder(photographs, tmp_path, capsys):
    line = ["train", "photos-slots", "--data-path", str(photographs / "images"), "--steps", "2"]
    line += ["--resolution", "32", "--batch-size", "2", "--out", str(tmp_path / "run")]
    assert main([*line, "--device", "cpu"]) == 0
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_published_settings_are_the_papers():
    small, spot = RECIPES["dinosaur-vits16-coco"], RECIPES["spot-vitb16"]
    for recipe in (small, RECIPES["dinosaur-dinov2-small"], RECIPES["spot-vitb16-teacher"], spot):
        assert (recipe.num_slots, recipe.slot_dim, recipe.resolution) == (7, 256, 224)
        assert (recipe.batch_size, recipe.learning_rate, recipe.warmup_steps) == (64, 4e-4, 10_000)
        assert not recipe.final_norm and recipe.layer == 0 and recipe.test_iterations == 3
    assert (small.steps, small.decay_half_life, small.gradient_clip) == (500_000, 100_000, 1.0)
    assert (spot.steps, spot.patch_orders, spot.distillation, spot.initial_slots) == (
        92_400,
        9,
        0.005,
        "learned",
    )
    assert isinstance(small, FeatureDiscovery) and small.decoder == "autoregressive"

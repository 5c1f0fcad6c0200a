"""Protocols equal their definitions written out as loops, and say what is undefined."""

import importlib
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import objecthood as oh
from objecthood import metrics
from objecthood.analysis.probes import predict, r2
from objecthood.analysis.protocols import PROTOCOLS, protocol_scores
from objecthood.analysis.protocols.boundaries import boundary_f, object_boundary_f, outline
from objecthood.analysis.protocols.properties import (
    MatchedObjects,
    matched_objects,
    mlp_predict,
    property_scores,
)
from objecthood.analysis.protocols.scoring import as_ruled, mean_and_error
from objecthood.analysis.protocols.segments import (
    correct_localization,
    object_recovery,
    panoptic_quality,
    segmentation_covering,
)
from objecthood.cli.main import main

SIZE = (9, 11)


def blobs(generator: np.random.Generator, num_labels: int, lowest: int = 0) -> np.ndarray:
    """A label map of rectangles, over each other."""
    labels = np.zeros(SIZE, int)
    for label in range(lowest, num_labels):
        top, left = generator.integers(0, 7), generator.integers(0, 8)
        labels[top : top + generator.integers(1, 7), left : left + generator.integers(1, 8)] = label
    return labels


def random_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """80 pairs of label maps: with ignored pixels, without objects, of one object, with too many segments."""
    generator = np.random.default_rng(5)
    true = np.stack([blobs(generator, 1 + number % 5, -(number % 2)) for number in range(80)])
    true[0], true[1], true[2] = 0, -1, 1
    predicted = np.stack([blobs(generator, 1 + number % 7) for number in range(80)])
    predicted[3] = np.arange(99).reshape(SIZE)  # a segment for every pixel
    half = slice(40, 80)  # predictions near the truth
    noisy = generator.random(true[half].shape) < 0.1
    predicted[half] = np.where(noisy, predicted[half], np.abs(true[half]))
    return torch.from_numpy(true), torch.from_numpy(predicted)


TRUE, PREDICTED = random_maps()


def naive_iou(one: np.ndarray, other: np.ndarray) -> float:
    either = (one | other).sum()
    return (one & other).sum() / either if either else 0.0


def naive_parts(true: np.ndarray, predicted: np.ndarray) -> tuple[list, list]:
    """Masks of the objects, and of the predicted segments without ignored pixels."""
    objects = [true == label for label in np.unique(true) if label > 0]
    seen = true >= 0
    segments = [(predicted == label) & seen for label in np.unique(predicted)]
    return objects, segments


def naive_best(true: np.ndarray, predicted: np.ndarray) -> list[float]:
    objects, segments = naive_parts(true, predicted)
    return [max(naive_iou(mask, segment) for segment in segments) for mask in objects]


def naive_covering(true, predicted):
    objects, _ = naive_parts(true, predicted)
    if not objects:
        return math.nan
    sizes = [mask.sum() for mask in objects]
    best = naive_best(true, predicted)
    return sum(size * value for size, value in zip(sizes, best, strict=True)) / sum(sizes)


def naive_recovery(true, predicted):
    best = naive_best(true, predicted)
    return sum(value > 0.5 for value in best) / len(best) if best else math.nan


def naive_corloc_of_masks(true, predicted):
    best = naive_best(true, predicted)
    return float(max(best) > 0.5) if best else math.nan


def naive_box(mask: np.ndarray) -> np.ndarray:
    """The bounding box, filled."""
    box = np.zeros_like(mask)
    rows, columns = np.nonzero(mask)
    if len(rows):
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return box


def naive_corloc(true, predicted):
    objects, segments = naive_parts(true, predicted)
    if not objects:
        return math.nan
    pairs = itertools.product(map(naive_box, objects), map(naive_box, segments))
    return float(any(naive_iou(one, other) > 0.5 for one, other in pairs))


def naive_panoptic(true, predicted, background=True):
    lowest = 0 if background else 1
    objects = [true == label for label in np.unique(true) if label >= lowest]
    hits, overlaps, partners = 0, 0.0, set()
    for mask in objects:
        for label in np.unique(predicted):
            overlap = naive_iou(mask, (predicted == label) & (true >= 0))
            if overlap > 0.5:
                hits, overlaps = hits + 1, overlaps + overlap
                partners.add(label)
    extra = 0
    for label in np.unique(predicted):
        mask = predicted == label
        ignored = (mask & (true < 0)).sum() / mask.sum()
        extra += label not in partners and ignored <= 0.5
    weight = hits + extra / 2 + (len(objects) - hits) / 2
    return overlaps / weight if weight else math.nan


NAIVE = {
    "covering": (segmentation_covering, naive_covering),
    "recovery": (object_recovery, naive_recovery),
    "boxes": (correct_localization, naive_corloc),
    "masks": (lambda *maps: correct_localization(*maps, boxes=False), naive_corloc_of_masks),
    "panoptic": (lambda *maps: panoptic_quality(*maps).quality, naive_panoptic),
    "panoptic, objects alone": (
        lambda *maps: panoptic_quality(*maps, background=False).quality,
        lambda true, predicted: naive_panoptic(true, predicted, background=False),
    ),
}


@pytest.mark.parametrize("name", NAIVE)
def test_values_are_those_of_the_definition(name):
    fast, slow = NAIVE[name]
    wanted = [slow(*pair) for pair in zip(TRUE.numpy(), PREDICTED.numpy(), strict=True)]
    np.testing.assert_allclose(fast(TRUE, PREDICTED).numpy(), wanted, atol=1e-6)
    assert np.nanstd(wanted) > 0.05, "not all the same"


@pytest.mark.parametrize("name", NAIVE)
def test_large_labels_and_soft_masks_are_the_same(name):
    fast, _ = NAIVE[name]
    far = torch.where(TRUE > 0, 1000 * TRUE + 300, TRUE)
    torch.testing.assert_close(fast(far, PREDICTED * 500), fast(TRUE, PREDICTED), equal_nan=True)
    less = torch.where(TRUE < 0, TRUE - 8, TRUE)  # whatever is below 0 is ignored
    torch.testing.assert_close(fast(less, PREDICTED), fast(TRUE, PREDICTED), equal_nan=True)
    soft = torch.nn.functional.one_hot(PREDICTED[4:]).movedim(-1, 1).float()
    torch.testing.assert_close(fast(TRUE[4:], soft), fast(TRUE[4:], PREDICTED[4:]), equal_nan=True)


def test_without_objects_scores_of_objects_are_undefined_and_of_segments_not():
    for fast in (segmentation_covering, object_recovery, correct_localization, object_boundary_f):
        assert fast(TRUE[:2], PREDICTED[:2]).isnan().all()
    nothing = torch.zeros(1, *SIZE, dtype=torch.long)
    assert panoptic_quality(nothing, nothing).quality.tolist() == [1.0]
    assert panoptic_quality(nothing - 1, nothing).quality.isnan().all()
    assert panoptic_quality(nothing, nothing, background=False).quality.tolist() == [0.0]


def test_one_object_that_fills_the_image_is_found_whole():
    one = torch.ones(1, *SIZE, dtype=torch.long)
    for fast in (segmentation_covering, object_recovery, correct_localization):
        assert fast(one, 4 * one).tolist() == [1.0]
    assert panoptic_quality(one, 4 * one).quality.tolist() == [1.0]
    assert object_boundary_f(one, 4 * one).tolist() == [1.0], "it has no outline, and neither has the mask"


def test_qualities_multiply():
    found = panoptic_quality(TRUE[40:], PREDICTED[40:])
    torch.testing.assert_close(found.segmentation * found.recognition, found.quality)
    unmatched = panoptic_quality(TRUE[3:4], PREDICTED[3:4])
    assert unmatched.segmentation.isnan().all() and unmatched.quality.tolist() == [0.0]


def test_covering_is_the_weighted_mean_best_overlap():
    equal = torch.tensor([[[0, 1, 2], [0, 1, 2]]])
    predicted = torch.tensor([[[0, 1, 1], [0, 1, 2]]])
    assert segmentation_covering(equal, predicted) == metrics.mean_best_overlap(equal, predicted)


def test_thresholds_out_of_range_are_refused():
    for fast in (object_recovery, correct_localization):
        with pytest.raises(ValueError, match=r"`threshold` \(=1\) must be at least 0 and below 1"):
            fast(TRUE, PREDICTED, threshold=1)


def test_tubes_are_compared_over_whole_clips():
    true, predicted = TRUE[40:46].view(2, 3, *SIZE), PREDICTED[40:46].view(2, 3, *SIZE)
    wanted = [
        np.mean(naive_best(one.reshape(-1, 11), other.reshape(-1, 11)))
        for one, other in zip(true.numpy(), predicted.numpy(), strict=True)
    ]
    np.testing.assert_allclose(metrics.video_mean_best_overlap(true, predicted), wanted, atol=1e-6)


def naive_f(true: np.ndarray, predicted: np.ndarray, reach: int) -> float:
    """Boundary F of DAVIS, pixel by pixel."""

    def edges(mask):
        height, width = mask.shape
        found = []
        for y in range(height):
            for x in range(width):
                near = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
                if any(a < height and b < width and mask[a, b] != mask[y, x] for a, b in near):
                    found.append((y, x))
        return found

    def share(some, others):
        return np.mean([any((a - c) ** 2 + (b - d) ** 2 <= reach**2 for c, d in others) for a, b in some])

    one, other = edges(true), edges(predicted)
    if not one or not other:
        return float(len(one) == len(other))
    recall, precision = share(one, other), share(other, one)
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


@pytest.mark.parametrize(("tolerance", "reach"), [(0.008, 1), (0.15, 3)])
def test_boundaries_are_those_of_the_definition(tolerance, reach):
    assert math.ceil(tolerance * math.hypot(*SIZE)) == reach
    true, predicted = TRUE > 0, PREDICTED > 0
    pairs = zip(true.numpy(), predicted.numpy(), strict=True)
    wanted = [naive_f(*pair, reach) for pair in pairs]
    np.testing.assert_allclose(boundary_f(true, predicted, tolerance).numpy(), wanted, atol=1e-6)
    assert {0.0, 1.0} < set(wanted)


def test_boundaries_of_objects_are_those_of_their_matches():
    wanted = []
    for true, predicted in zip(TRUE.numpy(), PREDICTED.numpy(), strict=True):
        objects, segments = naive_parts(true, predicted)
        if not objects:
            wanted.append(math.nan)
            continue
        overlap = np.array([[naive_iou(mask, segment) for segment in segments] for mask in objects])
        rows, columns = linear_sum_assignment(-overlap)
        total = sum(naive_f(objects[a], segments[b], 1) for a, b in zip(rows, columns, strict=True))
        wanted.append(total / len(objects))
    found = object_boundary_f(TRUE, PREDICTED).numpy()
    is_unique = np.arange(len(wanted)) >= 40  # where predictions are near the truth, one assignment is best
    np.testing.assert_allclose(found[is_unique], np.array(wanted)[is_unique], atol=1e-6)
    assert (np.isnan(found) == np.isnan(wanted)).all()


def test_outlines_lie_at_the_upper_left_and_not_on_the_frame():
    mask = np.zeros((5, 5), bool)
    mask[2:, 2:] = True
    assert outline(mask)[1:, 1].all() and not outline(mask)[2:, 2:].any() and not outline(mask)[0].any()


@pytest.mark.parametrize(
    ("tolerance", "told"), [(0.0, r"`tolerance` \(=0.0\) must be above 0"), (2, "a share of the diagonal")]
)
def test_a_tolerance_out_of_range_is_refused(tolerance, told):
    with pytest.raises(ValueError, match=told):
        boundary_f(TRUE > 0, TRUE > 0, tolerance)


def test_the_standard_error_is_that_of_the_mean():
    values = torch.rand(50, dtype=torch.float64)
    found = mean_and_error(torch.cat([values, torch.tensor([torch.nan])]))
    assert found.defined == 50 and found.mean == pytest.approx(values.mean().item())
    assert found.error == pytest.approx(values.std().item() / math.sqrt(50))
    assert math.isnan(mean_and_error(values[:1]).error) and math.isnan(mean_and_error(values[:0]).mean)


# Property prediction.


def objects_of(slots: torch.Tensor, position: torch.Tensor, kind: torch.Tensor) -> MatchedObjects:
    return MatchedObjects(slots, torch.arange(len(slots)) // 2, {"position": position}, {"shape": kind})


def test_probes_read_what_slots_hold_and_the_mlp_more():
    generator = torch.Generator().manual_seed(1)
    inner = torch.rand(800, 2, generator=generator, dtype=torch.float64)
    slots = torch.cat([inner, torch.randn(800, 4, generator=generator, dtype=torch.float64)], dim=1)
    bent = ((inner - 0.5) ** 2).sum(dim=1, keepdim=True)
    kind = (bent[:, 0] > 0.15).long()
    train, test = (objects_of(slots[part], bent[part], kind[part]) for part in (slice(600), slice(600, 800)))
    scores = property_scores(train, test)
    assert scores["position_r2_linear"][0] < 0.2 < 0.8 < scores["position_r2_mlp"][0]
    assert scores["shape_accuracy_linear"][0] < scores["shape_accuracy_mlp"][0] > 0.85
    assert all(0 < error < 0.15 for _, error in scores.values())
    errors = []
    predicted = predict(train.slots, bent[:600], test.slots)
    for drawn in np.random.default_rng(1).integers(100, size=(300, 100)):
        rows = (2 * torch.from_numpy(drawn)[:, None] + torch.arange(2)).flatten()
        errors.append(r2(predicted[rows], test.numbers["position"][rows]))
    assert scores["position_r2_linear"][0] == pytest.approx(r2(predicted, test.numbers["position"]))
    assert scores["position_r2_linear"][1] == pytest.approx(np.std(errors), rel=0.2)
    straight = (
        objects_of(slots[:600], inner[:600], kind[:600]),
        objects_of(slots[600:], inner[600:], kind[600:]),
    )
    assert property_scores(*straight)["position_r2_linear"][0] > 0.95
    assert property_scores(train, test) == scores, "deterministic"


def test_the_mlp_leaves_the_generator_alone():
    slots = torch.rand(20, 3, dtype=torch.float64)
    before = torch.get_rng_state()
    mlp_predict(slots, slots[:, :1], slots)
    assert torch.equal(before, torch.get_rng_state())


def test_objects_are_matched_with_the_slot_that_covers_them():
    masks = torch.tensor([[[0, 1, 1, 0], [2, 2, 0, -1]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    predicted = torch.tensor([[[2, 0, 0, 2], [1, 1, 2, 2]], [[0, 1, 2, 2], [0, 1, 2, 2]]])
    image = torch.zeros(2, 3, 2, 4)
    image[0, 0, 0] = 1
    properties = torch.zeros(2, 10, 19)
    properties[0, 0, [4, 5, 8, 12, 18]] = 1
    properties[0, 1, [3, 6, 9, 17, 18]] = 1
    scenes = {"image": image, "masks": masks, "properties": properties}
    found = matched_objects(scenes, torch.arange(6.0).view(2, 3, 1), predicted, torch.tensor([7, 8]))
    assert found.slots.tolist() == [[0.0], [1.0]] and found.image.tolist() == [7, 7]
    assert found.numbers["position"].tolist() == [[0.5, 0.25], [0.25, 0.75]]
    assert found.numbers["size"].tolist() == [[0.5], [0.5]]
    assert found.numbers["colour"].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert {name: labels.tolist() for name, labels in found.classes.items()} == {
        "size": [1, 0],
        "material": [0, 1],
        "shape": [1, 2],
        "color": [2, 7],
    }


# The command.


@pytest.fixture(scope="module")
def model():
    return oh.load("sprites")


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name not in ("video", "properties")])
def test_scores_are_means_over_the_images_of_a_recipe(name, model):
    recipe = replace(model.recipe, restarts=1)
    scores = protocol_scores(model, recipe, name, num_scenes=6)
    batch = recipe.dataset("test")[range(6)]
    masks = recipe.discover(model, batch["image"], torch.arange(6)).masks
    for score, values in PROTOCOLS[name].scores(batch, masks).items():
        assert scores[score].mean == pytest.approx(values.nanmean().item(), abs=1e-6)
        assert scores[score].defined == (~values.isnan()).sum()
    assert scores == protocol_scores(model, model.recipe, name, num_scenes=6), "one restart"


def test_slots_of_tetrominoes_hold_position_and_colour():
    model = oh.load("tetrominoes")
    scores = protocol_scores(model, model.recipe, "properties", num_scenes=40)
    for name in ("position_r2_linear", "position_r2_mlp", "colour_r2_linear", "colour_r2_mlp"):
        assert scores[name].mean > 0.9 and 0 < scores[name].error < 0.1 and scores[name].defined == 120
    assert math.isnan(scores["size_r2_mlp"].mean), "all pieces have one size"


def test_clips_have_their_own_protocol():
    recipe = replace(oh.RECIPES["camouflage"], test_frames=3)
    model = recipe.build_model()
    assert set(protocol_scores(model, recipe, "video", num_scenes=2)) == {"video_fg_ari", "video_mbo"}
    with pytest.raises(
        ValueError, match="protocol 'panoptic' scores images, and recipe 'camouflage' has clips"
    ):
        protocol_scores(model, recipe, "panoptic")


def test_what_cannot_be_scored_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="protocol 'dinosaurs' is unknown; did you mean dinosaur?"):
        protocol_scores(model, model.recipe, "dinosaurs")
    with pytest.raises(ValueError, match="protocol 'video' scores clips, and recipe 'sprites' has images"):
        protocol_scores(model, model.recipe, "video")
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    unlabelled = replace(model.recipe, data="folder", data_path=str(tmp_path))
    with pytest.raises(ValueError, match="protocol 'panoptic' needs true masks, and the scenes of recipe"):
        protocol_scores(model, unlabelled, "panoptic")


def test_dinosaur_ignores_overlaps_where_a_recipe_can():
    recipe = oh.RECIPES["dinosaur-vits16-coco"]
    assert recipe.overlaps == "front" and as_ruled(recipe, "dinosaur").overlaps == "ignore"
    assert as_ruled(recipe, "covering").overlaps == "front"


def test_the_command_prints_and_writes_scores_and_errors(tmp_path, capsys):
    file, table = tmp_path / "scores.json", tmp_path / "scores.csv"
    options = ["--num-scenes", "4", "--restarts", "1", "--json", str(file), "--csv", str(table)]
    assert main(["evaluate", "sprites", "--protocol", "dinosaur,panoptic", *options]) == 0
    said = capsys.readouterr().out
    assert "standard error" in said and "mBO, instances" in said and "Kirillov et al. 2019" in said
    facts = json.loads(file.read_text())
    assert set(facts["protocols"]) == {"dinosaur", "panoptic"}
    assert facts["protocols"]["dinosaur"]["scores"]["fg_ari"]["mean"] == pytest.approx(
        facts["scores"]["fg_ari"]
    )
    assert facts["protocols"]["panoptic"]["scores"]["pq"]["defined"] == 4
    assert "panoptic/pq," in table.read_text()
    assert main(["evaluate", "sprites", "--protocol", "dinosar"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --protocol (='dinosar') is unknown; did you mean dinosaur?"


def test_what_cannot_be_scored_or_written_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    def no_work(*_):
        pytest.fail("scored")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("objecthood.evaluate"), "evaluate", no_work)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(oh.hub.PRETRAINED["tetrominoes"].file.read_bytes())
    for words, code, told in (
        (["--protocol", "video"], 1, "protocol 'video' scores clips"),
        (["--json", "./w.safetensors"], 2, "--json (='./w.safetensors') is the file of the weights"),
        (["--json", "a", "--csv", "./a"], 2, "--csv (='./a') is the file of --json; name another"),
        (
            ["--diagnose", "--figure", "a.png", "--csv", "a.png"],
            2,
            "--figure (='a.png') is the file of --csv",
        ),
    ):
        assert main(["evaluate", "w.safetensors", *words]) == code
        assert told in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [weights] and oh.load(weights)

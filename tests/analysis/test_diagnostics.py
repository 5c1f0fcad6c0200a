"""Failure modes: each on masks with that failure only, and the command's report."""

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from places import ROOT

import objecthood as oh
from objecthood.analysis import diagnostics
from objecthood.analysis.diagnosis import alarms, diagnose
from objecthood.cli.main import main
from objecthood.models import SlotAutoencoder

SIDE = 20
TRUTH = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
TRUTH[0, 2:8, 2:8], TRUTH[0, 12:18, 2:8], TRUTH[0, 12:18, 12:18] = 1, 2, 3
PERFECT = TRUTH + 1


def signs(predicted) -> dict[str, int]:
    return {name: int(value) for name, value in diagnostics.signs(TRUTH, predicted)._asdict().items()}


def painted(*changes) -> torch.Tensor:
    """The perfect masks with regions given to other slots: (label, or None for all; rows, columns, slot)."""
    predicted = PERFECT.clone()
    for label, rows, columns, slot in changes:
        region = torch.zeros_like(predicted, dtype=torch.bool)
        region[0, rows, columns] = True
        predicted[region if label is None else region & (label == TRUTH)] = slot
    return predicted


ALL = slice(None)
GOOD = {"objects": 3, "shared": 0, "split": 0, "in_background": 0, "background_slots": 1}


def test_perfect_masks_have_no_failures():
    assert signs(PERFECT) == GOOD
    assert int(diagnostics.signs(TRUTH, PERFECT).trouble) == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param([(2, ALL, ALL, 2)], {"shared": 2}, id="objects 1 and 2 in one slot"),
        pytest.param([(2, ALL, ALL, 2), (3, ALL, ALL, 2)], {"shared": 3}, id="all objects in one slot"),
        pytest.param([(1, ALL, slice(0, 4), 9)], {"split": 1}, id="a third of object 1 elsewhere"),
        pytest.param([(1, ALL, slice(0, 3), 9)], {}, id="a sixth of object 1 elsewhere: whole"),
        pytest.param([(1, ALL, ALL, 1)], {"in_background": 1}, id="object 1 in the background's slot"),
        pytest.param(
            [(1, ALL, ALL, 1), (2, ALL, ALL, 1)], {"in_background": 2}, id="two there: hidden, not shared"
        ),
        pytest.param([(0, ALL, slice(0, 10), 9)], {"background_slots": 2}, id="background in halves"),
        pytest.param([(0, slice(0, 1), slice(0, 8), 9)], {}, id="3 % of the background elsewhere: whole"),
        pytest.param(
            [(0, ALL, slice(0, 7), 8), (0, ALL, slice(14, 20), 9)], {"background_slots": 3}, id="in thirds"
        ),
        pytest.param([(None, ALL, ALL, 0)], {"in_background": 3}, id="one slot takes everything"),
    ],
)
def test_each_sign_detects_its_own_failure_only(change, expected):
    assert signs(painted(*change)) == GOOD | expected


def test_soft_masks_and_labels_agree():
    soft = torch.nn.functional.one_hot(PERFECT, 5).permute(0, 3, 1, 2).float()
    assert signs(soft) == signs(PERFECT)
    assert diagnostics.used_slots(soft).tolist() == diagnostics.used_slots(PERFECT).tolist() == [4]


def test_ignored_pixels_and_images_without_background_or_objects():
    truth = torch.full((3, 4, 4), -1)
    truth[0, :2], truth[0, 2:] = 1, 2  # no background: nothing can lie in its slot
    truth[1] = 0  # no object
    truth[2, 0] = 1  # the rest ignored
    found = diagnostics.signs(truth, torch.zeros(3, 4, 4, dtype=torch.int64))
    assert found.objects.tolist() == [2, 0, 1]
    assert found.shared.tolist() == [2, 0, 0]
    assert found.in_background.tolist() == [0, 0, 0]
    assert found.background_slots.tolist() == [0, 1, 0]
    assert found.trouble.tolist() == [2, 0, 0]


@given(st.integers(0, 2**31))
def test_signs_do_not_depend_on_the_names_of_slots_or_objects(seed):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, 5, (1, SIDE, SIDE), generator=generator)
    slots, objects = torch.randperm(5, generator=generator), torch.randperm(3, generator=generator) + 1
    renamed = torch.cat([torch.zeros(1, dtype=torch.int64), objects])[TRUTH]
    before = diagnostics.signs(TRUTH, PERFECT.clone())
    assert before == diagnostics.signs(renamed, slots[PERFECT])
    # Random labels have ties, which names may break; counts that know no ties must not move.
    for name in ("objects", "split", "background_slots"):
        pair = (diagnostics.signs(TRUTH, predicted), diagnostics.signs(renamed, slots[predicted]))
        assert getattr(pair[0], name).tolist() == getattr(pair[1], name).tolist()


def test_entropy_of_certain_uniform_and_paired_attention():
    sure = torch.eye(4)[None, :, :, None]
    assert diagnostics.attention_entropy(sure).tolist() == [0.0]
    assert diagnostics.attention_entropy(torch.full((2, 3, 5), 1 / 3)).tolist() == pytest.approx([1.0, 1.0])
    pair = torch.tensor([0.5, 0.5, 0.0, 0.0])[None, :, None]
    assert diagnostics.attention_entropy(pair).tolist() == pytest.approx([0.5])
    assert diagnostics.attention_entropy(torch.ones(2, 1, 5)).tolist() == [0.0, 0.0]


def test_used_slots_exclude_specks():
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[0, 0, 0], labels[0, 1, :2] = 3, 4  # one pixel of 400 is 0.25 %, two are 0.5 %
    assert diagnostics.used_slots(labels).tolist() == [2]


def test_summary_counts_objects_over_all_images():
    truth = torch.cat([TRUTH, TRUTH.clamp_max(1)])  # 3 objects; then 1, for labels 2 and 3 become 1
    predicted = torch.cat([painted((2, ALL, ALL, 2)), torch.ones(1, SIDE, SIDE, dtype=torch.int64)])
    found = diagnostics.signs(truth, predicted)
    summary = diagnostics.summarize(found, torch.tensor([0.0, 1.0]), torch.tensor([4, 1]), num_slots=6)
    assert summary == {
        "num_slots": 6.0,
        "attention_entropy": 0.5,
        "used_slots": 2.5,
        "objects": 2.0,
        "shared_objects": 0.5,
        "split_objects": 0.0,
        "objects_in_background": 0.25,
        "background_slots": 1.0,
        "background_split": 0.0,
    }


HEALTHY = {
    "num_slots": 6.0,
    "attention_entropy": 0.02,
    "used_slots": 4.2,
    "objects": 3.5,
    "shared_objects": 0.05,
    "split_objects": 0.02,
    "objects_in_background": 0.08,
    "background_slots": 1.0,
    "background_split": 0.0,
}


@pytest.mark.parametrize(
    ("sign", "value", "words"),
    [
        ("attention_entropy", 0.9, "slots stay alike"),
        ("used_slots", 2.0, "only 2.0 of 6 slots are used"),
        ("num_slots", 3.0, "3 slots for 3.5 objects"),
        ("shared_objects", 0.4, "40 % of objects share a slot"),
        ("split_objects", 0.4, "objects are split"),
        ("objects_in_background", 0.4, "objects are in the background's slot"),
        ("background_split", 0.4, "images have a split background"),
    ],
)
def test_findings_name_the_failure_and_an_existing_page(sign, value, words):
    assert diagnostics.findings(HEALTHY) == []
    (finding,) = diagnostics.findings(HEALTHY | {sign: value})
    assert words in finding.text
    page, _, anchor = finding.page.partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert not anchor or anchor in [slug(heading) for heading in headings]


def slug(heading: str) -> str:
    """A heading as mkdocs names its anchor."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_worst_scenes_come_first_and_batches_do_not_matter():
    recipe = replace(oh.RECIPES["sprites"], test_iterations=2)
    torch.manual_seed(0)
    model = recipe.build_model()
    found, batched = (diagnose(model, recipe, num_scenes=6, batch_size=size) for size in (6, 4))
    assert found.worst == batched.worst and sorted(found.worst) == list(range(6))
    assert found.summary == pytest.approx(batched.summary)
    trouble = found.signs.trouble[found.worst]
    assert (trouble[:-1] >= trouble[1:]).all()
    assert found.figure(rows=2).height < found.figure(rows=3).height


def test_images_without_true_masks_are_diagnosed(tmp_path):
    for number in range(20):
        Image.new("RGB", (16, 16), (40 * (number % 5), 99, 200)).save(tmp_path / f"{number}.png")
    recipe = replace(oh.RECIPES["folder"], data_path=str(tmp_path), resolution=16, num_slots=3)
    found = diagnose(recipe.build_model(), recipe, "train", num_scenes=4)
    assert found.signs is None and set(found.summary) == {
        "num_slots",
        "attention_entropy",
        "used_slots",
        "error_ratio",
    }
    assert found.figure(rows=2).mode == "RGB"


def test_a_recipe_without_masks_is_refused():
    recipe = oh.RECIPES["set-clevr-like"]
    with pytest.raises(ValueError, match="predicts no masks of images; use a recipe of object discovery"):
        diagnose(torch.nn.Linear(1, 1), recipe)


def test_the_command_prints_writes_and_draws(undrawn, tmp_path, capsys):
    run, drawn, file = tmp_path / "run", tmp_path / "worst.png", tmp_path / "scores.json"
    few = ["--steps", "2", "--validation-scenes", "4", "--test-scenes", "4", "--precision", "float32"]
    assert main(["train", "tetrominoes", *few, "--out", str(run)]) == 0
    words = ["evaluate", str(run), "--diagnose", "--json", str(file)]
    assert main([*words, "--figure", str(drawn), "--num-scenes", "4"]) == 0
    said = capsys.readouterr().out
    assert "objects in the background slot" in said and "worst scenes:" in said
    facts = json.loads(file.read_text())["diagnosis"]
    assert set(facts) == {"summary", "findings", "worst_scenes"} and len(facts["worst_scenes"]) == 4
    for finding in facts["findings"]:
        assert f"{finding['text']}; see {finding['page']}" in said
    with Image.open(drawn) as picture:
        assert picture.width > 500
    assert main(["evaluate", str(run), "--figure", str(drawn)]) == 2
    assert main([*words, "--figure", "worst.gif"]) == 2
    complaints = capsys.readouterr().err.splitlines()
    assert complaints[0].endswith("add --diagnose") and complaints[1].endswith("must end in .png or .webp")


def test_a_run_reports_failures_once_in_its_second_half(undrawn, tmp_path, capsys):
    """After four steps nothing is found, which is told once of each kind; a good model has no alarm."""
    recipe = replace(
        oh.RECIPES["sprites"],
        steps=4,
        low_resolution_steps=0,
        evaluate_every=1,
        batch_size=2,
        test_scenes=2,
        restarts=2,
    )
    oh.train(replace(recipe, resolution=16, validation_scenes=2), tmp_path / "run")
    told = [line for line in capsys.readouterr().out.splitlines() if diagnostics.PAGE in line]
    assert told and len({line.rpartition("#")[2] for line in told}) == len(told)
    assert told[0].startswith("step 2: ") and not any(line.startswith("step 1: ") for line in told)
    assert alarms(oh.load("sprites"), oh.RECIPES["sprites"]) == []


def test_recipes_without_masks_of_images_are_not_diagnosed(undrawn, tmp_path, capsys):
    recipe = replace(oh.RECIPES["moving-sprites"], steps=1, batch_size=1, validation_scenes=1, test_scenes=1)
    assert alarms(recipe.build_model(), recipe) == []
    oh.train(recipe, tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--diagnose"]) == 1
    assert "'moving-sprites' predicts no masks of images" in capsys.readouterr().err


def test_slots_that_do_not_converge_are_reported():
    class Oscillating(SlotAutoencoder):
        def segment(self, images, num_slots=None, iterations=None, restarts=None, noise=None):
            output = super().segment(images, num_slots, iterations, restarts, noise)
            return output._replace(reconstruction=images + (0.1 if iterations % 2 else 0.2))

    plain = oh.RECIPES["tetrominoes"]
    model = plain.build_model()
    found = diagnose(Oscillating(model.encoder, model.grouping, model.decoder), plain, num_scenes=4)
    assert found.summary["error_ratio"] == pytest.approx(4.0, rel=1e-4)
    assert any(
        finding.page.endswith("#slots-do-not-converge") and "4.0 times" in finding.text
        for finding in found.findings
    )
    still = diagnose(oh.load("tetrominoes"), plain, num_scenes=4)
    assert still.summary["error_ratio"] < 1.2 and not any(
        "converge" in finding.text for finding in still.findings
    )

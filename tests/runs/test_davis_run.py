"""What davis.py writes and video_page.py shows: J over all frames and J by the toolkit's rule."""

import importlib
import json

import numpy as np
import pytest
import torch
from places import ROOT

RUNS = ROOT / "runs"
METHODS = ("affine camera, Otsu", "slots", "slots, finished")


@pytest.fixture
def davis(monkeypatch, tmp_path):
    """The script, with an empty folder of results."""
    monkeypatch.syspath_prepend(str(RUNS / "experiments"))
    script = importlib.import_module("davis")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


@pytest.fixture
def page(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(RUNS / "pages"))
    script = importlib.import_module("video_page")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


def result_of(davis) -> dict:
    """Two seeds of two sequences; the toolkit's J is 0.1 above ours."""
    runs = {
        seed: {
            name: {key: davis.J(low, low + 0.1) for key in METHODS}
            for name, low in (("bear", 0.2 + seed / 10), ("goat", 0.4))
        }
        for seed in (0, 1)
    }
    davis.write(runs, [["bear"], ["goat"]], {}, {})
    return json.loads((davis.ROOT / "results" / "davis2016.json").read_text())


def test_j_of_a_sequence_is_kept_in_both_ways(davis):
    truth = torch.ones(4, 8, 8, dtype=torch.bool)
    masks = torch.ones(4, 4, 4)
    masks[0] = 0.0
    assert davis.region(truth, masks) == (0.75, 1.0)


def test_the_weight_of_colours_is_chosen_by_j_over_all_frames(davis):
    one, other = davis.J(0.5, 0.1), davis.J(0.4, 0.9)
    rows = davis.chosen({name: {"slots": [one, other]} for name in ("bear", "goat")}, [["bear"], ["goat"]])
    assert rows["bear"]["slots"] == rows["goat"]["slots"] == one


def test_block_matching_finds_a_shift(monkeypatch):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV, the extra `video`")
    monkeypatch.syspath_prepend(str(RUNS / "experiments"))
    search = importlib.import_module("davis_flows").block_matching(cv2)
    frame = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    flow = search(frame, np.roll(frame, (-4, 6), axis=(0, 1)))
    assert flow.shape == (48, 80, 2)
    assert np.abs(flow[16:-16, 16:-16] - (6, -4)).max() < 0.5


def test_results_hold_both_figures(davis):
    result = result_of(davis)
    assert result["mean"]["slots"] == pytest.approx(0.325)
    assert result["skip_ends"]["mean"]["slots"] == pytest.approx(0.425)
    assert result["deviation"]["slots"] == pytest.approx(result["skip_ends"]["deviation"]["slots"])
    assert result["sequences"]["bear"]["slots"] == pytest.approx(0.25)
    assert result["skip_ends"]["sequences"]["bear"]["slots"] == pytest.approx(0.35)
    assert result["skip_ends"]["means"]["seed 1"]["slots"] == pytest.approx(0.45)


def test_the_page_has_a_second_column_where_the_result_holds_it(davis, page):
    result = result_of(davis)
    stages, sequences = page.stages(), page.sequences()
    assert f"|  | mean J | {page.TOOLKIT} |" in stages
    assert "| slots | 0.325 ± 0.035 | 0.425 ± 0.035 |" in stages
    assert "| goat | 1 | 0.400 | 0.400 | 0.500 |" in sequences
    del result["skip_ends"]
    (davis.ROOT / "results" / "davis2016.json").write_text(json.dumps(result))
    assert "|  | mean J |\n" in page.stages() and "| slots | 0.325 ± 0.035 |\n" in page.stages()
    assert "| goat | 1 | 0.400 | 0.400 |\n" in page.sequences()

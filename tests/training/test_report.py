"""The page of a run: it holds the numbers given, loads nothing, and comes whatever is missing or torn."""

import base64
import doctest
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from objecthood.training import report
from objecthood.training.report import write_report
from objecthood.visualize import charts
from objecthood.visualize.charts import line_chart, linear_ticks, logarithmic_ticks

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
# Elements of HTML and SVG that have no end tag here.
VOID = {"meta", "img", "br", "line", "circle", "polyline", "polygon"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and gathers elements, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def train_line(step: int, **more) -> str:
    record = {"kind": "train", "step": step, "loss": 0.5 * 0.9**step, "learning_rate": 4e-4, "seconds": step}
    return json.dumps({**record, "images_per_second": 431.5, "gradient_norm": 0.25, **more})


def evaluate_line(step: int, **scores) -> str:
    return json.dumps({"kind": "evaluate", "step": step, "seconds": step, "cpu_seconds": 2 * step, **scores})


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with everything in it."""
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    recipe = {
        "name": "tetrominoes",
        "description": "Three blocks.",
        "num_slots": 4,
        "amp": False,
        "note": None,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    lines = [train_line(step) for step in range(0, 40, 5)]
    lines += [evaluate_line(20, fg_ari=0.5123, mse=0.0312), evaluate_line(35, fg_ari=0.8765, mse=0.00041)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = {
        "scores": {"fg_ari": 0.8912},
        "protocol": "320 images",
        "commit": "3f2a9c1",
        "wall_seconds": 3725,
    }
    (folder / "result.json").write_text(json.dumps(result))
    for name in ("latest.png", "figures/attention_map.png", "figures/moving.webp", "figures/slots.gif"):
        (folder / name).write_bytes(PIXEL)
    (folder / "figures" / "notes.txt").write_text("not an image")
    return folder


def test_everything_given_is_on_the_page(run):
    path = write_report(run)
    assert path == run / "index.html"
    page = Page(path)
    assert page.text.startswith("tetrominoes · objecthood tetrominoes Three blocks.")
    assert "Final scores: FG-ARI 0.8912. 35 steps in 1 h 2 min." in page.text
    assert "Protocol: 320 images" in page.text
    for pair in ("num_slots 4", "amp false", "note null", "commit 3f2a9c1", "wall_seconds 3725"):
        assert pair in page.text
    for last_value in ("0.01252", "0.8765", "4.1e-4", "431.5", "0.25"):
        assert f" {last_value} " in page.text
    charts_drawn = {value for _, name, value in page.attributes if name == "aria-label"}
    assert charts_drawn == {
        f"{name} over steps"
        for name in ("loss", "FG-ARI", "MSE", "learning rate", "gradient norm", "images per second")
    }


def test_user_images_are_carried_whole_with_their_names(run):
    page = Page(write_report(run))
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    kinds, data = zip(*(source.split(",") for source in sources), strict=True)
    png = "data:image/png;base64"
    assert kinds == (png, png, "data:image/webp;base64", "data:image/gif;base64")
    assert {base64.b64decode(text) for text in data} == {PIXEL}
    captions = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert captions == ["latest", "attention map", "moving", "slots"]


def test_the_page_loads_nothing(run):
    path = write_report(run)
    page, text = Page(path), path.read_text()
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in text
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert all(
        value.startswith("data:image/") for _, name, value in page.attributes if name in {"src", "href"}
    )
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert ("meta", "content", report.POLICY) in page.attributes
    assert "default-src 'none'" in report.POLICY


def test_names_from_outside_are_escaped(run):
    evil = "<script>alert('&\"')</script>"
    (run / "recipe.json").write_text(
        json.dumps({"name": evil, "description": evil, evil: evil, "list": [evil]})
    )
    (run / "result.json").write_text(json.dumps({"scores": {evil: 0.5}, "protocol": evil, "machine": evil}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(evaluate_line(36, **{evil: 0.25}) + "\n")
    (run / "figures" / "a<b>&\"'.png").write_bytes(PIXEL)
    path = write_report(run)
    page = Page(path)
    assert "<script" not in path.read_text() and "script" not in page.tags
    assert page.text.count(evil) >= 8
    assert ("img", "alt", "a<b>&\"'") in page.attributes


def test_an_empty_folder_gives_a_page_with_its_name(tmp_path):
    folder = tmp_path / "my first run"
    folder.mkdir()
    assert Page(write_report(folder)).text == "my first run · objecthood my first run No scores yet."


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "nowhere")


def test_before_the_end_the_last_evaluation_counts(run):
    (run / "result.json").unlink()
    page = Page(write_report(run))
    assert "Scores so far, at step 35: FG-ARI 0.8765, MSE 4.1e-4. 35 steps in 35 s." in page.text


@pytest.mark.parametrize(
    "torn", ['{"kind": "train", "st', '{"kind": "tra\xc3', "[1, 2]", "17", "", "\x00", "{}"]
)
def test_torn_lines_are_passed_over(run, torn):
    before = Page(write_report(run)).text
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(torn.encode("latin-1"))
    assert Page(write_report(run)).text == before


@pytest.mark.parametrize("name", ["recipe.json", "result.json"])
@pytest.mark.parametrize("content", [b"", b'{"name": "tet', b"[]", b"\xff\xfe", b'{"scores": 3}'])
def test_torn_files_are_passed_over(run, name, content):
    (run / name).write_bytes(content)
    assert "FG-ARI" in Page(write_report(run)).text


def test_a_loss_that_is_no_number_does_not_stop_the_page(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            train_line(40, loss=math.nan) + "\n" + train_line(45, loss=math.inf, seconds=math.nan) + "\n"
        )
        file.write(evaluate_line(45, fg_ari=math.nan) + "\n")
    page = write_report(run).read_text()
    assert not re.search(r'(points|x1|y1|cx|cy)="[^"]*(nan|inf)', page)


def test_writing_again_replaces_the_page_and_leaves_nothing_behind(run):
    write_report(run)
    (run / "recipe.json").write_text('{"name": "second"}')
    assert "second" in write_report(run).read_text()
    assert not list(run.glob("*.part"))


def curve(svg: str) -> list[tuple[float, float]]:
    path = re.search(r'<polyline class="line" points="([^"]*)"', svg).group(1)
    return [tuple(map(float, place.split(","))) for place in path.split()]


def test_a_curve_lies_where_its_ticks_say():
    places = curve(line_chart([(0, 0.0), (50, 0.5), (100, 1.0)], name="x"))
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    bottom, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert places == [(left, bottom), ((left + right) / 2, (bottom + top) / 2), (right, top)]


def test_equal_factors_are_equal_ways_on_a_logarithmic_axis():
    (_, first), (_, second), (_, third) = curve(
        line_chart([(0, 1.0), (1, 0.1), (2, 0.01)], name="x", logarithmic=True)
    )
    assert second - first == pytest.approx(third - second, abs=0.11) and second - first > 50


def test_a_logarithmic_axis_falls_back_where_a_value_is_zero():
    points = [(0, 1.0), (1, 0.0)]
    assert line_chart(points, name="x", logarithmic=True) == line_chart(points, name="x")


def test_long_runs_are_drawn_with_few_points_and_a_band():
    svg = line_chart([(step, float(step % 2)) for step in range(10_000)], name="x")
    assert len(curve(svg)) <= charts.MAX_COLUMNS
    assert {y for _, y in curve(svg)} == {(charts.HEIGHT - charts.BOTTOM + charts.TOP) / 2}
    assert 'class="band"' in svg and len(svg) < 20_000


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_nothing_to_draw(points):
    assert line_chart(points, name="x") == ""


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-9, 1e9])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_single_value_is_drawn_inside_the_frame(value, logarithmic):
    ((x, y),) = curve(line_chart([(7, value)], name="x", logarithmic=logarithmic))
    assert charts.LEFT < x < charts.WIDTH - charts.RIGHT
    assert charts.TOP < y < charts.HEIGHT - charts.BOTTOM


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.21), (-5, 1234), (1e-7, 3e-7), (100, 101), (3, 3)])
def test_linear_ticks_enclose_evenly(low, high):
    ticks = linear_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 3 <= len(ticks) <= 8
    gaps = [b - a for a, b in pairwise(ticks)]
    assert min(gaps) == pytest.approx(max(gaps))


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1), (0.5, 0.7), (0.02, 0.3), (1e-12, 1e6), (0.011, 0.9)])
def test_logarithmic_ticks_lie_within(low, high):
    ticks = logarithmic_ticks(low, high)
    assert ticks == sorted(ticks) and low <= ticks[0] and ticks[-1] <= high and 2 <= len(ticks) <= 8


LABEL = re.compile(r'<text(?: class="(\w+)")? x="([^"]+)" y="([^"]+)"(?: text-anchor="(\w+)")?>([^<]+)<')


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every label, in a wide font (DejaVu Sans: digits of 0.64 of its
    size, bold 0.70, points and signs of about half)."""
    found = []
    for kind, x, y, anchor, text in LABEL.findall(svg):
        digit = 9.04 if kind == "last" else 8.27
        width = sum(digit * (0.57 if letter in ".-" else 1.25 if letter == "M" else 1) for letter in text)
        start = float(x) - {"end": width, "middle": width / 2}.get(anchor, 0)
        found.append((start, float(y) - 10, start + width, float(y) + 1))
    return found


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("steps", [(0, 6), (25, 60_000), (999_900, 1_000_000), (12_345_600, 12_345_678)])
@pytest.mark.parametrize(
    "values",
    [
        (0.3, 0.001234),
        (-0.0012, -0.00063),
        (0.5, 0.50001),
        (12_345_678.9, 0.00438),
        (1e-12, 1e15),
        (11, 1.01),
    ],
)
def test_labels_fit_and_do_not_overlap(steps, values, logarithmic):
    svg = line_chart(list(zip(steps, values, strict=True)), name="x", logarithmic=logarithmic)
    found = boxes(svg)
    assert len(found) >= 4
    for left, top, right, bottom in found:
        assert left >= 0 and right <= charts.WIDTH and top >= 0 and bottom <= charts.HEIGHT, found
    for number, (left, top, right, bottom) in enumerate(found):
        for other in found[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, found
    assert len({text for *_, anchor, text in LABEL.findall(svg) if anchor == "end"}) > 1


@pytest.mark.parametrize("module", [report, charts])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0

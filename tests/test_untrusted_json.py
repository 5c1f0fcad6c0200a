"""JSON files of others: a damaged or crafted one is passed over or refused in one line, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import objecthood as oh
from objecthood.analysis import out_of_distribution
from objecthood.checkpoint.header import read_description
from objecthood.cli.lookup import read_json
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.published.clevr import Clevr
from objecthood.data.published.coco import Coco
from objecthood.data.published.multi_object_packed import Packed
from objecthood.hub import huggingface
from objecthood.hub.pretrained import PRETRAINED
from objecthood.inference.result_folder import ResultFolder
from objecthood.runtime.files import parse_json
from objecthood.runtime.limits import JSON_DEPTH
from objecthood.training.report import write_report
from objecthood.training.run_log import Log, Stopwatch, read_log

DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 400
BAD = {
    "empty": b"", "cut": b'{"step": 3', "no UTF-8": b'{"a": "\xff\xfe"}', "deep": DEEP.encode(),
    "long number": f'{{"step": {LONG}, "sha256": {LONG}}}'.encode(), "list": b"[1]", "text": b'"x"',
    "longer number": b'{"step": ' + b"9" * 5000 + b"}",
    "just too deep": b'{"a":' * (JSON_DEPTH + 1) + b"1" + b"}" * (JSON_DEPTH + 1),
}  # fmt: skip
bad = pytest.mark.parametrize("content", BAD.values(), ids=BAD)


def nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def test_parse_json():
    assert parse_json('{"a": [1, -2.5, true, null, 999999999999999999]}') == {
        "a": [1, -2.5, True, None, 10**18 - 1]
    }
    parse_json(nested(JSON_DEPTH))
    wide = json.dumps([[n] for n in range(5000)])
    assert len(parse_json(wide)) == 5000
    for text in (nested(JSON_DEPTH + 1), DEEP, LONG, f"-{LONG}", "", "{", b"\xff"):
        with pytest.raises(ValueError) as caught:
            parse_json(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@bad
def test_settings_of_a_run(content, tmp_path):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(ValueError, match="recipe.json is damaged") as caught:
        read_json(tmp_path / "recipe.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="recipe.json is damaged"):
        oh.train(oh.RECIPES["tetrominoes"], tmp_path, resume=True)


@bad
def test_reports_pass_over_what_is_damaged(content, tmp_path):
    good = b'{"kind": "train", "step": 10, "loss": 0.5, "seconds": 1}\n'
    for name in ("recipe.json", "result.json"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "metrics.jsonl").write_bytes(good + content.replace(b"\n", b"") + b"\n" + good)
    page = write_report(tmp_path).read_text()
    assert "10 steps" in page and "<svg" in page


LINE = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["train", "evaluate", 3]),
        "step": st.one_of(st.integers(), st.floats(), st.none()),
    },
    optional={
        name: st.one_of(
            st.integers(), st.floats(), st.sampled_from([10**300, 5e-324, None]), st.text(max_size=3)
        )
        for name in ("loss", "fg_ari", "seconds", "learning_rate", "\x1b[2J<b>")
    },
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMED = st.dictionaries(st.sampled_from(["name", "description", "scores", "wall_seconds", "protocol"]), ANY)


@given(st.lists(LINE, max_size=6), NAMED, NAMED)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_values_give_a_report(tmp_path_factory, lines, recipe, result):
    folder = tmp_path_factory.getbasetemp() / "report"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "result.json").write_text(json.dumps(result))
    page = write_report(folder).read_text()
    assert page.endswith("</html>\n") and "<b>" not in page.replace("</span><b>", "")


@bad
def test_a_log_that_is_damaged_is_gone_on_with(content, tmp_path):
    """As of a run that was killed amid a line: what is whole is kept, in order."""
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": "train", "step": step, "loss": 0.5} for step in (1, 2, 3)]
    texts = [json.dumps(line).encode() for line in lines]
    no_step = b'{"kind": "train"}\n{"step": 1}\n{"kind": "train", "step": "1"}\n{"kind": 1, "step": 1}\n'
    path.write_bytes(texts[0] + b"\n" + content + b"\n" + no_step + texts[1] + b"\n" + texts[2] + b"\n")
    assert read_log(path) == lines
    Log(path, 2).write("train", 3, Stopwatch(), {"loss": 0.25})
    found = read_log(path)
    assert [line["step"] for line in found] == [1, 2, 3] and found[2]["loss"] == 0.25


@bad
def test_facts_of_a_repository(content, tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    monkeypatch.setattr(huggingface, "_unreachable", lambda *arguments: "")
    monkeypatch.setattr(huggingface, "_download", lambda source, name, *more: file)
    with pytest.raises(ValueError, match="me/it was not published by objecthood .config.json") as caught:
        oh.from_pretrained("me/it")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("stated", [3, None, [], "x" * 64, "a" * 63, "../" * 9, "A" * 64])
def test_a_sha256_of_another_form(stated, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"sha256": stated}))
    monkeypatch.setattr(huggingface, "_unreachable", lambda *arguments: "")
    monkeypatch.setattr(huggingface, "_download", lambda source, name, *more: tmp_path / "config.json")
    with pytest.raises(ValueError, match="states no SHA-256"):
        oh.from_pretrained("me/it")


def described(folder: Path, **changes: object) -> Path:
    """Shipped weights, some facts replaced."""
    whole = PRETRAINED["tetrominoes"].file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"] |= {name: json.dumps(value) for name, value in changes.items()}
    text = json.dumps(header).encode()
    path = folder / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recipe", []), ("recipe", "x"), ("recipe", None), ("scores", []), ("scores", {"fg_ari": "high"}),
        ("scores", {"fg_ari": {}}), ("scores", 3), ("calibration", []), ("calibration", {"scenes": "many"}),
        ("calibration", {"scenes": 99, "quantiles": []}),
        ("calibration", {"scenes": 99, "quantiles": {"a": 1}}),
        ("calibration", {"scenes": 99, "quantiles": {"reconstruction error": {"0.95": "x", "0.5": 1}}}),
        ("calibration", {"scenes": 99, "quantiles": {"reconstruction error": {}}}),
        ("calibration", {"quantiles": {}}),
    ],
)  # fmt: skip
def test_facts_of_another_form(tmp_path, name, value):
    path = described(tmp_path, **{name: value})
    for read in (read_description, oh.load):
        with pytest.raises(ValueError, match="is not a weight file of objecthood") as caught:
            read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_facts_of_measures_that_are_not_known(tmp_path):
    """A later version's: passed over."""
    known = {"scenes": 99, "quantiles": {"another": {"0.5": 1.0, "0.95": 2.0}}}
    model = oh.load(described(tmp_path, calibration=known))
    assert oh.predict(model, torch.rand(3, 35, 35))[0].warning == ""
    assert out_of_distribution.warning_for({out_of_distribution.WHOLE: 9.0}, known) == ""


def coco(folder, content):
    (folder / "instances.json").write_bytes(content)
    Coco(folder, folder / "instances.json")


def clevr(folder, content):
    (folder / "scenes").mkdir()
    (folder / "scenes" / "CLEVR_val_scenes.json").write_bytes(content)
    Clevr(folder, split="test")


def rendered(folder, content):
    (folder / "test").mkdir()
    (folder / "test" / "manifest.json").write_bytes(content)
    ClevrLike(folder, "test")


def packed(folder, content):
    (folder / "manifest.json").write_bytes(content)
    Packed(folder, "train")


def results(folder, content):
    (folder / "predictions.json").write_bytes(content)
    ResultFolder(folder)


@bad
@pytest.mark.parametrize("read", [coco, clevr, rendered, packed, results])
def test_files_beside_data(read, content, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 300 + 2 * len(str(tmp_path))

"""Whatever bytes come, readers give what was written or one line: by hypothesis, and longer by atheris."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from records import frame
from torch import nn

from objecthood.checkpoint.header import read_description
from objecthood.checkpoint.run import restore, save_checkpoint
from objecthood.data.published.tfrecord import RecordError, Records

AREA = "Fuzzing"
GOOD = b"".join(frame(bytes([number]) * number) for number in (1, 40, 7))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
many = settings(max_examples=300, deadline=None)


def tried(scoreboard, what: str, count: int = 300) -> None:
    scoreboard(AREA, what, count)


def test_records(tmp_path, scoreboard):
    path = tmp_path / "shard"

    @given(st.binary(max_size=80), st.integers(0, len(GOOD)), st.booleans())
    @many
    def check(content, place, skip_bad):
        path.write_bytes(GOOD[:place] + content + GOOD[place + len(content) :])
        try:
            assert sum(map(len, Records(path, skip_bad=skip_bad))) <= len(GOOD) + len(content)
        except RecordError as error:
            assert "\n" not in str(error) and "shard" in str(error)

    check()
    tried(scoreboard, "TFRecord reader: any bytes written over a good file")


@pytest.fixture
def two(tmp_path):
    """A folder with the checkpoints of two steps, and the newer one."""
    model = nn.Linear(2, 2)
    optimizers = [torch.optim.Adam(model.parameters())]
    newest = [save_checkpoint(tmp_path, step, model, optimizers, {}) for step in (1, 2)][-1]
    return tmp_path, newest, model, optimizers


def test_manifest(two, scoreboard):
    folder, newest, model, optimizers = two
    whole = json.loads((newest / "manifest.json").read_text())

    some = st.dictionaries(st.sampled_from(sorted(whole)), JSON, max_size=3)
    changed = (JSON | some.map(lambda changes: whole | changes)).map(lambda value: json.dumps(value).encode())

    @given(st.binary(max_size=80) | changed)
    @many
    def check(content):
        (newest / "manifest.json").write_bytes(content)
        said: list[str] = []
        facts = restore(folder, model, optimizers, say=said.append)
        if not said:
            assert json.loads(content) == whole and facts == {"step": 2}
        else:
            assert facts == {"step": 1} and len(said) == 1 and "\n" not in said[0]

    check()
    tried(scoreboard, "checkpoint manifest: any bytes, any JSON: the checkpoint before it used")


def test_description(tmp_path, scoreboard):
    path = tmp_path / "w.safetensors"

    @given(JSON | st.dictionaries(st.sampled_from(["__metadata__", "a"]), JSON), st.binary(max_size=20))
    @many
    def check(header, data):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        with pytest.raises(ValueError, match="is not a weight file") as caught:
            read_description(path)
        assert "\n" not in str(caught.value)

    check()
    tried(scoreboard, "weight files with any header: refused in one line")


GUIDED = """
import sys, tempfile, pathlib
import atheris
with atheris.instrument_imports(include=["objecthood"]):
    from objecthood import rle
    from objecthood.data.io.images import ImageError, read_image
    from objecthood.data.published.tfrecord import RecordError, Records
target, corpus, seconds = sys.argv[1:]
file = pathlib.Path(tempfile.mkdtemp()) / "shard"

def picture(data):
    try:
        read_image(data, max_pixels=10_000)
    except ImageError as error:
        assert "\\n" not in str(error)

def records(data):
    file.write_bytes(data)
    try:
        list(Records(file))
    except RecordError as error:
        assert "\\n" not in str(error)

def mask(data):
    try:
        rle.decode({"size": [data[0] % 16, data[1] % 16] if len(data) > 1 else [3, 3], "counts": data[2:]})
    except ValueError as error:
        assert "\\n" not in str(error)

# The system's count of memory begins with that of whoever started us: single requests are limited instead.
options = ["fuzz", "-max_total_time=" + seconds, "-print_final_stats=1", "-max_len=4096"]
options += ["-rss_limit_mb=0", "-malloc_limit_mb=2048", corpus]
atheris.Setup(options, globals()[target])
atheris.Fuzz()
"""


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", ["picture", "records", "mask"])
def test_guided_by_coverage(target, tmp_path, scoreboard):
    """Atheris looks for bytes that reach new code; it needs no seed, but is quicker with some."""
    pytest.importorskip("atheris", reason="needs atheris: pip install 'objecthood[fuzz]'")
    from corpus import write_corpus

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if target == "picture":
        write_corpus(corpus)
    else:
        (corpus / "good").write_bytes(GOOD if target == "records" else b"\2\x0222")
    (tmp_path / "fuzz.py").write_text(GUIDED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, tmp_path / "fuzz.py", target, corpus, os.environ.get("FUZZ_SECONDS", "60")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    count = next(
        int(line.split()[-1]) for line in done.stderr.splitlines() if "number_of_executed_units" in line
    )
    tried(scoreboard, f"atheris, guided by coverage: {target}", count)

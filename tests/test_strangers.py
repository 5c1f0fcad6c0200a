"""Files of strangers: none runs a program, writes elsewhere or eats memory; each is told in one line."""

import json
import multiprocessing
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import payloads
import pytest
import readers
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT
from safetensors.torch import save_file
from torch import nn

import objecthood as oh
from objecthood.checkpoint.run import no_more_weights_than
from objecthood.data.io import archives
from objecthood.data.io.archives import ArchiveError, read_arrays

AREA = "Files of strangers"
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """What an honest weight file says of itself."""
    recipe = oh.RECIPES["sprites"]
    path = oh.save(recipe.build_model(), recipe, tmp_path_factory.mktemp("weights") / "w.safetensors")
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


@pytest.fixture(scope="module")
def alone():
    """A fresh process, whose peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1, readers.prepare) as pool:
        yield pool


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def written(folder: Path, kind: str, metadata, mark: Path) -> int:
    """All payloads of a kind as files; how many."""
    if kind == "pickles":
        drafts = list(payloads.pickles(mark))
        zips = [(f"{name} zip", payloads.torch_zip(content)) for name, content in drafts]
        objects = [(f"{name} npz", payloads.zipped([("w.a.0.npy", content)])) for name, content in drafts]
        array = payloads.npy(np.array([payloads.Call(open, str(mark), "w")], object))
        drafts += [
            *zips,
            *objects,
            ("objects.npy", array),
            ("objects.npz", payloads.zipped([("x.npy", array)])),
        ]
    else:
        drafts = list({
            "archives": payloads.archives, "texts": payloads.texts,
            "weights": lambda _: payloads.crafted(metadata),
        }[kind](mark))  # fmt: skip
    for number, (name, content) in enumerate(drafts):
        (folder / f"{number:03d} {name}").write_bytes(content)
    return len(drafts)


LEAST = {"pickles": 55, "archives": 25, "weights": 40, "texts": 10}


@pytest.mark.timed
@pytest.mark.parametrize("kind", LEAST)
def test_payloads(kind, alone, tmp_path, metadata, scoreboard):
    folder, mark = tmp_path / "payloads", tmp_path / "mark"
    folder.mkdir()
    count = written(folder, kind, metadata, mark)
    before = tree(tmp_path)
    found = alone.apply(readers.try_all, (folder,))
    assert not found["wrong"], "\n".join(found["wrong"])
    assert count >= LEAST[kind] and not mark.exists() and tree(tmp_path) - before == {"payloads/work"}
    assert found["growth"] <= 200 and found["seconds"] <= 3, found
    measured = (
        f"{count} files through {len(readers.READERS)} readers; memory grew by {found['growth']:.0f} MB"
    )
    scoreboard(AREA, f"crafted {kind}: refused in one line, nothing run, nothing written", found["tries"],
               measured=f"{measured}, slowest {found['seconds']:.1f} s")  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of files left open
def test_the_payloads_work(tmp_path):
    """Where a tool does unpickle, they leave their mark: else the test above would show nothing."""
    import pickle

    marked = 0
    for number, (name, _) in enumerate(payloads.pickles(tmp_path / "mark")):
        if name not in ("import", "numpy", "subprocess", "deep", "build", "open"):
            mark = tmp_path / f"mark-{number}"
            pickle.loads(dict(payloads.pickles(mark))[name])
            marked += mark.exists()
    assert marked >= 11


def test_arrays_come_back(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.arange(6).reshape(2, 3)),
              "c": np.float32(3), "d": np.zeros((0, 4), "<u2"), "e": np.array(["ä", "b"])}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and found[name].flags.writeable
            np.testing.assert_array_equal(found[name], array)


def test_crafted_archives_give_arrays_or_one_line(tmp_path):
    """As above, where coverage is measured."""
    for name, content in payloads.archives(tmp_path / "mark"):
        (tmp_path / "a.npz").write_bytes(content)
        try:
            read_arrays(tmp_path / "a.npz")
        except ArchiveError as error:
            assert "\n" not in str(error), name
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_crafted_weights_are_refused(tmp_path, metadata, unchecked):
    path, described = tmp_path / "w.safetensors", 0
    for name, content in payloads.crafted(metadata):
        if len(content) < 1_000_000:
            path.write_bytes(content)
            with pytest.raises(ValueError) as caught:
                oh.load(path)
            assert "\n" not in str(caught.value) and str(path) in str(caught.value), name
            described += "is not a weight file" not in str(caught.value)
    assert described > 10


def test_more_weights_than_the_file_holds_are_not_built(tmp_path):
    recipe = oh.RECIPES["tetrominoes"]
    with (
        pytest.raises(ValueError, match="needs more weights than the 10 in the file"),
        no_more_weights_than(10),
    ):
        nn.Linear(2000, 2000)
    with no_more_weights_than(10):
        nn.Linear(3, 3, bias=False)
        with ThreadPoolExecutor(1) as pool:  # another thread's models are not counted
            pool.submit(nn.Linear, 2000, 2000).result()
    nn.Linear(2000, 2000)
    assert oh.load(oh.save(recipe.build_model(), recipe, tmp_path / "w.safetensors")).recipe == recipe


def test_limits_of_archives(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1_000_000))
    assert read_arrays(tmp_path / "a.npz")["a"].shape == (1_000_000,)
    monkeypatch.setattr(archives, "FREE_BYTES", 7_000_000)
    with pytest.raises(ArchiveError, match="unpack to 8000128; at most 200-fold is allowed"):
        read_arrays(tmp_path / "a.npz")
    monkeypatch.setattr(archives, "MAX_BYTES", 8_000_000)
    with pytest.raises(ArchiveError, match="8000128 bytes of arrays; at most 8000000 are allowed"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(ArchiveError, match="cannot be read .No such file"):
        read_arrays(tmp_path / "none.npz")


def test_archives_at_their_limits(tmp_path, monkeypatch):
    """What is just allowed is read: the sizes themselves, and ratios of honest files, however large."""
    path, content = tmp_path / "a.npz", payloads.npy(np.zeros(1000, np.uint8))
    path.write_bytes(payloads.zipped([("a.npy", content)]))
    packed = zipfile.ZipFile(path).getinfo("a.npy").compress_size
    for free, ratio, allowed in (
        (len(content), 0, True),
        (len(content) - 1, 0, False),
        (0, len(content) / packed, True),
        (0, len(content) / packed - 0.01, False),
    ):
        monkeypatch.setattr(archives, "FREE_BYTES", free)
        monkeypatch.setattr(archives, "MAX_RATIO", ratio)
        if allowed:
            assert read_arrays(path)["a"].shape == (1000,)
        else:
            with pytest.raises(ArchiveError, match=f"{packed} bytes that unpack to {len(content)}; at most"):
                read_arrays(path)
    monkeypatch.undo()
    for name, value, told in (("MAX_BYTES", len(content), "bytes of arrays"), ("MAX_ARRAYS", 1, "1 arrays")):
        monkeypatch.setattr(archives, name, value)
        assert read_arrays(path)
        monkeypatch.setattr(archives, name, value - 1)
        with pytest.raises(ArchiveError, match=f"{told}; at most {value - 1} are allowed"):
            read_arrays(path)
        monkeypatch.undo()


def test_what_arrays_in_archives_may_be(tmp_path):
    """Of both versions of the format; but not longer or shorter than they say, and not twice of one name."""
    path, array = tmp_path / "a.npz", np.arange(4, dtype=np.float32)
    for version in ((1, 0), (2, 0)):
        content = payloads.npy_header(payloads.HONEST + "\n", version)[:-64] + array.tobytes()
        path.write_bytes(payloads.zipped([("a.npy", content)]))
        assert read_arrays(path)["a"].tolist() == [0, 1, 2, 3]
        for other in (content + bytes(4), content[:-4]):
            path.write_bytes(payloads.zipped([("a.npy", other)]))
            with pytest.raises(ArchiveError, match="'a.npy' promises 4 values in (20|12) bytes"):
                read_arrays(path)
    path.write_bytes(payloads.zipped([("a.npy", content), ("a.npy", content)]))
    with pytest.raises(ArchiveError, match="two arrays of one name"):
        read_arrays(path)


@given(st.binary(max_size=300), st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_any_bytes_in_an_archive_give_arrays_or_one_line(tmp_path_factory, content, place):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    whole = payloads.zipped([("w.a.0.npy", payloads.npy(np.zeros(4, np.float32)))])
    for changed in (content, whole[:place] + content + whole[place + len(content) :]):
        path.write_bytes(changed)
        try:
            read_arrays(path)
        except ArchiveError as error:
            assert "\n" not in str(error)


def test_another_models_weights_are_told_with_names_and_shapes(tmp_path, scoreboard):
    recipe, cases = oh.RECIPES["tetrominoes"], 0
    state = recipe.build_model().state_dict()
    path = oh.save(recipe.build_model(), recipe, tmp_path / "w.safetensors")
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    first = sorted(state)[0]
    for change, told in (
        ({first: None}, f"{first} is none, expected"),
        ({first: state[first][..., :1].contiguous()}, f"{first} is ["),
        ({first: state[first].bool()}, "torch.bool, expected"),
        ({"more": state[first].clone()}, "more is ["),
        (dict.fromkeys(state), "and "),
    ):
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        padding = {"padding": state[first].new_zeros(sum(tensor.numel() for tensor in state.values()))}
        save_file(changed | padding, tmp_path / "x.safetensors", header["__metadata__"])
        with pytest.raises(ValueError, match="does not fit recipe 'tetrominoes'") as caught:
            oh.load(tmp_path / "x.safetensors")
        assert told in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000
        cases += 1
    scoreboard(AREA, "weights of another model: the first five tensors named, found and expected", cases)


GATES = {
    "pickle": r"\bimport (c?[pP]ickle|dill|joblib|marshal|shelve)\b|allow_pickle=True|torch\.load\b",
    "weights_only": r"weights_only\s*=\s*False",
    "eval": r"(?<![\w.])(eval|exec)\(",
    "shell": r"shell\s*=\s*True|os\.(system|popen)\(",
    "yaml": r"yaml\.(load|unsafe_load|full_load)\(",
    "unpacking": r"extractall\(|unpack_archive\(|\.extract\(",
    "certificates": r"verify\s*=\s*False|_create_unverified_context|CERT_NONE",
}


READS_PICKLES = {("bundle_backbone.py", "pickle"), ("conversion.py", "pickle")}
"""They convert files published as pickles, with `weights_only`; the second is part of the package and is tested
in tests/checkpoint/test_convert.py."""


def test_nothing_dangerous_in_the_source(scoreboard):
    """The source itself is searched: none of this may be written anywhere in the package or its scripts."""
    files = [file for folder in ("objecthood", "runs", "examples") for file in (ROOT / folder).rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}: {what}"
        for file in files
        for what, pattern in GATES.items()
        if re.search(pattern, file.read_text()) and (file.name, what) not in READS_PICKLES
    ]
    assert not found and len(files) > 150
    scoreboard(AREA, "source files without pickle, eval, exec, shell, unsafe YAML or unpacking", len(files))

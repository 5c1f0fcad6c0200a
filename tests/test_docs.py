"""The documentation: its code runs, its commands exist, the site builds strictly and asks no other host."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import afresh
import numpy as np
import pytest
import records
import torch
from PIL import Image
from places import ROOT
from published_sets import COUNTS, write_clevr, write_clevrtex, write_records
from safetensors.torch import save_file
from videos import some_frames, write_video

import objecthood as oh
from objecthood.cli.commands import COMMANDS
from objecthood.cli.data import ACTIONS
from objecthood.cli.main import main
from objecthood.nn import SLOT_MODULES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\S*)[^\n]*\n(?P<code>.*?)^```", re.M | re.S
)
LANGUAGES = {"python", "pycon", "sh", "json", "text", ""}
IN_PROSE = re.compile(r"(?<!`)`objecthood ([^`]+)`")


def blocks(page: Path, language: str) -> list[re.Match]:
    return [match for match in FENCE.finditer(page.read_text()) if match["language"] == language]


# Python.


@pytest.fixture
def workbench(tmp_path, monkeypatch):
    """A folder with what the pages speak of, small; recipes of two steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IMAGES").mkdir()
    for number in range(6):
        picture = Image.new("RGB", (32, 32), (10 * number, 80, 200))
        picture.paste((200, 10 * number, 20), (number, 8, number + 6, 20))
        picture.save(tmp_path / "IMAGES" / f"{number}.png")
    few = {"steps": 2, "evaluate_every": 2, "validation_scenes": 2, "test_scenes": 2, "batch_size": 2}
    for name in ("picture.png", "image.png"):
        (tmp_path / name).write_bytes((tmp_path / "IMAGES" / "3.png").read_bytes())
    for name, recipe in oh.RECIPES.items():
        monkeypatch.setitem(oh.RECIPES, name, replace(recipe, **few))
    return tmp_path


def published_files(folder: Path) -> None:
    """What docs/data.md reads: small files in the layouts of published sets, and shards."""
    for number in range(2):
        with tarfile.open(folder / f"photos-{number:03}.tar", "w") as shard:
            shard.add(folder / "IMAGES" / f"{number}.png", f"{number}.png")
    examples = [records.example(records.scene("clevr_with_masks", seed, 4)[0]) for seed in range(20)]
    write_records(folder / "clevr_with_masks_train.tfrecords", examples)
    for split, counts in (("train", COUNTS), ("val", COUNTS[:3])):
        write_clevr(folder / "CLEVR_v1.0", split, counts)
    write_clevrtex(folder)
    write_clevrtex(folder / "downloads", "outd", 3)
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    Image.new("RGB", (300, 240)).save(folder / "val2017" / "1.png")
    shape = {"segmentation": [[20, 20, 200, 20, 200, 200, 20, 200]], "iscrowd": 0, "category_id": 1}
    facts = {
        "images": [{"id": 1, "file_name": "1.png", "width": 300, "height": 240}],
        "annotations": [{"id": 1, "image_id": 1, **shape}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(facts))


def foreign_weights(folder: Path) -> None:
    """What docs/migrating.md loads: weights of other versions under their names, in their shapes."""
    state = oh.SlotAttention(48, 64).state_dict()
    theirs = {"project_": "to_", "norm_inputs": "norm_input", "norm_mlp": "norm_pre_ff"}
    start = {name: torch.rand(1, 1, 64) for name in ("slots_mu", "slots_log_sigma")}
    save_file(state | start, folder / "untitled-ai.safetensors")
    renamed = {re.sub("|".join(theirs), lambda match: theirs[match[0]], name): state[name] for name in state}
    save_file(renamed | start, folder / "addtt.safetensors")
    shapes = {"project_q": [(64, 64)], "project_k": [(32, 64)], "project_v": [(32, 64)]}
    shapes |= {"norm_inputs": [(32,)] * 2, "norm_slots": [(64,)] * 2, "norm_mlp": [(64,)] * 2}
    shapes |= {"gru": [(64, 192), (64, 192), (2, 192)], "mlp": [(64, 128), (128,), (128, 64), (64,)]}
    shapes |= {"slots_mu": [(1, 1, 64)], "slots_log_sigma": [(1, 1, 64)]}
    keras = {
        f"w.{name}.{index}": np.full(shape, 0.01, np.float32)
        for name, list_of in shapes.items()
        for index, shape in enumerate(list_of)
    }
    np.savez(folder / "slot_attention.npz", **keras)


def moving_weights(folder: Path) -> None:
    """What docs/methods/video.md loads: a video model, not trained."""
    recipe = replace(oh.RECIPES["moving-sprites"], steps=1, batch_size=1, validation_scenes=1, test_scenes=1)
    oh.train(recipe, folder / "runs" / "moving")


def short_clip(folder: Path) -> None:
    """What docs/methods/moving-objects.md and cards of weights for videos read."""
    write_video(folder / "clip.mp4", some_frames(3))


PREPARED = {
    "docs/methods/moving-objects.md": short_clip,
    **{f"docs/weights/{name}.md": short_clip for name, one in oh.PRETRAINED.items() if one.is_video},
    "docs/methods/video.md": moving_weights,
    "docs/data.md": published_files,
    "docs/migrating.md": foreign_weights,
}


@pytest.fixture
def known_modules():
    """Slot modules that a page adds are taken away again, for they would be there in later tests."""
    before = dict(SLOT_MODULES)
    yield
    SLOT_MODULES.clear()
    SLOT_MODULES.update(before)


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(ROOT / name, "python")])
def test_python_runs(name, workbench, known_modules):
    """Blocks of a page one after the other, in one namespace, as a reader would type them."""
    PREPARED.get(name, lambda folder: None)(workbench)
    namespace = {"__name__": "__main__"}
    for block in blocks(ROOT / name, "python"):
        program = compile(block["code"], f"{name}: {block['code'].splitlines()[0]}", "exec")
        if not block["why"]:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(program, namespace)


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(ROOT / name, "pycon")])
def test_sessions_show_what_python_says(name, workbench):
    text = "\n".join(block["code"] for block in blocks(ROOT / name, "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert test.examples and doctest.DocTestRunner().run(test).failed == 0


def test_only_these_blocks_do_not_run():
    """What needs a machine or a program that is not here, and no more."""
    reasons = {block["why"] for page in PAGES for block in FENCE.finditer(page.read_text()) if block["why"]}
    assert reasons <= {
        "needs a GPU",
        "needs TensorFlow and the official code",
        "needs their checkpoints",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_of_a_kind_that_is_checked(name):
    text = (ROOT / name).read_text()
    assert {match["language"] for match in FENCE.finditer(text)} <= LANGUAGES
    assert [json.loads(block["code"]) for block in blocks(ROOT / name, "json")] != [{}]
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a block is not closed, or is indented"


# Shell.


def commands(code: str) -> list[list[str]]:
    """The words of every command of a block: continued lines joined, comments left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture(scope="module")
def help_of():
    """The help of `objecthood` and these words, asked once."""
    known: dict[tuple[str, ...], str] = {}

    def ask(*words: str) -> str:
        if words not in known:
            said = io.StringIO()
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
                patch.setenv("COLUMNS", "200")
                assert main([*words, "--help"]) == 0
            known[words] = said.getvalue()
        return known[words]

    return ask


def check_objecthood(words: list[str], help_of) -> None:
    """Verb, action, recipe and every --option of a command exist."""
    verb, *rest = words
    if verb in ("--help", "--version", "COMMAND") or verb.startswith("$"):
        return
    assert verb in COMMANDS, f"objecthood has no {verb!r}"
    asked = [verb]
    if verb == "data" and rest:
        assert rest[0] in ACTIONS, f"data has no action {rest[0]!r}"
        asked.append(rest[0])
    name = rest[0] if verb in ("train", "sweep") and rest else "NAME"
    if name != "NAME" and not name.startswith(("-", "$")) and not name.endswith(".py"):
        assert name in oh.RECIPES, f"no recipe {name!r}"
        asked.append(name)
    help_text = help_of(*asked)
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        known = rf"(?<![\w-]){re.escape(option)}(?![\w-])"
        negative = option.replace("--no-", "--", 1)
        assert (
            option in ("--help", "--debug")
            or re.search(known, help_text)
            or f"no-{negative[2:]}" in help_text
        ), f"objecthood {' '.join(asked)} has no {option}"


def check_command(words: list[str], help_of) -> None:
    """That what a line of a page calls is there."""
    if "objecthood" in words and words[0] != "pip":
        return check_objecthood(words[words.index("objecthood") + 1 :], help_of)
    program, *rest = words
    program = Path(program).name
    if program == "make":
        targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "python" and rest[0] != "-m":
        text = (ROOT / rest[0]).read_text()
        assert all(word.partition("=")[0] in text for word in rest if word.startswith("--")), words
    elif program == "pip":
        assert rest[0] == "install"
        extras = set(re.findall(r"\[([\w,-]+)\]", " ".join(rest)))
        known = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
        assert {one for extra in extras for one in extra.split(",")} <= set(known)
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if word.endswith(".py"))
    else:
        assert program in ("apt-get", "python", "sbatch"), f"what is {program}?"


@pytest.mark.parametrize("name", [name for name in NAMES if blocks(ROOT / name, "sh")])
def test_commands_exist(name, help_of):
    for block in blocks(ROOT / name, "sh"):
        if block["code"].startswith("#!"):
            subprocess.run(["bash", "-n"], input=block["code"], text=True, check=True)
            for words in re.findall(r"\bobjecthood +([^\n;]+)", block["code"]):
                check_objecthood(words.split(), help_of)
        else:
            for words in commands(block["code"]):
                check_command(words, help_of)


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_prose_exist(name, help_of):
    for words in IN_PROSE.findall(FENCE.sub("", (ROOT / name).read_text())):
        check_objecthood(words.replace("\n", " ").split(), help_of)


@pytest.mark.parametrize(
    "line",
    ["objecthood trian sprites", "objecthood train sprites --slot 3", "objecthood data mke", "make nothing"],
)
def test_wrong_commands_would_be_seen(line, help_of):
    with pytest.raises(AssertionError):
        check_command(shlex.split(line), help_of)


# Pages that are made.


@pytest.mark.parametrize("script", ["metric_examples.py"])
def test_made_pages_are_up_to_date(script):
    path = ROOT / "runs" / "pages" / script
    code = f"import runpy; print(runpy.run_path({str(path)!r})['main']())"
    assert afresh.run(code, ROOT, {}, ("--check",)).strip() == "0"


def test_features_name_their_tests():
    """A feature that is there, in part or whole, names tests; that the files exist is a test of links."""
    rows = re.findall(
        r"^\| .+ \| (done|partly|not) \| (.*?) \|", (ROOT / "docs" / "features.md").read_text(), re.M
    )
    assert rows and all(tests for state, tests in rows if state != "not")


def test_nothing_connects(workbench, monkeypatch):
    """Training, scoring and looking at images ask no address and open no connection."""

    def refuse(*_, **__):
        raise AssertionError("something asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["predict"]) == 0  # weights and image of the package
    assert main(["train", "sprites", "--out", "run", "--precision", "float32"]) == 0
    assert main(["evaluate", "run", "--diagnose"]) == 0
    assert main(["predict", "IMAGES/3.png", "--weights", "run", "--out", "found"]) == 0


# The site.


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}


class Html(HTMLParser):
    """What a page names: anchors, what it loads, where it leads."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev", "edit"):
            return
        for key in ("src", "href", "data"):
            if given.get(key):
                (self.leads if tag == "a" else self.loads).append(given[key])


@cache
def parsed(page: Path) -> Html:
    """A page of the site, read once."""
    return Html(page)


alone = pytest.mark.xdist_group("site")  # which is built once


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@alone
def test_site_asks_no_other_host(site):
    for page in site.rglob("*.html"):
        assert [url for url in parsed(page).loads if urlsplit(url).netloc] == [], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style


@alone
def test_links_and_anchors_of_the_site_lead_somewhere(site):
    pages = {path: parsed(path) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, page in pages.items():
        for url in page.loads + page.leads:
            link, anchor = urldefrag(url)
            if urlsplit(link).netloc or urlsplit(link).scheme:
                continue
            target = (path.parent / unquote(urlsplit(link).path)).resolve() if link else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name} leads to {url}"
            if anchor and target in pages and not anchor.startswith("__"):
                assert unquote(anchor) in pages[target].anchors, f"{path.name} leads to {url}"


@alone
def test_every_page_is_in_the_menu_and_every_image_in_use(site):
    text = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in text] == []
    words = "".join(page.read_text() for page in PAGES)
    pictures = [
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "images").rglob("*.*")
    ]
    assert [picture for picture in pictures if picture not in words] == []


@alone
def test_public_names_are_in_the_api(site):
    text = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    classes = {"PRETRAINED", "RECIPES", "SlotAttention", "SlotAutoencoder"}
    for name in set(oh.__all__) - classes - set(oh._MODULES):
        where = getattr(oh, name)
        assert f'id="{where.__module__}.{where.__name__}"' in text, f"{name} is public and not on an API page"
    assert 'id="objecthood.nn.slot_attention.SlotAttention"' in text

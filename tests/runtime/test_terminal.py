"""Names of others do not steer the terminal: what is printed holds no control characters but line breaks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from corpus import PICTURE, encode
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

import objecthood as oh
from objecthood.cli import main
from objecthood.runtime.terminal import console, echo, printable

CLEAR, TITLE = "\x1b[2J", "\x1b]0;title\x07"
PACKAGE = Path(oh.__file__).parent
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫 \U0001f600\n\tb", "plain é 猫 \U0001f600\n\tb"), (CLEAR, r"\x1b[2J"),
        (TITLE, r"\x1b]0;title\x07"), ("a\rb", r"a\rb"), ("\x9b2J", r"\x9b2J"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("a\u2028b", r"a\u2028b"), ("\ud800", r"\ud800"), ("a\x00\x7f", r"a\x00\x7f"),
        ("\u00ad\u200d", "\u00ad\u200d"),
    ],
)  # fmt: skip
def test_printable(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_nothing_steers(text):
    shown = printable(text)
    assert not STEERING.search(shown) and isinstance(shown.encode(), bytes)
    assert printable(shown) == shown


def test_lines_and_tables(capsys):
    echo(f"{CLEAR}\nb")
    table = Table("name", title=f"t{CLEAR}")
    table.add_row(TITLE)
    console(markup=False, width=80).print(table, TITLE)
    printed = capsys.readouterr().out
    assert not STEERING.search(printed) and printed.count(r"\x1b]0;title\x07") == 2


@pytest.mark.parametrize("name", [f"a{CLEAR}b.png", f"{TITLE}.png", "a\rb.png", "\u202egnp.exe"])
def test_names_of_files(name, tmp_path, monkeypatch, capsys):
    """Of what is read, skipped, written, or not there."""
    monkeypatch.chdir(tmp_path)
    folder = Path("k")
    folder.mkdir()
    (folder / name).with_suffix(".png").write_bytes(encode(np.resize(PICTURE, (35, 35, 3)), "PNG"))
    (folder / f"{name}x.png").write_bytes(b"no image")
    assert main.main(["predict", "k", "--weights", "tetrominoes", "--out", f"o{name}", "--skip-bad"]) == 1
    assert main.main(["predict", name]) == 1
    assert main.main([name]) == 2
    assert main.main(["train", "--resume", name]) in (1, 2)
    printed = "".join(capsys.readouterr())
    assert not STEERING.search(printed) and len(re.findall(r"\\x1b|\\r|\\u202e", printed)) >= 6


def test_commands_print_through_the_gate():
    """`print` itself is left to texts of our own: help, completion, version, JSON (which escapes)."""
    ours = {"cli.py": 4, "completion_command.py": 1, "list_commands.py": 1, "terminal.py": 1}
    found = {
        file.name: count
        for file in PACKAGE.glob("*.py")
        if (count := len(re.findall(r"(?<![\w.])print\(", file.read_text())))
    }
    assert {name: count for name, count in found.items() if count > ours.get(name, 0)} == {}

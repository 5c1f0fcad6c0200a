"""Do the tests of the core notice when its code is changed? Small changes, one at a time, each tested anew.

A change that no test notices is one that nothing keeps from happening. As mutmut and Cosmic Ray do, but each
change lives in a fork alone, so that no file is touched and PyTorch is imported once.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from dying import begin, ended, needs_fork
from places import ROOT

TESTED = {
    "checkpoint/run.py": (
        ["checkpoint/test_checkpoint.py", "checkpoint/test_full_disks.py", "test_strangers.py"],
        "(checkpoint or full_disks or weights) and not payloads and not same_file and not flipped"
        " and not two_runs and not goes_away and not torn_file",
    ),
    "data/io/images.py": (["data/test_images.py", "data/test_user_images.py"], ""),
    "data/io/archives.py": (["test_strangers.py"], "(arrays or archives) and not payloads"),
    "data/loader.py": (["data/test_loader.py"], ""),
}
"""Each file with the tests that are quick and look at it, and which of these (pytest's -k)."""
SAMPLE = int(os.environ.get("MUTANTS", "20"))
"""Changes tried of each file; 0 for all."""
LEAST = 0.85
SECONDS = 120
"""A change that makes the tests go on for ever has been noticed."""
SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or,
    ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.USub: ast.UAdd,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that do something: no annotations, no docstrings, no list of names, nothing that is only said."""
    if isinstance(tree, ast.Assign) and ast.unparse(tree.targets[0]) == "__all__":
        return
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "exc") or isinstance(tree, ast.JoinedStr):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not is_text(node):
                yield node
                yield from places(node)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changed(node: ast.AST) -> ast.AST | None:
    """Another node in its place, or None where nothing is changed here."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare):
        new.ops[0] = SWAPPED[type(new.ops[0])]()
    elif isinstance(new, ast.BoolOp | ast.BinOp | ast.UnaryOp) and type(new.op) in SWAPPED:
        new.op = SWAPPED[type(new.op)]()
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not):
        return new.operand
    elif isinstance(new, ast.If | ast.IfExp | ast.While):
        new.test = ast.UnaryOp(ast.Not(), new.test)
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool | int | float):
        new.value = not new.value if isinstance(new.value, bool) else new.value + 1
    elif isinstance(new, ast.Constant) and isinstance(new.value, str | bytes):
        new.value = new.value + type(new.value)(b"?" if isinstance(new.value, bytes) else "?")
    elif isinstance(new, ast.Expr | ast.Raise | ast.Continue) and not isinstance(
        getattr(new, "value", 0), ast.Yield | ast.Await
    ):
        return ast.Pass()
    elif isinstance(new, ast.Return) and new.value is not None:
        new.value = ast.Constant(None)
    else:
        return None
    return new


class Put(ast.NodeTransformer):
    """Another node in the place of one."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.copy_location(self.new, node) if node is self.old else self.generic_visit(node)


def mutants(source: str) -> list[tuple[str, bytes]]:
    """What is changed, and the source with that change."""
    found = []
    for number in range(len(list(places(ast.parse(source))))):
        tree = ast.parse(source)
        node = list(places(tree))[number]
        new = changed(node)
        if new is not None:
            said = f"line {node.lineno}: {ast.unparse(node):.70} -> {ast.unparse(new):.70}".replace("\n", " ")
            whole = ast.fix_missing_locations(Put(node, new).visit(tree))
            found.append((said, ast.unparse(whole).encode()))
    return found


def as_if(file: Path, content: bytes, names: list[str], chosen: str) -> None:
    """In this fork, `file` has another content; pytest's verdict is how the process ends."""
    read, stats = SourceFileLoader.get_data, SourceFileLoader.path_stats
    here = str(file)
    SourceFileLoader.get_data = lambda self, path: content if path == here else read(self, path)
    SourceFileLoader.path_stats = lambda self, path: {"mtime": 1} if path == here else stats(self, path)
    sys.dont_write_bytecode = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    with tempfile.TemporaryDirectory() as folder:
        options = ["-x", "-n0", "-p", "no:cacheprovider", "--basetemp", f"{folder}/t", "-k", chosen]
        code = pytest.main([*options, *(str(ROOT / "tests" / name) for name in names)])
    os._exit(code)


def try_all(name: str, sample: int) -> dict[str, object]:
    """How many changes of a file were tried and noticed, and which were not."""
    for module in (
        "torch",
        "numpy",
        "scipy.optimize",
        "PIL.Image",
        "safetensors.torch",
        "beartype",
    ):
        import_module(module)  # once, before the forks
    file = ROOT / "objecthood" / name
    names, chosen = TESTED[name]
    assert ended(begin(lambda: as_if(file, file.read_bytes(), names, chosen)), 300) == 0, "fails unchanged"
    found = mutants(file.read_text())
    if sample:
        found = random.Random(0).sample(found, min(sample, len(found)))
    unnoticed = []
    for said, content in found:
        code: int | None = None
        with contextlib.suppress(AssertionError):
            code = ended(begin(lambda content=content: as_if(file, content, names, chosen)), SECONDS)
        if code == 0:
            unnoticed.append(said)
    return {"tried": len(found), "unnoticed": unnoticed}


@needs_fork
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TESTED)
def test_changes_are_noticed(name, scoreboard):
    command = [sys.executable, __file__, name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    noticed = found["tried"] - len(found["unnoticed"])
    assert noticed >= LEAST * found["tried"], "\n".join(found["unnoticed"])
    what = f"small changes of `{name}`: its tests notice at least {LEAST:.0%}"
    scoreboard("The tests themselves", what, 1, measured=f"{noticed} of {found['tried']} noticed")


if __name__ == "__main__":
    print(json.dumps(try_all(sys.argv[1], SAMPLE), indent=1))

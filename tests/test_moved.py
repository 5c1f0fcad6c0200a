"""Module paths of version 0.1 still import, once with a warning, and give the very same modules."""

import importlib
import subprocess
import sys

import pytest

import objecthood as oh
from objecthood._moved import MOVED


@pytest.mark.parametrize("old", sorted(set(MOVED) - {"benchmark_command", "completion_command"}))
def test_old_paths_give_the_new_module(old, recwarn):
    sys.modules.pop(f"objecthood.{old}", None)
    new = importlib.import_module(f"objecthood.{MOVED[old]}")
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"objecthood.{old} is now objecthood.{MOVED[old]}"):
        assert importlib.import_module(f"objecthood.{old}") is new
    assert new.__spec__ is spec and new.__name__ == f"objecthood.{MOVED[old]}"


def test_the_warning_names_the_line_that_imports(tmp_path):
    script = tmp_path / "theirs.py"
    script.write_text("import objecthood\n\nfrom objecthood.data.sprites import Sprites\n")
    done = subprocess.run(
        [sys.executable, "-W", "always", str(script)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(oh.__path__[0] + "/..")},
    )
    assert done.returncode == 0
    assert f"{script}:3: DeprecationWarning: objecthood.data.sprites is now" in done.stderr


def test_functions_stay_functions_when_their_old_module_is_imported():
    sys.modules.pop("objecthood.predict", None)
    with pytest.warns(DeprecationWarning):
        importlib.import_module("objecthood.predict")
    assert callable(oh.predict) and oh.predict.__module__ == "objecthood.inference.predict"


def test_other_names_are_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("objecthood.pictures")

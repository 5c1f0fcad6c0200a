"""The stairs of the house: who may import whom, what stays out, how large a room may be."""

import ast
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import objecthood

PACKAGE = Path(objecthood.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
STANDARD = sys.stdlib_module_names


def module_name(path: Path) -> str:
    parts = ["objecthood", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, at_import: bool = False) -> set[str]:
    """Modules that a file imports, in full; with `at_import` only what runs when the file is imported."""
    found, waiting = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_import and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)
        ):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name modules in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        waiting += ast.iter_child_nodes(node)
    return found


def ours(name: str) -> set[str]:
    return {module for module in imports(MODULES[name]) if module.split(".")[0] == "objecthood"}


def foreign(name: str) -> set[str]:
    tops = {module.split(".")[0] for module in imports(MODULES[name])}
    return tops - {"objecthood", "__future__"} - set(STANDARD)


def within(folder: str) -> list[str]:
    return [name for name in MODULES if name == folder or name.startswith(folder + ".")]


def is_under(module: str, folder: str) -> bool:
    return module == folder or module.startswith(folder + ".")


def only(modules: set[str], *allowed: str) -> set[str]:
    """Those of `modules` that lie in none of the allowed places."""
    return {module for module in modules if not any(is_under(module, place) for place in allowed)}


@pytest.mark.parametrize("name", within("objecthood.nn"))
def test_ideas_stand_on_torch_alone(name):
    assert not only(ours(name), "objecthood.nn")
    kernels = ("objecthood.nn.kernels", "objecthood.nn.fused_attention", "objecthood.nn.fused_mixture")
    triton = {"triton"} if name in kernels else set()
    files = {"safetensors"} if name == "objecthood.nn.backbones" else set()
    assert foreign(name) <= {"torch", "jaxtyping", "scipy", "numpy"} | triton | files


@pytest.mark.parametrize("name", within("objecthood.models"))
def test_papers_stand_on_ideas_alone(name):
    allowed = ["objecthood.models"] if name == "objecthood.models" else []
    assert not only(ours(name), "objecthood.nn", *allowed), "models import no other model"
    assert foreign(name) <= {"torch", "jaxtyping"}


def is_dataset(name: str) -> bool:
    """Whether a module defines a class that inherits one of the base classes of `data.scene`."""
    classes = [node for node in ast.parse(MODULES[name].read_text()).body if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    return name != "objecthood.data.scene" and bool(bases & {"Dataset", "EndlessDataset"})


@pytest.mark.parametrize("name", within("objecthood.data"))
def test_scenes_know_no_models(name):
    assert not only(ours(name), "objecthood.data", "objecthood.rle", "objecthood.limits")


def test_datasets_do_not_know_each_other():
    data = [name for name in within("objecthood.data") if name != "objecthood.data"]
    datasets = {name for name in data if is_dataset(name)}
    assert datasets >= {f"objecthood.data.{name}" for name in ("tetrominoes", "sprites", "folder")}
    helpers = {f"objecthood.data.{name}" for name in ("randomness", "scene", "images", "loader")}
    assert not datasets & helpers
    for name in data:
        assert not ours(name) & (datasets - {name}), f"{name} imports a data set"


@pytest.mark.parametrize("name", within("objecthood.recipes"))
def test_recipes_do_not_know_each_other(name):
    if name != "objecthood.recipes":
        assert not only(
            ours(name) & set(within("objecthood.recipes")),
            "objecthood.recipes.base",
            "objecthood.recipes.sources",
            "objecthood.recipes.clips",
            *(["objecthood.recipes.discovery"] if name == "objecthood.recipes.ablations" else []),
        )
    upstairs = {"objecthood.train", "objecthood.evaluate", "objecthood.cli", "objecthood.commands"}
    assert not ours(name) & (upstairs | {"objecthood.checkpoint", "objecthood.report", "objecthood.predict"})


@pytest.mark.parametrize("name", ["metrics", "losses", "visualize", "animate", "diagnostics"])
def test_functions_of_tensors_stand_on_torch(name):
    above = {"animate": ["objecthood.visualize"], "diagnostics": ["objecthood.metrics"]}.get(name, [])
    assert not only(ours(f"objecthood.{name}"), "objecthood.nn.matching", "objecthood.nn.positions", *above)
    picture = {"PIL"} if name in ("visualize", "animate") else set()
    assert foreign(f"objecthood.{name}") <= {"torch", "jaxtyping", "numpy"} | picture


def test_the_loop_names_no_model_data_set_or_metric():
    modules = ours("objecthood.train")
    unnamed = ("nn", "models", "metrics", "losses", "recipes.discovery")
    assert not [module for module in modules for part in unnamed if is_under(module, f"objecthood.{part}")]
    assert {module for module in modules if is_under(module, "objecthood.data")} <= {
        *("objecthood.data.loader", "objecthood.data.scene"),
    }
    text = MODULES["objecthood.train"].read_text().lower()
    for word in ("tetromino", "sprite", "clevr", "autoencoder", "slot", "ari", "masks"):
        assert not re.search(rf"\b{word}", text), f"train.py says {word!r}"


def test_nobody_below_imports_the_stairs_above():
    floors = ["nn", "models", "recipes", "train", "cli"]
    for height, floor in enumerate(floors):
        for name in within(f"objecthood.{floor}"):
            above = [f"objecthood.{upper}" for upper in floors[height + 1 :]]
            assert not {module for module in ours(name) if any(is_under(module, upper) for upper in above)}


def test_no_module_imports_itself_in_a_circle():
    """What runs when modules are imported has an order; imports inside functions may go anywhere."""
    edges = {
        name: {m for m in imports(path, at_import=True) if m in MODULES} for name, path in MODULES.items()
    }
    done, coming = set(), []

    def visit(name):
        assert name not in coming, f"circle: {' -> '.join([*coming, name])}"
        if name in done:
            return
        coming.append(name)
        for other in edges[name] - {name, "objecthood"}:
            visit(other)
        coming.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


HEAVY = ("torch", "numpy", "PIL", "scipy", "tyro", "rich", "safetensors")


@pytest.mark.parametrize("name", ["objecthood", "objecthood.cli"])
def test_the_command_answers_before_anything_heavy_is_imported(name, tmp_path):
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PYTHONWARNINGS": "error"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_public_names_are_few_and_there():
    assert len(set(objecthood.__all__) - set(objecthood._MODULES)) <= 15
    for name in objecthood.__all__:
        assert getattr(objecthood, name) is not None
    with pytest.raises(AttributeError, match="no 'trane'; public names are"):
        objecthood.trane  # noqa: B018


def test_public_names_are_listed_for_tab_completion():
    assert dir(objecthood) == sorted([*objecthood.__all__, "__version__"])
    names: dict[str, object] = {}
    exec("from objecthood import *", names)
    assert names.keys() - {"__builtins__"} == set(objecthood.__all__)


def test_a_function_and_its_module_may_share_a_name():
    import objecthood.evaluate
    import objecthood.train

    assert callable(objecthood.train) and callable(objecthood.evaluate)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    module = ast.parse(text)
    assert ast.get_docstring(module), "every file begins with a sentence on what it is"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} is public and says nothing"


FORBIDDEN = {
    "pickle": r"^\s*(import|from) (pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)\b",
    "torch.load": r"\btorch\.load\(",
    "arrays of objects": r"allow_pickle\s*=\s*True",
    "weights that run": r"weights_only\s*=\s*False",
    "loose ends": r"\b(TODO|FIXME|XXX)\b",
    "torchvision": r"\btorchvision\b",
    "shell": r"\bos\.system\(|shell\s*=\s*True",
}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_hold_nothing_forbidden(path):
    text = path.read_text(encoding="utf-8")
    for what, pattern in FORBIDDEN.items():
        assert not re.search(pattern, text, re.MULTILINE), f"{path} holds {what}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"{path}:{node.lineno} runs text"


def test_few_packages_come_with_it():
    """All that `pip install objecthood` brings, at any depth, beside torch and what it brings."""
    brought = needed_by("objecthood") - needed_by("torch") - {"torch", "numpy"}
    assert {"safetensors", "wadler-lindig"} <= brought, "direct ones, and those that others need"
    assert len(brought) <= 15, sorted(brought)


def needed_by(package: str) -> set[str]:
    found: set[str] = set()
    waiting = [package]
    while waiting:
        for requirement in map(Requirement, requires(waiting.pop()) or []):
            name = canonicalize_name(requirement.name)
            if name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
                found.add(name)
                waiting.append(name)
    return found

"""The stairs of the house: who may import whom, what stays out, how large a room may be."""

import ast
import re
import subprocess
import sys
from functools import cache
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


@cache
def tree(path: Path) -> ast.Module:
    """A file, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@cache
def imports(path: Path, at_import: bool = False) -> frozenset[str]:
    """Modules that a file imports, in full; with `at_import` only what runs when the file is imported."""
    found, waiting = set(), [tree(path)]
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
    return frozenset(found)


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
    assert not only(ours(name), "objecthood.nn", OLD_NAMES)
    files = {"safetensors"} if name in ("objecthood.nn.backbones", "objecthood.nn.objectness") else set()
    if name == "objecthood.nn.vit_backbones":
        files = {"transformers", "timm", "huggingface_hub"}
        assert not imports(MODULES[name], at_import=True) & files, "extras are imported where they are used"
    assert foreign(name) <= {"torch", "jaxtyping", "scipy", "numpy", "threadpoolctl"} | files


@pytest.mark.parametrize("name", within("objecthood.models"))
def test_papers_stand_on_ideas_alone(name):
    allowed = ["objecthood.models"] if name == "objecthood.models" else [*CONTRACT]
    assert not only(ours(name), "objecthood.nn", OLD_NAMES, *allowed), "models import no other model"
    assert foreign(name) <= {"torch", "jaxtyping", "numpy"} | ({"PIL"} if name in CONTRACT else set())


OLD_NAMES = "objecthood.runtime.renamed"
"""Any room may take it, and it takes none."""
CONTRACT = tuple(
    f"objecthood.models.{name}" for name in ("base", "of_features", "of_photographs", "placement")
)
BUILDERS = ("objecthood.models", "objecthood.recipes", "objecthood.checkpoint.reference")


def type_tests(text: str) -> list[str]:
    """Where a module asks whether something is of a class of `objecthood.models` other than the contract."""
    module = ast.parse(text)
    modules, classes = set(), set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and is_under(node.module or "", "objecthood.models"):
            for alias in node.names:
                is_module = f"{node.module}.{alias.name}" in MODULES
                if node.module not in CONTRACT and alias.name not in ("SlotModel", "SlotOutput"):
                    (modules if is_module else classes).add(alias.asname or alias.name)

    def is_class(node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            return owner in modules or (owner == "models" and node.attr != "SlotModel")
        return isinstance(node, ast.Name) and node.id in classes

    found = []
    for node in ast.walk(module):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            asked = [*ast.walk(node.args[1])]
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        found += [f"line {node.lineno}: {ast.unparse(part)}" for part in asked if is_class(part)]
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if not is_under(name, "objecthood.models")])
def test_models_are_known_by_their_contract_alone(name):
    assert not type_tests(MODULES[name].read_text()), "ask a member of SlotModel, not for a class"
    concrete = only({m for m in ours(name) if is_under(m, "objecthood.models")}, *CONTRACT)
    if not any(is_under(name, place) for place in BUILDERS):
        assert concrete <= {"objecthood.models"}, f"{name} imports a concrete model"


@pytest.mark.parametrize(
    "text",
    [
        "from objecthood.models import SlotVideo as V\nisinstance(x, V | int)",
        "from objecthood.models.autoencoder import SlotAutoencoder\nisinstance(x, (int, SlotAutoencoder))",
        "from objecthood.models import video\nissubclass(x, video.SlotVideo)",
        "import objecthood as oh\nisinstance(x, oh.models.SlotVideo)",
        "from objecthood.models.set_predictor import SetPredictor\ntype(x) is SetPredictor",
        "from objecthood.models import SlotVideo\nmatch x:\n    case SlotVideo():\n        pass",
    ],
)
def test_a_type_test_is_found(text):
    assert len(type_tests(text)) == 1
    assert not type_tests("from objecthood.models import SlotModel\nisinstance(x, SlotModel)")


def is_dataset(name: str) -> bool:
    """Whether a module defines a class that inherits one of the base classes of `data.scene`."""
    classes = [node for node in tree(MODULES[name]).body if isinstance(node, ast.ClassDef)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    return name != "objecthood.data.scene" and bool(bases & {"Dataset", "EndlessDataset", "DecodedDataset"})


@pytest.mark.parametrize("name", within("objecthood.data"))
def test_scenes_know_no_models(name):
    runtime = ("objecthood.runtime.limits", "objecthood.runtime.files", "objecthood.runtime.signals")
    assert not only(ours(name), "objecthood.data", *runtime)


def test_datasets_do_not_know_each_other():
    data = within("objecthood.data")
    datasets = {name for name in data if is_dataset(name)}
    assert datasets >= {
        f"objecthood.data.{name}" for name in ("generated.tetrominoes", "folder", "published.coco")
    }
    assert not any(is_under(name, "objecthood.data.io") for name in datasets)
    for name in data:
        assert not ours(name) & (datasets - {name}), f"{name} imports a data set"


OF_CONVERTED = ("objecthood.recipes.features", "objecthood.recipes.feature_video")
"""Recipes whose published weights are converted."""
VARIANTS = tuple(f"objecthood.recipes.{name}" for name in ("ablations", "center_votes", "textures"))
"""Recipes that are object discovery with another model."""


@pytest.mark.parametrize("name", within("objecthood.recipes"))
def test_recipes_do_not_know_each_other(name):
    if name != "objecthood.recipes":
        assert not only(
            ours(name) & set(within("objecthood.recipes")),
            "objecthood.recipes.base",
            "objecthood.recipes.sources",
            "objecthood.recipes.clips",
            "objecthood.recipes.known_features",
            "objecthood.recipes.over_features",
            *(OF_CONVERTED if name == "objecthood.recipes.converted" else []),
            *(["objecthood.recipes.discovery"] if name in VARIANTS else []),
        )
    upstairs = ("train", "evaluate", "cli", "checkpoint", "training", "inference", "analysis")
    assert ours(name) == only(ours(name), *(f"objecthood.{room}" for room in upstairs))


@pytest.mark.parametrize("name", ["metrics", "losses", "visualize.figures", "visualize.animation"])
def test_functions_of_tensors_stand_on_torch(name):
    assert not only(
        ours(f"objecthood.{name}"), "objecthood.nn.matching", "objecthood.visualize.figures", OLD_NAMES
    )
    image = {"PIL"} if name.startswith("visualize") else set()
    assert foreign(f"objecthood.{name}") <= {"torch", "jaxtyping", "numpy"} | image


def test_the_loop_names_no_model_data_set_or_metric():
    modules = ours("objecthood.train")
    unnamed = ("nn", "models", "metrics", "losses", "recipes.discovery")
    assert not [module for module in modules for part in unnamed if is_under(module, f"objecthood.{part}")]
    assert {module for module in modules if is_under(module, "objecthood.data")} <= {
        *("objecthood.data.loader", "objecthood.data.scene"),
    }


STAIRS = (
    ("runtime", "nn"),
    ("models", "data", "metrics", "losses"),
    ("motion", "export"),
    ("visualize",),
    ("recipes",),
    ("checkpoint", "evaluate"),
    ("training", "analysis", "hub"),
    ("train",),
    ("inference", "benchmarks"),
    ("demo",),
    ("cli",),
)
"""Rooms of the package, from the ground up: nothing imports from a stair above its own."""


def room(name: str) -> str:
    """The first part of a module's name after `objecthood`; the package itself is none."""
    return name.split(".")[1] if "." in name else ""


def arrows() -> set[tuple[str, str]]:
    """Which room imports which, imports within functions and for types included."""
    pairs = {(room(name), room(other)) for name in MODULES for other in ours(name) if other in MODULES}
    return {(one, other) for one, other in pairs if one != other and "" not in (one, other)}


def test_rooms_stand_on_rooms_below():
    height = {name: stair for stair, names in enumerate(STAIRS) for name in names}
    known = {room(name) for name in MODULES} - {"", "__main__", "_moved"}
    assert known == set(height), "a new room belongs on a stair"
    climbing = {(one, other) for one, other in arrows() if one in height and height[other] > height[one]}
    assert climbing <= {("hub", "inference")}, "push_to_hub draws what the weights see in an image"


def test_few_doors_between_rooms():
    assert len(arrows()) <= 110


def test_few_files_lie_in_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_no_circle_of_imports():
    """Imports within functions and for types alone included."""
    edges = {name: {other for other in ours(name) if other in MODULES} for name in MODULES}
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


@pytest.mark.parametrize("name", ["objecthood", "objecthood.cli.main"])
def test_the_command_answers_before_anything_heavy_is_imported(name, tmp_path):
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PYTHONWARNINGS": "error"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_recipes_and_models_do_not_wait_for_scipy(tmp_path):
    """A third of a second of every start; what needs it imports it."""
    code = "import sys, objecthood.recipes; print('scipy' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert run.stdout.strip() == "False", run.stderr


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
    module = tree(path)
    assert ast.get_docstring(module), "every file begins with a sentence on what it is"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} is public and says nothing"


FORBIDDEN = {
    "pickle": r"^\s*(import|from) (pickle|cPickle|dill|cloudpickle|joblib|marshal|shelve)\b",
    "torch.load": r"\btorch\.load\((?!path, map_location=\"cpu\", weights_only=True\))",
    "arrays of objects": r"allow_pickle\s*=\s*True",
    "weights that run": r"weights_only\s*=\s*False",
    "loose ends": r"\b(TODO|FIXME|XXX)\b",
    "torchvision": r"\btorchvision\b",
    "shell": r"\bos\.system\(|shell\s*=\s*True",
}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_hold_nothing_forbidden(path):
    text = path.read_text(encoding="utf-8")
    if path.name != "conversion.py":  # the one place that reads published checkpoints, without running them
        assert "torch.load(" not in text
    for what, pattern in FORBIDDEN.items():
        assert not re.search(pattern, text, re.MULTILINE), f"{path} holds {what}"
    for node in ast.walk(tree(path)):
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

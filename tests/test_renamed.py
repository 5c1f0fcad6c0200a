"""What was stored or written under the names of version 0.1 still works."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import objecthood as oh
from objecthood.checkpoint import run as run_folder
from objecthood.cli.main import main
from objecthood.runtime import renamed
from objecthood.train import prepare_folder


@pytest.mark.parametrize("old", renamed.FIELDS)
def test_a_recipe_takes_each_old_field_and_shows_it(old):
    new = renamed.FIELDS[old]
    recipe = next(one for one in oh.RECIPES.values() if new in {f.name for f in dataclasses.fields(one)})
    stored = {renamed_back(name): value for name, value in recipe.to_dict().items()}
    assert old in stored and oh.recipes.from_dict(stored) == recipe
    with pytest.warns(DeprecationWarning, match=f"`{old}` is now `{new}`"):
        assert getattr(recipe, old) == getattr(recipe, new)


def renamed_back(name: str) -> str:
    return {new: old for old, new in renamed.FIELDS.items()}.get(name, name)


def test_replace_takes_an_old_field_over_the_new_one():
    assert dataclasses.replace(oh.RECIPES["sprites"], starts=3).restarts == 3


def test_a_recipe_of_ones_own_keeps_fields_of_old_names():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(oh.recipes.Discovery):
        light: float = 0.5

    mine = Mine(name="x", data="sprites", resolution=16, num_slots=2, steps=1, light=0.25)
    assert mine.light == 0.25
    with pytest.raises(AttributeError, match="no attribute 'mirror'"):
        mine.mirror  # noqa: B018


def test_a_run_folder_with_old_names_is_resumed(tmp_path):
    recipe = oh.RECIPES["sprites"]
    stored = {renamed_back(name): value for name, value in recipe.to_dict().items()}
    (tmp_path / "recipe.json").write_text(json.dumps(stored | {"task": "GuidedDiscovery"}))
    prepare_folder(tmp_path, recipe, resume=True)
    with pytest.raises(ValueError, match="other settings"):
        prepare_folder(tmp_path, dataclasses.replace(recipe, spatial_bias=2.0), resume=True)


@pytest.mark.parametrize("module", renamed.ATTRIBUTES)
def test_old_attributes_are_the_new_ones_with_a_warning(module):
    found = importlib.import_module(module)
    for old, new in renamed.ATTRIBUTES[module].items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}"):
            assert getattr(found, old) is getattr(found, new)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        found.nonsense  # noqa: B018


def test_old_arguments_warn():
    with pytest.warns(DeprecationWarning, match="`compactness` is now `weight`"):
        assert oh.nn.SpatialBias((4, 4), compactness=2.0).weight == 2.0
    with pytest.raises(TypeError, match="nonsense"):
        oh.nn.SpatialBias((4, 4), nonsense=1)


def test_old_options_are_taken_with_a_hint(capsys, tmp_path):
    words = ["train", "sprites", "--out", str(tmp_path / "run"), "--average", "2"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--average is now --ema-decay" in error and "`ema_decay` (=2" in error


def test_a_checkpoint_with_old_tensor_names_is_restored(tmp_path):
    recipe = dataclasses.replace(oh.RECIPES["tetrominoes-guided"], resolution=16, steps=1)
    model, other = recipe.build_model(), recipe.build_model()
    model.grouping.slot_attention.attention_bias.ramp.fill_(0.5)
    folder = run_folder.save_checkpoint(tmp_path, 1, model, [], {})
    tensors = load_file(folder / "model.safetensors")
    old = {name.replace("attention_bias.", "prior.").replace("readout.", "reading."): one
           for name, one in tensors.items()}  # fmt: skip
    assert old.keys() != tensors.keys()
    save_file(old, folder / "model.safetensors")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(sha_in(manifest), sha_of(folder / "model.safetensors")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_folder.restore(tmp_path, other, []) == {"step": 1}
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def sha_in(manifest):
    return json.loads(manifest.read_text())["model.safetensors"]


def sha_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()

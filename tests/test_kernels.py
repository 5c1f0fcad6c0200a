"""Fused kernels equal plain PyTorch, can be switched, and compile; memory of the implicit gradient."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from objecthood.models import autoencoder
from objecthood.nn import LearnedSlots, SlotAttention, kernels
from objecthood.nn.fused_attention import attend, plain_attend
from objecthood.nn.fused_mixture import mix, plain_mix

SCRIPT = Path(__file__).parent / "fused.py"
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs triton (pip install triton==3.7.1)"
)


def run(what, folder, **environment):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder)} | environment
    command = [sys.executable, "-W", "error", str(SCRIPT), what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Relative errors of outputs and gradients against float64, by case, from Triton's interpreter."""
    return run("errors", tmp_path_factory.mktemp("triton"), TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.parametrize(
    ("what", "kind", "tolerance"),
    [
        ("attend", "float64", 1e-12),
        ("attend", "float32", 1e-5),
        ("attend", "bfloat16", 5e-3),  # gradients to 16-bit keys and values are rounded to 2^-9
        ("mix", "float64", 1e-14),
        ("mix", "float32", 1e-6),
        ("mix", "bfloat16", 5e-3),
        ("model", "float32", 2e-6),
        ("model", "bfloat16", 2e-2),
        ("compiled", "", 2e-6),
    ],
)
def test_fused_equals_plain(errors, what, kind, tolerance):
    cases = {name: error for name, error in errors.items() if name.startswith(what) and kind in name}
    assert cases and {name: error for name, error in cases.items() if not error <= tolerance} == {}


@needs_triton
def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    sizes = run("compile", tmp_path)
    assert len(sizes) == 8 and all(size > 1000 for size in sizes.values())


@pytest.mark.parametrize("build", [autoencoder.fast_tetrominoes, lambda: autoencoder.fast_sprites(3, 16)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_switch_changes_nothing_but_who_computes(build, precision):
    """With the plain twins in the kernels' place a model gives what it gives without them."""
    model = build()
    images = torch.rand(2, 3, model.resolution, model.resolution)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        before = model(images)
        model.mix, model.grouping.slot_attention.attend = plain_mix, plain_attend
        after = model(images)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_padded_inputs_are_left_to_plain_pytorch():
    def fail(*arguments):
        raise AssertionError("the kernel knows no padding")

    group, inputs, mask = SlotAttention(8, 16), torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    slots = torch.randn(2, 3, 16)
    before = group(inputs, slots, mask=mask)
    group.attend = fail
    assert torch.equal(group(inputs, slots, mask=mask).slots, before.slots)
    with pytest.raises(AssertionError, match="knows no padding"):
        group(inputs, slots)


def test_one_call_switches_a_whole_model(monkeypatch):
    monkeypatch.setattr(kernels, "load_triton", lambda: None)
    model = autoencoder.fast_tetrominoes()
    assert kernels.fuse(model) is model
    assert model.mix is mix and model.grouping.slot_attention.attend is attend
    kernels.fuse(model, on=False)
    assert model.mix is None and model.grouping.slot_attention.attend is None


def test_without_triton_or_a_gpu_one_line_says_so(monkeypatch, unchecked):
    model = autoencoder.fast_tetrominoes()
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ValueError, match="need triton, which is not installed"):
        kernels.fuse(model)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="run on CUDA devices, got a tensor on 'cpu'; switch them off"):
        attend(torch.randn(1, 2, 4), torch.randn(1, 3, 4), torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match="run on CUDA devices"):
        mix(torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 4, 4))


def test_triton_is_not_imported_before_it_is_needed():
    code = "import sys, objecthood.recipes, objecthood.nn.fused_attention; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def kept_for_backward(gradient, iterations):
    """Bytes that autograd holds on to after a forward call, each storage counted once."""
    group = SlotAttention(8, 16, gradient=gradient)
    slots = LearnedSlots(num_slots=4, dim=16)(2)
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (
            storage.nbytes(),
            tensor,
        )  # the tensor stays, so that no place is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = group(torch.randn(2, 50, 8), slots, iterations)
    output.slots.sum().backward()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("gradient", ["implicit", "bilevel"])
def test_memory_does_not_grow_with_iterations_where_only_the_last_has_a_gradient(gradient):
    assert kept_for_backward(gradient, 10) == kept_for_backward(gradient, 3)
    assert kept_for_backward("full", 10) > 2 * kept_for_backward("full", 3)

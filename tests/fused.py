"""The fused kernels in a fresh process, since Triton decides at its import whether it compiles or interprets.

    TRITON_INTERPRET=1 python tests/fused.py errors     # beside plain PyTorch, on the CPU: relative errors
    python tests/fused.py compile                       # for Hopper, which need not be there: bytes of code

Both print JSON.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from objecthood.models import autoencoder
from objecthood.nn import fused_attention, fused_mixture, kernels
from objecthood.nn.fused_attention import _attend, attend, plain_attend
from objecthood.nn.fused_mixture import _mix, mix, plain_mix

SHAPES = {  # batch, slots, inputs, dim: neither slots nor inputs need fill a tile; parts of several blocks
    "paper's": (2, 7, 200, 64),
    "one tile": (1, 16, 32, 16),
    "odd": (3, 11, 33, 5),
    "one slot": (2, 1, 70, 8),
    "many slots": (1, 19, 65, 32),
    "one input": (2, 3, 1, 16),
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def errors() -> dict[str, float]:
    torch.use_deterministic_algorithms(True)  # fills fresh memory with nan: what is not written shows
    torch.set_num_threads(1)
    kernels.PROGRAMS = 4
    return dict([*attention_errors(), *mixture_errors(), *model_errors(), *checks()])


def attention_errors() -> Iterator[tuple[str, float]]:
    for (name, shape), (kind, dtype), biased in product(SHAPES.items(), DTYPES.items(), (False, True)):
        batch, slots, inputs, dim = shape
        torch.manual_seed(inputs)
        wide = torch.promote_types(dtype, torch.float32)
        arguments = [torch.randn(batch, slots, dim).to(wide)]
        arguments += [torch.randn(batch, inputs, dim).to(dtype) for _ in "kv"]
        if biased:
            arguments.append(torch.randn(batch, slots, inputs).to(wide))
        for through in ("updates", "attention", "both") if kind == "float64" else ("both",):
            yield (
                f"attend {name} {kind} bias={biased} {through}",
                error(attend, plain_attend, arguments, through),
            )


def mixture_errors() -> Iterator[tuple[str, float]]:
    for (batch, slots, height, width), (kind, dtype), last in product(
        [(2, 7, 9, 20), (1, 1, 3, 3), (3, 5, 16, 16)], DTYPES.items(), (False, True)
    ):
        torch.manual_seed(height)
        canvas = torch.randn(batch * slots, 4, height, width).to(dtype)
        canvas = canvas.to(memory_format=torch.channels_last if last else torch.contiguous_format)
        canvas = canvas.unflatten(0, (batch, slots))
        for through in ("picture", "masks", "both") if kind == "float64" else ("both",):
            name = f"mix {slots} slots {height}x{width} {kind} channels_last={last} {through}"
            yield name, error(mix, plain_mix, [canvas[:, :, :3], canvas[:, :, 3]], through)


def error(fused: Callable, plain: Callable, arguments: Sequence[Tensor], through: str) -> float:
    """The largest relative error of outputs and gradients, against plain PyTorch in float64."""
    results = []
    for function, dtype in ((fused, None), (plain, torch.float64)):
        inputs = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in arguments]
        outputs = function(*inputs)
        chosen = {"both": outputs, "updates": outputs[:1], "picture": outputs[:1]}.get(through, outputs[1:])
        torch.manual_seed(1)
        total = sum((output * torch.randn(output.shape, dtype=torch.float64)).sum() for output in chosen)
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        results.append([*outputs, *(g if g is not None else torch.zeros(()) for g in gradients)])
    return max(distance(one, other) for one, other in zip(*results, strict=True))


def distance(one: Tensor, other: Tensor) -> float:
    """Norm of the difference, relative to the other's where that is above 1."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm().clamp_min(1))


def model_errors() -> Iterator[tuple[str, float]]:
    """Whole models, fused and not: outputs and the gradient to every weight."""
    models = {
        "full gradient": autoencoder.small_picture(12, 3),
        "bilevel": autoencoder.fast_tetrominoes(),
        "prior and guided masks": autoencoder.fast_sprites(resolution=16),
    }
    for name, model in models.items():
        for kind in ("float32", "bfloat16"):
            yield f"model {name} {kind}", model_error(model, DTYPES[kind])


def model_error(model: torch.nn.Module, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    images = torch.rand(2, 3, model.resolution, model.resolution)
    noise = torch.randn(2, model.num_slots, model.slot_dim)
    results = []
    for on in (True, False):
        kernels.fuse(model, on)
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            scene = model(images, noise=noise)
        (scene.reconstruction - images).square().mean().backward()
        results.append(
            [*scene, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])]
        )
    return max(distance(one, other) for one, other in zip(*results, strict=True))


def checks() -> Iterator[tuple[str, float]]:
    """PyTorch's own checks of operators and gradients; they raise where something is wrong."""
    queries, keys, values, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 3), (1, 4, 3), (1, 4, 3), (1, 2, 4))
    )
    appearance, logits = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 2, 3, 4), (1, 2, 4))
    )
    torch.autograd.gradcheck(attend, (queries, keys, values, bias))
    torch.autograd.gradcheck(mix, (appearance.unflatten(-1, (2, 2)), logits.unflatten(-1, (2, 2))))
    torch.library.opcheck(_attend, (queries, keys, values, bias, 1e-8))
    torch.library.opcheck(_mix, (appearance, logits))
    model = autoencoder.fast_sprites(resolution=16)
    images = torch.rand(2, 3, 16, 16)
    plain = model(images).reconstruction
    compiled = torch.compile(kernels.fuse(model), fullgraph=True, backend="aot_eager")
    yield "compiled", distance(compiled(images).reconstruction, plain)


def compile() -> dict[str, int]:
    """Bytes of machine code of every kernel: with its optional inputs and 32 bits, without and 16."""
    import triton
    import triton.language as tl

    sizes = {"SLOTS": 16, "DIM": 64, "BLOCK": 32, "PRECISION": "ieee", "KIND": tl.float32}
    optional = {"bias", "attention_gradient", "masks_gradient", "picture_gradient"}
    narrow = {"keys", "values", "key_gradient", "value_gradient"}
    narrow |= {"appearance", "mask_logits", "appearance_gradient"}
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    found = {}
    compiled = (*fused_attention._compiled(), *fused_mixture._compiled())
    for kernel, (absent, kind) in product(compiled, ((set(), "*fp32"), (optional, "*bf16"))):
        names = list(inspect.signature(kernel.fn).parameters)
        known = {name: sizes.get(name) for name in names if name in sizes or name in absent}
        signature = dict.fromkeys(names, "*fp32")
        signature |= {name: kind for name in names if name in narrow}
        signature |= dict.fromkeys(names[names.index("num_slots") :], "i32") | {"epsilon": "fp32"}
        signature |= dict.fromkeys(known, "constexpr")
        signature = {name: signature[name] for name in names}
        constants = {(names.index(name),): value for name, value in known.items()}
        source = triton.compiler.ASTSource(kernel, signature, constants)
        code = triton.compile(source, target=target).asm["cubin"]
        found[f"{kernel.fn.__name__} {kind} {'without' if absent else 'with'} options"] = len(code)
    return found


if __name__ == "__main__":
    print(json.dumps({"errors": errors, "compile": compile}[sys.argv[1]]()))

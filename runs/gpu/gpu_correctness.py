"""Is a device right: models and losses on it against the CPU (a stage of runs/gpu/gpu.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import objecthood as oh
from objecthood import losses


def correctness(device: torch.device) -> dict[str, Any]:
    """Models and losses on the device against the CPU in float64 or float32: relative errors."""
    rows = [*model_rows(device), *loss_rows(device)]
    for row in rows:
        row["passed"] = bool(row["error"] <= row["tolerance"])  # nan fails
        verdict = "ok  " if row["passed"] else "FAIL"
        print(f"{verdict} {row['what']}: {row['error']:.2e} (<= {row['tolerance']:.0e})")
    return {"rows": rows, "passed": all(row["passed"] for row in rows)}


def distance(one: Tensor, other: Tensor) -> float:
    """Norm of the difference, relative to the norm of `other` where that is above 1."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).norm() / other.norm().clamp_min(1))


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


def model_rows(device: torch.device) -> Iterator[dict[str, Any]]:
    """Outputs and gradients of the models of `MODELS`, with float32 products (tf32 is off by default)."""
    for name, tolerances in MODELS.items():
        recipe = oh.RECIPES[name]
        torch.manual_seed(0)
        model = recipe.build_model()
        images = torch.rand(2, 3, model.resolution, model.resolution)
        noise = torch.randn(2, model.num_slots, model.slot_dim)
        expected = outcome(model, images, noise)
        model.to(device).to(memory_format=torch.channels_last)
        images, noise = images.to(device), noise.to(device)
        with tf32(False):
            found = {"float32": outcome(model, images, noise)}
        found["bfloat16"] = outcome(model, images, noise, torch.bfloat16)
        for kind, values in found.items():
            tolerance = tolerances[kind]
            for what, one, other in zip(("picture", "gradient"), values, expected, strict=True):
                yield {
                    "what": f"{name}, {kind}, {what}",
                    "error": distance(one, other),
                    "tolerance": tolerance,
                }


MODELS = {
    name: {"float32": 1e-3, "bfloat16": 1e-1}
    for name in (
        "tetrominoes",
        "tetrominoes-guided",
        "sprites",
        "clevr6-like",
        "tetrominoes-paper",
        "clevr6-paper",
    )
}


def outcome(
    model: Any, images: Tensor, noise: Tensor, precision: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The reconstruction, and the gradient of its error to all weights."""
    model.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision != torch.float32):
        picture = model(images, noise=noise).reconstruction
    losses.reconstruction_error(picture, images, model.input_transform).backward()
    return picture.detach(), gradient(model)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def loss_rows(device: torch.device) -> Iterator[dict[str, Any]]:
    torch.manual_seed(1)
    predicted, target = torch.rand(8, 10, 19), torch.rand(8, 10, 19)
    pictures = torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32)
    for function, inputs in (
        (losses.matching_loss, (predicted, target)),
        (losses.reconstruction_error, pictures),
    ):
        error = distance(function(*(tensor.to(device) for tensor in inputs)), function(*inputs))
        yield {"what": function.__name__, "error": error, "tolerance": 1e-5}

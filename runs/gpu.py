"""What waits for a GPU, in the order of its worth: is it right, what does it cost, what does it learn.

    python runs/gpu.py                                      # all stages that have no result yet
    python runs/gpu.py correctness steps-paper              # these
    python runs/gpu.py --out FOLDER --clevr SCENES          # results; a folder of `data render clevr`

Each stage is a process of its own and ends within `--minutes`; its result is a JSON file in `--out`, written
when it is whole. The same command again does what is left: a training that was stopped goes on from its
checkpoint (in `--runs`). Nothing is written for what was not measured; without a GPU nothing is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import objecthood as oh
from objecthood import losses
from objecthood.data.on_device import OnDevice
from objecthood.environment import choose_precision, describe
from objecthood.graphs import GraphedStep
from objecthood.nn import kernels
from objecthood.nn.fused_attention import attend, plain_attend
from objecthood.nn.fused_mixture import mix, plain_mix

ROOT = Path(__file__).resolve().parent.parent
FLOOR_MS, GOAL_MS = 15.5, 31.0
"""What a step of the paper's CLEVR6 model, batch 64, bf16, must compute and move on an H200; twice that."""
GRACE = 60
"""Seconds that a process asked to stop has to save its state."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the stages are told."""

    out: Path
    runs: Path
    clevr: Path | None
    device: torch.device
    seconds: float
    """That a stage may take."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)} (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--clevr", type=Path, help="a folder of `objecthood data render clevr`, 128 pixels")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"no stages {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if not torch.cuda.is_available():
        print("no CUDA device is at hand; nothing was run", file=sys.stderr)
        return 1
    device, seconds = torch.device("cuda"), 60 * arguments.minutes
    settings = Settings(arguments.out, arguments.runs, arguments.clevr, device, seconds)
    if arguments.inside:
        publish(arguments.stages[0], settings)
        return 0
    return run_stages(arguments.stages or list(STAGES), settings, sys.argv[1:])


def run_stages(names: list[str], settings: Settings, options: list[str]) -> int:
    """Each stage without a result, in a process of its own; the number of those that have none after it."""
    left = 0
    for name in names:
        if result_file(name, settings).exists():
            print(f"{name}: done before")
            continue
        begin = time.monotonic()
        passed_on = [option for option in options if option not in STAGES]
        call([sys.executable, __file__, name, "--inside", *passed_on], settings.seconds)
        done = result_file(name, settings).exists()
        left += not done
        print(f"{name}: {'done' if done else 'not finished'} in {time.monotonic() - begin:.0f} s", flush=True)
    return left


def call(command: list[str], seconds: float) -> int:
    """Run a command; asked to stop (as by Ctrl-C) in good time before the limit, and ended at it."""
    process = subprocess.Popen(command)
    for patience, last_word in ((max(1.0, seconds - GRACE), signal.SIGINT), (GRACE, signal.SIGKILL)):
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(last_word)
    return process.wait()


def publish(name: str, settings: Settings) -> None:
    """Run one stage here and write what it found."""
    rows = STAGES[name](settings)
    if rows is None:
        return
    target = result_file(name, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}")
    staged.write_text(
        json.dumps({"stage": name, "machine": describe(settings.device), **rows}, indent=1) + "\n"
    )
    staged.replace(target)


def result_file(name: str, settings: Settings) -> Path:
    return settings.out / f"gpu-{name}.json"


# ---- is it right


def correctness(settings: Settings) -> dict[str, Any]:
    """Models, losses and kernels on the device against the CPU in float64 or float32: relative errors."""
    rows = [*model_rows(settings.device), *loss_rows(settings.device), *kernel_rows(settings.device)]
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
    """Outputs and gradients of every recipe's model, with float32 products (tf32 is off by default)."""
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
        if can_fuse(device):
            found["fused bfloat16"] = outcome(kernels.fuse(model), images, noise, torch.bfloat16)
        for kind, values in found.items():
            tolerance = tolerances[kind.split()[-1]]
            for what, one, other in zip(("picture", "gradient"), values, expected, strict=True):
                yield {
                    "what": f"{name}, {kind}, {what}",
                    "error": distance(one, other),
                    "tolerance": tolerance,
                }


MODELS = {
    name: {"float32": 1e-3, "bfloat16": 1e-1}
    for name in ("tetrominoes", "sprites", "tetrominoes-paper", "clevr6-paper")
}


def outcome(
    model: Any, images: Tensor, noise: Tensor, precision: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The reconstruction, and the gradient of its error to all weights."""
    model.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision != torch.float32):
        picture = model(images, noise=noise).reconstruction
    losses.reconstruction_error(picture, images, model.view).backward()
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
        (losses.set_error, (predicted, target)),
        (losses.reconstruction_error, pictures),
    ):
        error = distance(function(*(tensor.to(device) for tensor in inputs)), function(*inputs))
        yield {"what": function.__name__, "error": error, "tolerance": 1e-5}


def can_fuse(device: torch.device) -> bool:
    try:
        kernels.load_triton()
    except ValueError:
        return False
    return device.type == "cuda"


def kernel_rows(device: torch.device) -> Iterator[dict[str, Any]]:
    """The fused kernels against the plain functions in float64, at the shapes of CLEVR6 and at odd ones."""
    if not can_fuse(device):
        return
    for precision in PRECISIONS:
        with setting(PRECISION=precision):
            for (batch, slots, inputs, dim), dtype in (
                (shape, dtype)
                for shape in ((4, 7, 128 * 128, 64), (3, 11, 333, 48), (64, 4, 324, 64))
                for dtype in (torch.float32, torch.bfloat16)
            ):
                tensors = [torch.randn(batch, slots, dim, device=device)]
                tensors += [torch.randn(batch, inputs, dim, device=device).to(dtype) for _ in "kv"]
                tensors += [torch.randn(batch, slots, inputs, device=device)]
                tolerance = 1e-2 if dtype == torch.bfloat16 or precision == "tf32" else 1e-4
                what = f"attend {precision} {dtype} {batch} x {slots} x {inputs} x {dim}"
                yield {
                    "what": what,
                    "error": twin_error(attend, plain_attend, tensors),
                    "tolerance": tolerance,
                }
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        canvas = torch.randn(4 * 7, 4, 128, 128, device=device).to(dtype, memory_format=torch.channels_last)
        canvas = canvas.unflatten(0, (4, 7))
        error = twin_error(mix, plain_mix, [canvas[:, :, :3], canvas[:, :, 3]])
        yield {"what": f"mix {dtype} 4 x 7 x 128 x 128", "error": error, "tolerance": tolerance}


PRECISIONS = ("ieee", "tf32x3", "tf32")


def twin_error(fused: Callable, plain: Callable, tensors: list[Tensor]) -> float:
    """The largest error of outputs and gradients."""
    results = []
    for function, dtype in ((fused, None), (plain, torch.float64)):
        inputs = [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in tensors]
        outputs = function(*inputs)
        torch.manual_seed(2)
        total = sum((output.double() * torch.randn_like(output.double())).sum() for output in outputs)
        results.append([*outputs, *torch.autograd.grad(total, inputs)])
    return max(distance(one, other) for one, other in zip(*results, strict=True))


@contextmanager
def setting(**values: Any) -> Iterator[None]:
    """Constants of `nn.kernels` for a while."""
    before = {name: getattr(kernels, name) for name in values}
    for name, value in values.items():
        setattr(kernels, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(kernels, name, value)


# ---- what does it cost


def benchmark(settings: Settings) -> dict[str, Any] | None:
    """`objecthood benchmark` on the device, as a user would run it."""
    target = settings.out / ".gpu-benchmark-run.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    per_resolution = f"{(settings.seconds - 2 * GRACE) / 4:.0f}"
    command = [sys.executable, "-m", "objecthood", "benchmark", "--device", str(settings.device)]
    if call([*command, "--seconds", per_resolution, "--out", str(target)], settings.seconds - GRACE):
        return None
    return {"benchmark": json.loads(target.read_text())}


def kernels_alone(settings: Settings) -> dict[str, Any]:
    """Milliseconds of forward and backward of kernels and twins, at CLEVR6's shapes, batch 64, bf16."""
    device, rows = settings.device, []
    queries = torch.randn(64, 7, 64, device=device, requires_grad=True)
    inputs = [
        torch.randn(64, 128 * 128, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in "kv"
    ]
    for precision, block in ((p, b) for p in PRECISIONS for b in (16, 32, 64)):
        with setting(PRECISION=precision, BLOCK_INPUTS=block):
            ms = time_ms(lambda: attend(queries, *inputs)[0].sum().backward(), device)
        rows.append({"what": f"attend fused, {precision}, blocks of {block}", **ms})
    ms = time_ms(lambda: plain_attend(queries, *inputs)[0].sum().backward(), device)
    rows.append({"what": "attend plain", **ms})
    canvas = torch.randn(64 * 7, 4, 128, 128, device=device, dtype=torch.bfloat16)
    canvas = canvas.to(memory_format=torch.channels_last).unflatten(0, (64, 7)).requires_grad_()
    for block in (64, 128, 256):
        with setting(BLOCK_PIXELS=block):
            ms = time_ms(lambda: mix(canvas[:, :, :3], canvas[:, :, 3])[0].sum().backward(), device)
        rows.append({"what": f"mix fused, blocks of {block}", **ms})
    ms = time_ms(lambda: plain_mix(canvas[:, :, :3], canvas[:, :, 3])[0].sum().backward(), device)
    rows.append({"what": "mix plain", **ms})
    return {"rows": rows}


def steps(name: str) -> Callable[[Settings], dict[str, Any]]:
    """A stage: milliseconds of a whole training step at batch 64, 128 pixels, taken in several ways."""

    def stage(settings: Settings) -> dict[str, Any]:
        recipe = dataclasses.replace(oh.RECIPES[name], batch_size=64, resolution=128)
        rows = []
        for ways in WAYS:
            row: dict[str, Any] = {"ways": list(ways) or ["plain"]}
            try:
                row |= time_step(recipe, ways, settings.device)
            except Exception as error:  # one way that fails must not cost the others their numbers
                row["failed"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            rows.append(row)
            print(row, flush=True)
        goal = {"floor_ms": FLOOR_MS, "goal_ms": GOAL_MS, "source": "arithmetic, not measured"}
        return {"recipe": name, "batch_size": 64, "rows": rows} | (goal if name == "clevr6-paper" else {})

    return stage


WAYS = ((), ("fused",), ("graph",), ("fused", "graph"), ("compiled",), ("compiled", "graph"))


def time_step(recipe: Any, ways: tuple[str, ...], device: torch.device, repeats: int = 50) -> dict[str, Any]:
    """Median milliseconds of one way to take a step, on pictures that are on the device."""
    torch.manual_seed(recipe.seed)
    model = recipe.build_model().to(device).to(memory_format=torch.channels_last)
    if "fused" in ways:
        kernels.fuse(model)
    if "compiled" in ways:
        model.compile(dynamic=False)
    precision = choose_precision(recipe.precision, device)
    options = {} if "graph" in ways else {"eager_steps": 10**9}
    optimizers = recipe.build_optimizers(model)
    take = GraphedStep(recipe, model, optimizers, AveragedModel(model), precision, **options)
    shape = (recipe.batch_size, 3, recipe.resolution, recipe.resolution)
    batches = [torch.rand(shape, device=device) for _ in range(4)]  # not always the same: no help from caches
    count = iter(range(recipe.steps - 1, 10**9))  # past every ramp
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result = time_ms(
        lambda: take({"image": batches[next(count) % 4]}, recipe.steps), device, repeats, warmup=8
    )
    if "graph" in ways and not take.is_graph:
        raise RuntimeError("no graph was recorded; see the warning above")
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result | {"precision": str(precision).removeprefix("torch.")}


def time_ms(
    work: Callable[[], Any], device: torch.device, repeats: int = 50, warmup: int = 5
) -> dict[str, float]:
    """Median, quartiles and number of timings, by the device's own clock where it has one."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - begin))
    low, median, high = torch.tensor(times).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {"ms": median, "ms_low": low, "ms_high": high, "timings": repeats}


# ---- what does it learn


def train_seeds(recipe: str, seeds: int, **fields: Any) -> Callable[[Settings], dict[str, Any] | None]:
    """A stage that trains seed after seed, each resumed from its checkpoint where it was stopped."""

    def stage(settings: Settings) -> dict[str, Any] | None:
        chosen = dataclasses.replace(oh.RECIPES[recipe], **fields)
        if chosen.data not in ("tetrominoes", "sprites"):
            if settings.clevr is None:
                print(f"{recipe} needs scenes: --clevr FOLDER")
                return None
            chosen = dataclasses.replace(chosen, data_path=str(settings.clevr))
        results = []
        for seed in range(seeds):
            out = settings.runs / f"gpu-{recipe}-{chosen.resolution}-seed{seed}"
            mine = on_device(dataclasses.replace(chosen, seed=seed), settings.device)
            result = oh.train(mine, out, resume=(out / "recipe.json").exists(), device=str(settings.device))
            result["settings"].pop("data_path", None)  # where it lay is nobody's concern
            results.append(result)
        return {"results": results}

    return stage


def on_device(recipe: Any, device: torch.device) -> Any:
    """The recipe with scenes that are finite kept where the model is."""

    read: dict[str, Any] = {}

    class Kept(type(recipe)):
        def dataset(self, split: str) -> Any:
            if split not in read:
                scenes = super().dataset(split)
                read[split] = scenes if scenes.endless else OnDevice(scenes, device)
            return read[split]

    Kept.__name__ = type(recipe).__name__  # as the run folder and the weights name it
    fields = recipe.to_dict()
    fields.pop("task")
    return Kept(**fields)


STAGES: dict[str, Callable[[Settings], dict[str, Any] | None]] = {
    "correctness": correctness,
    "benchmark": benchmark,
    "steps-paper": steps("clevr6-paper"),
    "steps-fast": steps("clevr6-like"),
    "kernels": kernels_alone,
    "clevr6-like": train_seeds(
        "clevr6-like", 3, resolution=128, batch_size=64, steps=20_000, halving_steps=0
    ),
    "tetrominoes": train_seeds("tetrominoes", 5),
    "tetrominoes-guided": train_seeds("tetrominoes-guided", 5),
    "sprites": train_seeds("sprites", 5),
    "tetrominoes-paper": train_seeds("tetrominoes-paper", 1),
    "sprites-paper": train_seeds("sprites-paper", 1),
    "clevr6-paper": train_seeds("clevr6-paper", 1, data="clevr-like", min_objects=3),
}


if __name__ == "__main__":
    sys.exit(main())

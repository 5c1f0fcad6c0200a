"""The loop: plain PyTorch, read from top to bottom. It knows no model, data set or metric by name.

Everything random in a step is a function of the recipe's seed and the step, so that a run that was stopped
and resumed gives the same weights as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from objecthood import checkpoint, report
from objecthood.animate import save_animation
from objecthood.data.loader import batches
from objecthood.data.scene import Scenes, to_device
from objecthood.environment import choose_device, choose_precision, describe, keep_freed_memory
from objecthood.evaluate import evaluate
from objecthood.progress import RunProgress
from objecthood.recipes import Recipe

LOG_EVERY = 25
"""Steps between lines of metrics.jsonl."""


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    checkpoint_every: int = 500,
) -> dict[str, Any]:
    """Train `recipe` into the run folder `out` and return its result: scores, protocol, costs, environment.

    The folder holds recipe.json, metrics.jsonl, checkpoints/, figures/, latest.png (refreshed while it runs),
    weights.safetensors, result.json and index.html. With `resume` a run that was stopped goes on from its
    newest whole checkpoint. Raises ValueError where `out` holds a run and `resume` was not asked for, or
    another recipe's. On Ctrl-C (or SIGTERM) the step in hand is finished and saved, and KeyboardInterrupt
    raised; a second Ctrl-C stops at once, and the run can go on from its last checkpoint.
    """
    out = prepare_folder(Path(out), recipe, resume)
    if resume and (out / "result.json").exists():
        return json.loads((out / "result.json").read_text())  # nothing is left to do
    place = choose_device(device)
    precision = choose_precision(recipe.precision, place)
    keep_freed_memory()

    torch.manual_seed(recipe.seed)
    model = recipe.build_model().to(place)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = recipe.build_optimizers(model)
    average = AveragedModel(model, multi_avg_fn=averaging(recipe.average))
    both = nn.ModuleList([model, average])
    state: dict[str, Any] = {"step": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    if resume:
        state = checkpoint.restore(out / "checkpoints", both, optimizers) or state
    clock = Stopwatch(state["wall_seconds"], state["cpu_seconds"])
    first_step = step = state["step"]
    shown = first_batch(recipe, place)
    scenes_of_step = batches(recipe.dataset("train"), recipe.batch_size, seed=recipe.seed, first_step=step)
    log = Log(out / "metrics.jsonl", first_step)  # from here on the folder holds a run

    def save_state() -> None:
        facts = {"wall_seconds": clock.wall, "cpu_seconds": clock.cpu}
        checkpoint.save_checkpoint(out / "checkpoints", step, both, optimizers, facts)

    score = ""
    with (
        RunProgress(recipe.name, recipe.steps, first_step) as progress,
        StopRequest() as stop,
        no_denormals(),
    ):
        while step < recipe.steps:
            scenes = to_device(next(scenes_of_step), place)
            torch.manual_seed(step_seed(recipe.seed, step))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * recipe.learning_rate_factor(step + 1)
            with torch.autocast(place.type, precision, enabled=precision != torch.float32):
                loss = recipe.loss(model, scenes, step)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip or torch.inf)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update_parameters(model)
            step += 1

            if step % LOG_EVERY == 0 or step == recipe.steps:
                speed = (step - first_step) * recipe.batch_size / (clock.wall - state["wall_seconds"])
                values = {"loss": loss.item(), "gradient_norm": norm.item(), "images_per_second": speed}
                values["learning_rate"] = optimizers[0].param_groups[0]["lr"]
                log.write("train", step, clock, values)
                progress.update(step, f"loss {loss.item():.4f}  {score}{speed:.0f} pictures/s")
            if step % recipe.evaluate_every == 0 and step < recipe.steps:
                clock.pause()
                scores = evaluate(average.module, recipe, "validation", recipe.validation_scenes)
                log.write("evaluate", step, clock, scores)
                shown_score = recipe.main_score if recipe.main_score in scores else next(iter(scores))
                score = f"{shown_score} {scores[shown_score]:.3f}  "
                draw_latest(recipe, average.module, shown, out)
                clock.start()
            if step % checkpoint_every == 0 and step < recipe.steps:
                clock.pause()
                save_state()
                clock.start()
            if stop.requested:
                save_state()
                progress.say(f"stopped at step {step}; go on with: objecthood train --resume {out}")
                raise KeyboardInterrupt
        clock.pause()
        save_state()
    return finish(recipe, average.module, shown, out, clock, log, place)


def finish(
    recipe: Recipe,
    model: nn.Module,
    shown: Scenes,
    out: Path,
    clock: Stopwatch,
    log: Log,
    device: torch.device,
) -> dict[str, Any]:
    """Score the held-out scenes; write result.json, weights, pictures and report."""
    scores = evaluate(model, recipe)
    log.write("evaluate", recipe.steps, clock, scores)
    result = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "scores": scores,
        "protocol": recipe.protocol,
        "wall_seconds": round(clock.wall, 2),
        "cpu_seconds": round(clock.cpu, 2),
        "machine": describe(device),
        "settings": recipe.to_dict(),
    }
    write_json(out / "result.json", result)
    checkpoint.save(model, recipe, out / "weights.safetensors", scores)
    draw_latest(recipe, model, shown, out)
    (out / "figures").mkdir(exist_ok=True)
    for name, figure in recipe.figures(model, shown).items():
        if isinstance(figure, list):
            save_animation(figure, out / "figures" / f"{name}.gif")
        else:
            figure.save(out / "figures" / f"{name}.png")
    report.write_report(out)
    return result


def prepare_folder(out: Path, recipe: Recipe, resume: bool) -> Path:
    """The run folder with its recipe.json; ValueError where it belongs to another run."""
    settings = out / "recipe.json"
    if settings.exists() and (resume or (out / "metrics.jsonl").exists()):
        if not resume:
            raise ValueError(
                f"{out} holds a run already; go on with --resume {out}, or name another folder with --out"
            )
        before = json.loads(settings.read_text())
        changed = {
            key: (before.get(key), value)
            for key, value in recipe.to_dict().items()
            if before.get(key) != value
        }
        if changed:
            raise ValueError(
                f"{out} was begun with other settings: {changed} (before, now); resume it unchanged"
            )
    elif resume:
        raise ValueError(f"{out} holds no run to resume; leave --resume away to begin one there")
    out.mkdir(parents=True, exist_ok=True)
    write_json(settings, recipe.to_dict())
    return out


def first_batch(recipe: Recipe, device: torch.device, num_scenes: int = 6) -> Scenes:
    """The held-out scenes that pictures show."""
    dataset = recipe.dataset("validation")
    return to_device(dataset[range(min(num_scenes, len(dataset)))], device)


@torch.no_grad()
def draw_latest(recipe: Recipe, model: nn.Module, shown: Scenes, out: Path) -> None:
    """Refresh latest.png: whoever looks at it sees a whole picture, old or new."""
    was_training = model.training
    picture = recipe.picture(model.eval(), shown)
    model.train(was_training)
    staged = out / ".latest.png"
    picture.save(staged)
    staged.replace(out / "latest.png")


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """How `AveragedModel` moves towards the weights: slower with time, down to 1 - decay (0: follows at
    once)."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
        count = float(num_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (count + 1) / (count + 10)))

    return update


def step_seed(seed: int, step: int) -> int:
    """A seed for the noise of one step."""
    return (seed * 1_000_003 + step + 1) % 2**63


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace `path` in one stroke."""
    staged = path.with_name(f".{path.name}")
    staged.write_text(json.dumps(value, indent=1) + "\n")
    staged.replace(path)


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Numbers below 1e-38 as zero: some processors are slow on them, and here they carry nothing."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class StopRequest:
    """Takes note of the first SIGINT or SIGTERM, so that no step is cut in half; gives way to the second.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __enter__(self) -> StopRequest:
        self.requested = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (SIGINT, SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Stopwatch:
    """Wall and CPU seconds spent training: evaluation, pictures and checkpoints are paused for."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0):
        self._wall, self._cpu = wall, cpu
        self.start()

    def start(self) -> None:
        self._since: tuple[float, float] | None = (time.perf_counter(), time.process_time())

    def pause(self) -> None:
        self._wall, self._cpu, self._since = self.wall, self.cpu, None

    @property
    def wall(self) -> float:
        return self._wall + (time.perf_counter() - self._since[0] if self._since else 0)

    @property
    def cpu(self) -> float:
        return self._cpu + (time.process_time() - self._since[1] if self._since else 0)


class Log:
    """metrics.jsonl: one JSON object a line; lines beyond the step that a run resumes from are dropped."""

    def __init__(self, path: Path, first_step: int):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() and first_step else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= first_step]
        path.write_text("".join(line + "\n" for line in kept))

    def write(self, kind: str, step: int, clock: Stopwatch, values: dict[str, float]) -> None:
        line = {
            "kind": kind,
            "step": step,
            "seconds": round(clock.wall, 3),
            "cpu_seconds": round(clock.cpu, 3),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line | values) + "\n")

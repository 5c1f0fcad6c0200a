"""Training loop in plain PyTorch, independent of model, data set and metric.

All randomness of a step is a function of the recipe's seed and the step, so resumed runs give the same
weights as uninterrupted ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from objecthood import checkpoint
from objecthood.analysis.diagnosis import alarms
from objecthood.analysis.out_of_distribution import calibration
from objecthood.data.loader import batches, scene_indices
from objecthood.data.scene import Scenes, to_device
from objecthood.evaluate import evaluate
from objecthood.recipes import Recipe
from objecthood.runtime import renamed
from objecthood.runtime.distributed import Processes, joined, launched, restarted, sharing
from objecthood.runtime.environment import choose_device, choose_precision, describe, keep_freed_memory
from objecthood.runtime.files import (
    read_json,
    real_folder,
    refuse_link,
    remove_staged,
    replacing,
    staged,
    write_json,
)
from objecthood.runtime.progress import RunProgress
from objecthood.runtime.signals import TOLD, StopRequest, command, nobody_else
from objecthood.runtime.terminal import echo
from objecthood.training import report
from objecthood.training.nonfinite import Guard, offending_samples, save_batch
from objecthood.training.run_log import Log, Stopwatch, check_trackers
from objecthood.visualize.animation import save_animation

LOG_EVERY = 25
"""Steps between lines of metrics.jsonl."""


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    checkpoint_every: int = 500,
    compile: bool = False,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Train `recipe` into the run folder `out` and return its result: scores, protocol, costs, environment.

    The folder holds recipe.json, metrics.jsonl, checkpoints/, figures/, latest.png (updated during training),
    weights.safetensors, result.json and index.html. In processes started by torchrun, each trains on its
    share of the batch.

    Args:
        recipe: what to train.
        out: run folder.
        resume: continue from the newest valid checkpoint, as torchrun's `--max-restarts` does.
        device: "auto" or a PyTorch device.
        checkpoint_every: steps between checkpoints.
        compile: compile the loss with torch.compile: other rounding, the same noise.
        log: additional trackers; "tensorboard" writes event files to tensorboard/.

    Raises:
        ValueError: `out` holds a run and `resume` is False, or a run of another recipe, or another process
            trains into `out`.
        FloatingPointError: three steps in a row had no finite loss or gradient (single ones are skipped); the
            message names images and parameters.
        KeyboardInterrupt: Ctrl-C, after the current step is saved; a second Ctrl-C stops at once. SIGTERM,
            SIGUSR1 and SIGHUP raise the subclass `Preempted`.
        checkpoint.NotSaved: the disk is full or not writable; earlier checkpoints are valid.
    """
    out = Path(out)
    check_trackers(log)
    resume = resume or (restarted() and (out / "recipe.json").exists())
    with joined(choose_device(device)) as processes, contextlib.ExitStack() as stack:
        if processes.first:
            stack.enter_context(claimed(out, recipe, resume))
        processes.wait()
        if not (resume and is_finished(out)):
            take_steps(recipe, out, processes, resume, checkpoint_every, compile, log)
        processes.wait()
    return read_json(out / "result.json")


def take_steps(
    recipe: Recipe,
    out: Path,
    processes: Processes,
    resume: bool,
    checkpoint_every: int,
    compile: bool,
    trackers: Sequence[str],
) -> None:
    """Run the remaining steps and write the result; only the first process evaluates and writes."""
    torch_device = processes.device
    precision = choose_precision(recipe.precision, torch_device)
    keep_freed_memory()

    torch.manual_seed(recipe.seed)
    model = recipe.build_model().to(torch_device)
    model.to(memory_format=torch.channels_last)
    frozen = checkpoint.frozen_facts(model)
    if not processes.agree(json.dumps(frozen)):
        raise ValueError(
            f"processes restored different frozen weights ({frozen} in process {processes.rank}); name a "
            "revision in the recipe, and provide the same files on every machine"
        )
    optimizers = recipe.build_optimizers(model)
    average = AveragedModel(model, multi_avg_fn=averaging(recipe.ema_decay))
    modules = nn.ModuleList([model, average])
    state: dict[str, Any] = {"step": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    if processes.first:
        checkpoint.check_space(out, modules)
    recipe_sha256 = digest(read_json(out / "recipe.json"))
    if resume:
        state |= checkpoint.restore(out / "checkpoints", modules, optimizers) or {}
        check_state(state, recipe_sha256, recipe.steps, out)
    clock = Stopwatch(state["wall_seconds"], state["cpu_seconds"] if processes.first else 0.0)
    guard = Guard(state.get("skipped_steps", 0))
    first_step = step = state["step"]
    objective = Objective(recipe, model)
    if compile:
        objective.compile(options={"fallback_random": True})  # the same noise as without
    loss_of = processes.spread(objective)
    with sharing(processes):
        shown = first_batch(recipe, torch_device)
        dataset = recipe.dataset("train")
    num_scenes = None if dataset.endless else len(dataset)
    if state.get("num_scenes", num_scenes) != num_scenes:
        echo(
            f"the data has {num_scenes} scenes, and had {state['num_scenes']} before: the run goes on, with "
            "other batches than without the change"
        )
    scenes_of_step = batches(
        dataset,
        recipe.batch_size,
        seed=recipe.seed,
        first_step=step,
        rank=processes.rank,
        num_processes=processes.count,
    )
    log = Log(out / "metrics.jsonl", first_step, processes.first, trackers)  # marks the folder as a run

    if processes.first and not (out / "latest.png").exists():
        clock.pause()
        draw_latest(recipe, average.module, shown, out)
        clock.start()

    def save_state() -> None:
        clock.pause()
        if processes.first:
            log.sync()
            facts: dict[str, Any] = {
                "wall_seconds": clock.wall,
                "cpu_seconds": clock.cpu,
                "skipped_steps": guard.skipped,
                "recipe_sha256": recipe_sha256,
                "num_scenes": num_scenes,
            }
            checkpoint.save_checkpoint(out / "checkpoints", step, modules, optimizers, facts)
        processes.wait()
        clock.start()

    score, alarmed = "", set[str]()
    with (
        StopRequest() as stop,
        resume_hint(out),
        RunProgress(recipe.name, recipe.steps, first_step) as progress,
        no_denormals(),
    ):
        while step < recipe.steps:
            # The weights are saved: a signal may interrupt the evaluation, which --resume repeats.
            if step and step % recipe.evaluate_every == 0 and processes.first:
                clock.pause()
                with stop.at_once():
                    scores = evaluate(average.module, recipe, "validation", recipe.validation_scenes)
                    log.write("evaluate", step, clock, scores)
                    draw_latest(recipe, average.module, shown, out)
                    log.show(step, out / "latest.png")
                    if 2 * step >= recipe.steps:  # earlier findings are premature
                        for finding in alarms(average.module, recipe):
                            if finding.page not in alarmed:
                                alarmed.add(finding.page)
                                progress.say(f"step {step}: {finding.text}; see {finding.page}")
                shown_score = recipe.main_score if recipe.main_score in scores else next(iter(scores))
                score = f"{shown_score} {scores[shown_score]:.3f}  "
                clock.start()

            try:
                scenes = to_device(next(scenes_of_step), torch_device)
            except (OSError, ValueError):  # a file went away or changed
                if step > first_step and processes.count == 1:
                    save_state()
                raise
            torch.manual_seed(step_seed(recipe.seed, step))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * recipe.learning_rate_factor(step + 1)
            with torch.autocast(torch_device.type, precision, enabled=precision != torch.float32):
                loss = loss_of(scenes, step)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip or torch.inf)
            broken, stopped = processes.largest(not (norm + loss.detach()).isfinite(), stop.requested)
            if guard.passes(not broken):
                for optimizer in optimizers:
                    optimizer.step()
                average.update_parameters(model)
            elif guard.exhausted:
                torch.manual_seed(step_seed(recipe.seed, step))
                indices = scene_indices(dataset, recipe.batch_size, seed=recipe.seed, step=step)
                kept = save_batch(out, scenes, indices.tolist(), processes)
                samples = offending_samples(recipe, model, scenes, indices.tolist(), step, processes)
                raise FloatingPointError(f"{samples}; {kept}")
            for optimizer in optimizers:
                optimizer.zero_grad()
            step += 1

            if step % LOG_EVERY == 0 or step == recipe.steps:
                own_seconds = clock.cpu - clock.others
                total_loss, cpu_seconds = processes.total(loss.item(), own_seconds)
                clock.others = cpu_seconds - own_seconds
                speed = (step - first_step) * recipe.batch_size / (clock.wall - state["wall_seconds"])
                values = {"loss": total_loss / processes.count, "gradient_norm": norm.item()}
                values |= {"images_per_second": speed, "learning_rate": optimizers[0].param_groups[0]["lr"]}
                values["skipped_steps"] = guard.skipped
                log.write("train", step, clock, values)
                progress.update(step, f"loss {values['loss']:.4f}  {score}{speed:.0f} images/s")
            due = step % checkpoint_every == 0 or step % recipe.evaluate_every == 0
            if stopped or (due and step < recipe.steps):
                save_state()
            if stopped:
                stop.requested = int(stopped)
                raise stop.exception()
        save_state()
        clock.pause()
    if processes.count > 1:
        with resume_hint(out), sharing(processes):
            recipe.dataset("test")  # its features are computed by all processes, not by the first alone
    if processes.first:
        facts: dict[str, Any] = {"processes": processes.count, "compile": compile}
        facts |= {"skipped_steps": guard.skipped, "machine": describe(torch_device)}
        facts |= {"frozen": frozen} if frozen else {}
        with StopRequest() as stop, resume_hint(out), stop.at_once():
            finish(recipe, average.module, shown, out, clock, log, facts)


@contextlib.contextmanager
def resume_hint(out: Path) -> Iterator[None]:
    """Print the command that resumes a run which was interrupted, or whose data or disk failed, once for all
    processes."""
    try:
        yield
    except (KeyboardInterrupt, OSError, ValueError) as stop:
        if not launched() and (out / "recipe.json").exists():
            with contextlib.suppress(OSError):  # the terminal may be closed
                echo(f"stopped; resume with: {command()} train --resume {shlex.quote(str(out))}", flush=True)
                if isinstance(stop, KeyboardInterrupt):
                    stop.args = (TOLD,)
        raise


class Objective(nn.Module):
    """A recipe's loss as a module, for DistributedDataParallel and torch.compile."""

    def __init__(self, recipe: Recipe, model: nn.Module):
        super().__init__()
        self.recipe, self.model = recipe, model

    def forward(self, scenes: Scenes, step: int) -> Tensor:
        return self.recipe.loss(self.model, scenes, step)


def finish(
    recipe: Recipe,
    model: nn.Module,
    shown: Scenes,
    out: Path,
    clock: Stopwatch,
    log: Log,
    facts: dict[str, Any],
) -> None:
    """Evaluate the test scenes; write result.json, weights, images and report."""
    scores = evaluate(model, recipe)
    log.write("test", recipe.steps, clock, scores)
    result = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "scores": scores,
        "protocol": recipe.protocol,
        "wall_seconds": round(clock.wall, 2),
        "cpu_seconds": round(clock.cpu, 2),
        "settings": recipe.to_dict(),
    } | facts
    checkpoint.save(model, recipe, out / "weights.safetensors", scores, calibration(model, recipe))
    draw_latest(recipe, model, shown, out)
    log.show(recipe.steps, out / "latest.png")
    log.close()
    folder = real_folder(out / "figures")
    for name, figure in recipe.figures(model, shown).items():
        if isinstance(figure, list):
            with staged(folder / f"{name}.gif") as file:
                save_animation(figure, file)
        else:
            with staged(folder / f"{name}.png") as file:
                figure.save(file)
    write_json(out / "result.json", result)
    report.write_report(out)


def is_finished(out: Path) -> bool:
    """Whether the run is complete: result and report are written last, in this order."""
    return (out / "result.json").exists() and (out / "index.html").exists()


@contextlib.contextmanager
def claimed(out: Path, recipe: Recipe, resume: bool) -> Iterator[None]:
    """Lock the run folder before anything is written; ValueError if it belongs to another run, or another
    process trains into it."""
    if resume and not (out / "recipe.json").exists():
        raise ValueError(f"{out} holds no run to resume; start one there without --resume")
    out.mkdir(parents=True, exist_ok=True)
    with nobody_else(out):
        prepare_folder(out, recipe, resume)
        yield


def prepare_folder(out: Path, recipe: Recipe, resume: bool) -> None:
    """Write recipe.json into a locked run folder; ValueError if the folder belongs to another run, or has a
    symbolic link at a path that the run writes."""
    settings = out / "recipe.json"
    for name in ("recipe.json", "checkpoints", "figures", "tensorboard"):
        refuse_link(out / name)
    remove_staged(out)
    if settings.exists() and (resume or (out / "metrics.jsonl").exists()):
        if not resume:
            raise ValueError(
                f"{out} holds a run already; resume it with --resume {out}, or name another folder with --out"
            )
        before = renamed.settings(read_json(settings), recipe.to_dict())
        changed = {
            key: (before.get(key), value)
            for key, value in recipe.to_dict().items()
            if before.get(key) != value
        }
        if changed:
            raise ValueError(
                f"{out} was started with other settings: {changed} (before, now); resume it unchanged"
            )
        return
    write_json(settings, recipe.to_dict())


def digest(settings: dict[str, Any]) -> str:
    """SHA-256 of a recipe's settings, in hexadecimal, independent of their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_state(state: dict[str, Any], settings: str, steps: int, out: Path) -> None:
    """Raise ValueError if a checkpoint's state does not belong to this run: other settings (by `digest`,
    absent in version 0.1.0), a step beyond the last, or invalid numbers."""
    if state.get("recipe_sha256", settings) != settings:
        raise ValueError(
            f"the newest checkpoint of {out} was made with other settings than its recipe.json; restore the "
            "original recipe.json, or start a new run with another --out"
        )
    if state["step"] > steps:
        raise ValueError(
            f"the newest checkpoint of {out} is of step {state['step']}, beyond the recipe's `steps` "
            f"(={steps}); it belongs to another run: start a new one with another --out"
        )
    for name in ("wall_seconds", "cpu_seconds", "skipped_steps"):
        value = state.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ValueError(
                f"`{name}` (={value!r:.60}) of the newest checkpoint of {out} must be a number of at least "
                "0; start a new run with another --out"
            )


def first_batch(recipe: Recipe, device: torch.device, num_scenes: int = 6) -> Scenes:
    """Validation scenes shown in figures."""
    dataset = recipe.dataset("validation")
    return to_device(dataset[range(min(num_scenes, len(dataset)))], device)


@torch.no_grad()
def draw_latest(recipe: Recipe, model: nn.Module, shown: Scenes, out: Path) -> None:
    """Replace latest.png atomically."""
    was_training = model.training
    image = recipe.preview(model.eval(), shown)
    model.train(was_training)
    with replacing(out / "latest.png") as file:
        image.save(file, "PNG")


def averaging(decay: float) -> Callable[[Any, Any, Any], None]:
    """Update of `AveragedModel`: an EMA whose decay rises to `decay` during the first updates."""

    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
        count = float(num_averaged)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (count + 1) / (count + 10)))

    return update


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's noise."""
    return (seed * 1_000_003 + step + 1) % 2**63


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Flush numbers below 1e-38 to zero, as some processors are slow on them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)

"""The loop: plain PyTorch, read from top to bottom. It knows no model, data set or metric by name.

Everything random in a step is a function of the recipe's seed and the step, so that a run that was stopped
and resumed gives the same weights as one that was not.
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
from objecthood.analysis.out_of_distribution import usual
from objecthood.data.loader import batches, scene_indices
from objecthood.data.scene import Scenes, to_device
from objecthood.evaluate import evaluate
from objecthood.recipes import Recipe
from objecthood.runtime.distributed import Processes, joined, launched, restarted
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
from objecthood.training.nonfinite import Guard, accuse, keep
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

    The folder holds recipe.json, metrics.jsonl, checkpoints/, figures/, latest.png (refreshed while it runs),
    weights.safetensors, result.json and index.html. With `resume` a run that was stopped goes on from its
    newest whole checkpoint; so does one that torchrun starts anew (`--max-restarts`). With `compile` the loss
    is compiled by torch.compile: other rounding, the same noise. `log` may name "tensorboard": then its event
    files lie in the folder tensorboard/ as well. Called in every process that torchrun started, each trains
    on its share of the batch.

    Raises ValueError where `out` holds a run and `resume` was not asked for, or another recipe's;
    FloatingPointError, which names pictures and parameters, after three steps in a row without finite
    gradient (a single one is skipped). On Ctrl-C (or SIGTERM, SIGUSR1, SIGHUP: then `Preempted`, a kind of
    it) the step in hand is finished and saved, and KeyboardInterrupt raised; a second Ctrl-C stops at once,
    and the run can go on from its last checkpoint. `checkpoint.NotSaved` where the disk is full, or cannot be
    written to: what was saved before is whole. ValueError where another process trains into `out`.
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
    """All steps that are left, and the result. All processes take them; the first one alone scores and
    writes."""
    place = processes.device
    precision = choose_precision(recipe.precision, place)
    keep_freed_memory()

    torch.manual_seed(recipe.seed)
    model = recipe.build_model().to(place)
    model.to(memory_format=torch.channels_last)
    frozen = checkpoint.frozen_facts(model)
    if not processes.agree(json.dumps(frozen)):
        raise ValueError(
            f"processes restored different frozen weights ({frozen} in process {processes.rank}); name a "
            "revision in the recipe, and have every machine find the same files"
        )
    optimizers = recipe.build_optimizers(model)
    average = AveragedModel(model, multi_avg_fn=averaging(recipe.average))
    both = nn.ModuleList([model, average])
    state: dict[str, Any] = {"step": 0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    if processes.first:
        checkpoint.check_space(out, both)
    recipe_sha256 = digest(read_json(out / "recipe.json"))
    if resume:
        state |= checkpoint.restore(out / "checkpoints", both, optimizers) or {}
        check_state(state, recipe_sha256, recipe.steps, out)
    clock = Stopwatch(state["wall_seconds"], state["cpu_seconds"] if processes.first else 0.0)
    guard = Guard(state.get("skipped_steps", 0))
    first_step = step = state["step"]
    objective = Objective(recipe, model)
    if compile:
        objective.compile(options={"fallback_random": True})  # the noise that is drawn without it
    loss_of = processes.spread(objective)
    shown = first_batch(recipe, place)
    dataset = recipe.dataset("train")
    scenes_of_step = batches(
        dataset,
        recipe.batch_size,
        seed=recipe.seed,
        first_step=step,
        rank=processes.rank,
        num_processes=processes.count,
    )
    log = Log(out / "metrics.jsonl", first_step, processes.first, trackers)  # now the folder holds a run

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
            }
            checkpoint.save_checkpoint(out / "checkpoints", step, both, optimizers, facts)
        processes.wait()
        clock.start()

    score, alarmed = "", set[str]()
    with (
        StopRequest() as stop,
        told_how_to_go_on(out),
        RunProgress(recipe.name, recipe.steps, first_step) as progress,
        no_denormals(),
    ):
        while step < recipe.steps:
            # What is scored has been saved: a signal need not wait for it, and --resume makes up for it.
            if step and step % recipe.evaluate_every == 0 and processes.first:
                clock.pause()
                with stop.at_once():
                    scores = evaluate(average.module, recipe, "validation", recipe.validation_scenes)
                    log.write("evaluate", step, clock, scores)
                    draw_latest(recipe, average.module, shown, out)
                    log.show(step, out / "latest.png")
                    if 2 * step >= recipe.steps:  # before, nothing need have been found
                        for finding in alarms(average.module, recipe):
                            if finding.page not in alarmed:
                                alarmed.add(finding.page)
                                progress.say(f"step {step}: {finding.text}; see {finding.page}")
                shown_score = recipe.main_score if recipe.main_score in scores else next(iter(scores))
                score = f"{shown_score} {scores[shown_score]:.3f}  "
                clock.start()

            scenes = to_device(next(scenes_of_step), place)
            torch.manual_seed(step_seed(recipe.seed, step))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["base_lr"] * recipe.learning_rate_factor(step + 1)
            with torch.autocast(place.type, precision, enabled=precision != torch.float32):
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
                kept = keep(out, scenes, indices.tolist(), processes)
                told = accuse(recipe, model, scenes, indices.tolist(), step, processes)
                raise FloatingPointError(f"{told}; {kept}")
            for optimizer in optimizers:
                optimizer.zero_grad()
            step += 1

            if step % LOG_EVERY == 0 or step == recipe.steps:
                own_seconds = clock.cpu - clock.others
                sum_of_losses, cpu_seconds = processes.total(loss.item(), own_seconds)
                clock.others = cpu_seconds - own_seconds
                speed = (step - first_step) * recipe.batch_size / (clock.wall - state["wall_seconds"])
                values = {"loss": sum_of_losses / processes.count, "gradient_norm": norm.item()}
                values |= {"images_per_second": speed, "learning_rate": optimizers[0].param_groups[0]["lr"]}
                values["skipped_steps"] = guard.skipped
                log.write("train", step, clock, values)
                progress.update(step, f"loss {values['loss']:.4f}  {score}{speed:.0f} pictures/s")
            due = step % checkpoint_every == 0 or step % recipe.evaluate_every == 0
            if stopped or (due and step < recipe.steps):
                save_state()
            if stopped:
                stop.requested = int(stopped)
                raise stop.exception()
        save_state()
        clock.pause()
    if processes.first:
        facts: dict[str, Any] = {"processes": processes.count, "compile": compile}
        facts |= {"skipped_steps": guard.skipped, "machine": describe(place)}
        facts |= {"frozen": frozen} if frozen else {}
        with StopRequest() as stop, told_how_to_go_on(out), stop.at_once():
            finish(recipe, average.module, shown, out, clock, log, facts)


@contextlib.contextmanager
def told_how_to_go_on(out: Path) -> Iterator[None]:
    """A line for whoever stops a run, where there is one; once for all processes."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not launched() and (out / "recipe.json").exists():
            with contextlib.suppress(OSError):  # a terminal that was closed
                echo(f"stopped; go on with: {command()} train --resume {shlex.quote(str(out))}", flush=True)
                stop.args = (TOLD,)
        raise


class Objective(nn.Module):
    """A recipe's loss as a module, which is what DistributedDataParallel and torch.compile take hold of."""

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
        "settings": recipe.to_dict(),
    } | facts
    checkpoint.save(model, recipe, out / "weights.safetensors", scores, usual(model, recipe))
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
    """Whether nothing is left to do: the result and the report are written last, in this order."""
    return (out / "result.json").exists() and (out / "index.html").exists()


@contextlib.contextmanager
def claimed(out: Path, recipe: Recipe, resume: bool) -> Iterator[None]:
    """The run folder, locked before anything is written into it; ValueError where it belongs to another run,
    or another process trains into it."""
    if resume and not (out / "recipe.json").exists():
        raise ValueError(f"{out} holds no run to resume; leave --resume away to begin one there")
    out.mkdir(parents=True, exist_ok=True)
    with nobody_else(out):
        prepare_folder(out, recipe, resume)
        yield


def prepare_folder(out: Path, recipe: Recipe, resume: bool) -> None:
    """Write recipe.json into a locked run folder; ValueError where the folder belongs to another run, or
    holds a symbolic link where the run writes."""
    settings = out / "recipe.json"
    for name in ("recipe.json", "checkpoints", "figures", "tensorboard"):
        refuse_link(out / name)
    remove_staged(out)
    if settings.exists() and (resume or (out / "metrics.jsonl").exists()):
        if not resume:
            raise ValueError(
                f"{out} holds a run already; go on with --resume {out}, or name another folder with --out"
            )
        before = read_json(settings)
        changed = {
            key: (before.get(key), value)
            for key, value in recipe.to_dict().items()
            if before.get(key) != value
        }
        if changed:
            raise ValueError(
                f"{out} was begun with other settings: {changed} (before, now); resume it unchanged"
            )
        return
    write_json(settings, recipe.to_dict())


def digest(settings: dict[str, Any]) -> str:
    """SHA-256 of a recipe's settings, as hexadecimal digits; the order of the settings does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_state(state: dict[str, Any], settings: str, steps: int, out: Path) -> None:
    """ValueError where a checkpoint's state is not one of this run: made with other settings (by their
    `digest`, which version 0.1.0 did not keep), beyond the last step, or without plain numbers."""
    if state.get("recipe_sha256", settings) != settings:
        raise ValueError(
            f"the newest checkpoint of {out} was made with other settings than its recipe.json; put the "
            "recipe.json of that training back, or begin anew with another --out"
        )
    if state["step"] > steps:
        raise ValueError(
            f"the newest checkpoint of {out} is of step {state['step']}, beyond the recipe's `steps` "
            f"(={steps}); it belongs to another training, so begin anew with another --out"
        )
    for name in ("wall_seconds", "cpu_seconds", "skipped_steps"):
        value = state.get(name, 0)
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise ValueError(
                f"the newest checkpoint of {out} says `{name}` (={value!r:.60}), which must be a number of "
                "at least 0; begin anew with another --out"
            )


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
    with replacing(out / "latest.png") as file:
        picture.save(file, "PNG")


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


@contextlib.contextmanager
def no_denormals() -> Iterator[None]:
    """Numbers below 1e-38 as zero: some processors are slow on them, and here they carry nothing."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)

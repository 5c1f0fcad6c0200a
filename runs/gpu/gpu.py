"""What waits for a GPU, in the order of its worth: is it right, what does it cost, what does it learn.

    python runs/gpu/gpu.py                                      # all stages that have no result yet
    python runs/gpu/gpu.py correctness benchmark                # these
    python runs/gpu/gpu.py --out FOLDER --clevr SCENES          # results; a folder of `data render clevr`

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_correctness import correctness

import objecthood as oh
from objecthood.data.on_device import OnDevice
from objecthood.runtime.environment import describe

ROOT = Path(__file__).resolve().parents[2]
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


def benchmark(settings: Settings) -> dict[str, Any] | None:
    """`objecthood benchmark` on the device, as a user would run it."""
    target = settings.out / ".gpu-benchmark-run.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    per_resolution = f"{(settings.seconds - 2 * GRACE) / 4:.0f}"
    command = [sys.executable, "-m", "objecthood", "benchmark", "--device", str(settings.device)]
    if call([*command, "--seconds", per_resolution, "--out", str(target)], settings.seconds - GRACE):
        return None
    return {"benchmark": json.loads(target.read_text())}


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
    return Kept(**dataclasses.asdict(recipe))


STAGES: dict[str, Callable[[Settings], dict[str, Any] | None]] = {
    "correctness": lambda settings: correctness(settings.device),
    "benchmark": benchmark,
    "clevr6-like": train_seeds(
        "clevr6-like", 3, resolution=128, batch_size=64, steps=20_000, decay_half_life=0
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

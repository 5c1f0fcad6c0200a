"""Run log: training time, and metrics in metrics.jsonl and optionally TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from objecthood import checkpoint
from objecthood.runtime.files import parse_json, read_plain, write_text

TRACKERS = ("tensorboard",)


class TensorBoard:
    """Event files in `folder`, for `tensorboard --logdir`.

    Tags are kind and key of metrics.jsonl, such as "train/loss" and "evaluate/fg_ari"; "latest" is
    latest.png. A resumed run purges events from `first_step` on, and rewrites the `lines` of that step.
    """

    def __init__(self, folder: Path, first_step: int, lines: Sequence[dict[str, Any]] = ()):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=first_step or None)
        for line in lines:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Write the values of a line of metrics.jsonl."""
        for name in line.keys() - {"kind", "step"}:
            self._writer.add_scalar(f"{line['kind']}/{name}", line[name], line["step"])

    def show(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self._writer.add_image("latest", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError if a name is not in `TRACKERS`, or its package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"`log` (={name!r}) must be one of {', '.join(TRACKERS)}; metrics.jsonl is always written"
            )
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"`log` (={name!r}) needs a package that is not installed; pip install 'objecthood[{name}]'"
            ) from error


class Stopwatch:
    """Wall and CPU seconds of training, paused during evaluation, figures and checkpoints."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0):
        self._wall, self._cpu = wall, cpu
        self.others = 0.0
        """CPU seconds of the other processes, when last updated."""
        self.start()

    def start(self) -> None:
        self._since: tuple[float, float] | None = (time.perf_counter(), time.process_time())

    def pause(self) -> None:
        self._wall, self._cpu, self._since = self.wall, self.cpu - self.others, None

    @property
    def wall(self) -> float:
        return self._wall + (time.perf_counter() - self._since[0] if self._since else 0)

    @property
    def cpu(self) -> float:
        running = time.process_time() - self._since[1] if self._since else 0
        return self._cpu + self.others + running


def read_log(path: Path) -> list[dict[str, Any]]:
    """Valid lines of metrics.jsonl: objects with text "kind", integer "step", and numbers. Incomplete and
    damaged lines are skipped."""
    lines = []
    for text in (read_plain(path) or b"").splitlines():
        try:
            line = parse_json(text)
        except ValueError:
            continue
        if (
            isinstance(line, dict)
            and isinstance(line.get("kind"), str)
            and type(line.get("step")) is int
            and all(isinstance(value, int | float) for name, value in line.items() if name != "kind")
        ):
            lines.append(line)
    return lines


def _is_before(line: dict[str, Any], step: int) -> bool:
    return line["step"] < step or (line["step"] == step and line["kind"] == "train")


class Log:
    """metrics.jsonl, one JSON object per line, and `trackers`, which get the same values.

    A resumed run drops lines after its checkpoint, including the scores of that step. Only the first process
    has `written` set.
    """

    def __init__(self, path: Path, first_step: int, written: bool = True, trackers: Sequence[str] = ()):
        self.path, self.written = path, written
        self.trackers: list[TensorBoard] = []
        if not written:
            return
        lines = [line for line in read_log(path) if _is_before(line, first_step)] if first_step else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        # A tracker purges the first step's lines as well.
        own = [line for line in lines if line["step"] == first_step]
        self.trackers = [TensorBoard(path.parent / name, first_step, own) for name in trackers]

    def sync(self) -> None:
        """Flush all lines to disk, and trackers."""
        if self.written:
            checkpoint.sync(self.path)
        for tracker in self.trackers:
            tracker.flush()

    def write(self, kind: str, step: int, clock: Stopwatch, values: dict[str, float]) -> None:
        if not self.written:
            return
        line = {
            "kind": kind,
            "step": step,
            "seconds": round(clock.wall, 3),
            "cpu_seconds": round(clock.cpu, 3),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line | values) + "\n")
        for tracker in self.trackers:
            tracker.write(line | values)

    def show(self, step: int, path: Path) -> None:
        """Pass the image of a step to the trackers."""
        for tracker in self.trackers:
            tracker.show(step, path)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()

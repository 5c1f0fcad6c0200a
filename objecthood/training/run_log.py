"""What a run notes of itself: its time, its scores in metrics.jsonl, and in TensorBoard for who asks."""

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
    """Event files below `folder`, to be read by `tensorboard --logdir`.

    Tags are "train/loss", "evaluate/fg_ari" and so on, the keys of metrics.jsonl, over steps; "latest" is the
    image that is shown while training. A run that is gone on with hides what it had told from `first_step`
    on, but for the `lines` of that step.
    """

    def __init__(self, folder: Path, first_step: int, lines: Sequence[dict[str, Any]] = ()):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=first_step or None)
        for line in lines:
            self.write(line)

    def write(self, line: dict[str, Any]) -> None:
        """Tell what a line of metrics.jsonl tells."""
        for name in line.keys() - {"kind", "step"}:
            self._writer.add_scalar(f"{line['kind']}/{name}", line[name], line["step"])

    def show(self, step: int, picture: Path) -> None:
        with Image.open(picture) as shown:
            self._writer.add_image("latest", np.asarray(shown.convert("RGB")), step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def check_trackers(names: Sequence[str]) -> None:
    """ValueError where a name is none of `TRACKERS`, or what it needs is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"`log` (={name!r}) must be of {', '.join(TRACKERS)}; metrics.jsonl is always written"
            )
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"`log` (={name!r}) needs a package that is not here; pip install 'objecthood[{name}]'"
            ) from error


class Stopwatch:
    """Wall and CPU seconds spent training: evaluation, images and checkpoints are paused for."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0):
        self._wall, self._cpu = wall, cpu
        self.others = 0.0
        """CPU seconds of the other processes, as last told."""
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
    """The lines of metrics.jsonl that are whole: objects with a text as "kind", a whole number as "step", and
    numbers as all else. A line that was being written when a run was killed, or is damaged, is left out."""
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
    """metrics.jsonl: one JSON object a line; lines that came after the checkpoint that a run resumes from are
    dropped, its step's own scores among them.

    Only the first process has it `written`. `trackers` are told the same.
    """

    def __init__(self, path: Path, first_step: int, written: bool = True, trackers: Sequence[str] = ()):
        self.path, self.written = path, written
        self.trackers: list[TensorBoard] = []
        if not written:
            return
        lines = [line for line in read_log(path) if _is_before(line, first_step)] if first_step else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        # A tracker drops the first step's own lines with the later ones.
        own = [line for line in lines if line["step"] == first_step]
        self.trackers = [TensorBoard(path.parent / name, first_step, own) for name in trackers]

    def sync(self) -> None:
        """Have the system write all lines to disk before going on, and trackers what they hold."""
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

    def show(self, step: int, picture: Path) -> None:
        """Hand the image of a step to the trackers."""
        for tracker in self.trackers:
            tracker.show(step, picture)

    def close(self) -> None:
        """Have trackers write what they hold."""
        for tracker in self.trackers:
            tracker.close()

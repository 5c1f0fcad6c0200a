"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from objecthood.runtime.terminal import console, echo


class RunProgress:
    """A bar with loss, score, images per second and time left; use as a context manager.

    Args:
        name: of the run, shown first.
        num_steps: total number of steps.
        first_step: first step of a resumed run.
        every: seconds between plain lines without a terminal.
    """

    def __init__(self, name: str, num_steps: int, first_step: int = 0, every: float = 15.0):
        self.console = console(stderr=True)
        self.num_steps, self.every, self.name = num_steps, every, name
        self.started = self.spoken = time.monotonic()
        self.first_step, self.status = first_step, ""
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(name, total=num_steps, completed=first_step, status="")

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.bar.disable:  # rich before 14.3 prints an empty line even so
            with contextlib.suppress(OSError):  # a terminal that was closed; what it ends with matters more
                self.bar.stop()

    def update(self, step: int, status: str, num_steps: int | None = None) -> None:
        """Show that `step` steps are done, with a `status` text; `num_steps` is their new total, 0 if
        unknown."""
        if num_steps is not None:
            self.num_steps = num_steps
            self.bar.update(self.task, total=num_steps or None)
        self.bar.update(self.task, completed=step, status=status)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self.spoken >= self.every or step == self.num_steps):
            self.spoken = now
            seconds_left = (now - self.started) / max(1, step - self.first_step) * (self.num_steps - step)
            echo(f"{self.name} {step}/{self.num_steps}  {status}  {seconds_left:.0f} s left", flush=True)

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if self.console.is_terminal:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            echo(text, flush=True)

"""Being told to stop: by the keyboard, or by a machine that is wanted for something else."""

from __future__ import annotations

import signal
import threading
from typing import Any

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
PREEMPTED = 75
"""Exit code after any signal but Ctrl-C: saved, to be gone on with (EX_TEMPFAIL of sysexits.h)."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C; a scheduler or a shutdown; a closed terminal; SLURM's warning, by custom."""


class Preempted(KeyboardInterrupt):
    """The run was saved because the machine is wanted; the same command with --resume goes on."""


class StopRequest:
    """Takes note of the first signal of `NAMES`, so that no step is cut in half; gives way to a second
    Ctrl-C.

    `requested` is the signal's number, 0 without one. Outside the main thread, where Python delivers no
    signals, it does nothing.
    """

    def __enter__(self) -> StopRequest:
        self.requested = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number


def stop_signals() -> list[signal.Signals]:
    """Those of `NAMES` that this system has; a closed terminal only where nohup does not say to ignore it."""
    known = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    ignored = [s for s in known if s.name == "SIGHUP" and signal.getsignal(s) == signal.SIG_IGN]
    return [number for number in known if number not in ignored]

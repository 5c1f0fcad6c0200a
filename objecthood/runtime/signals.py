"""Stop signals: Ctrl-C and preemption; folder locks."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the convention of shells."""
PREEMPTED = 75
"""Exit code after any other signal: saved and resumable (EX_TEMPFAIL of sysexits.h)."""
TOLD = "told"
"""Argument of a KeyboardInterrupt whose message was already printed."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C; scheduler or shutdown; closed terminal; SLURM's warning, by convention."""


def command() -> str:
    """The command line of this command: `objecthood` if it is on the PATH, else `python -m objecthood`."""
    return "objecthood" if shutil.which("objecthood") else f"{shlex.quote(sys.executable)} -m objecthood"


class Preempted(KeyboardInterrupt):
    """The run was stopped by a signal and saved; --resume continues it."""


class StartingUp:
    """From entering on, a signal other than Ctrl-C ends the process with a line and `PREEMPTED`, until a
    `StopRequest` takes over.

    Imports and the making of a model take seconds, in which nothing has been computed that could be saved.
    The process ends at once: an exception could be lost in a library that catches all. Outside the main
    thread it does nothing.

    Args:
        remedy: what to do then, the end of the line.
    """

    def __init__(self, remedy: str = "type the command again"):
        self.remedy = remedy

    def __enter__(self) -> None:
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in stop_signals() if number != signal.SIGINT]
            self._before = {number: signal.signal(number, self._end) for number in numbers}

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: object) -> None:
        said = f"stopped by {signal.Signals(number).name}; {self.remedy}\n"
        if "RANK" not in os.environ:  # of several processes the one that started them speaks
            with contextlib.suppress(OSError):  # a terminal that was closed
                os.write(2, said.encode())
        os._exit(PREEMPTED)


class StopRequest:
    """Records the first signal of `NAMES`, so that the current step is completed; a second Ctrl-C interrupts.

    `requested` is the signal number, or 0. It does nothing outside the main thread, which gets no signals.
    """

    requested = 0

    def __enter__(self) -> StopRequest:
        self.requested, self._at_once = 0, False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a signal interrupts immediately: everything is saved, and it may take minutes."""
        if self.requested:
            raise self.exception()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def exception(self) -> KeyboardInterrupt:
        """`Preempted`, or KeyboardInterrupt for Ctrl-C."""
        return KeyboardInterrupt() if self.requested == signal.SIGINT else Preempted()

    def _note(self, number: int, frame: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number
        if self._at_once:
            raise self.exception()


@contextlib.contextmanager
def nobody_else(
    folder: Path, use: str = "trained into", remedy: str = "wait for it, or stop it"
) -> Iterator[None]:
    """Lock `folder` against another process; ValueError names the process that holds the lock."""
    descriptor = lock_folder(folder, use, remedy)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def lock_folder(folder: Path, use: str, remedy: str) -> int | None:
    """A descriptor that holds the lock of `folder` until it is closed; ValueError names the process that
    holds the lock.

    The lock is on the folder itself and ends with the process. File systems without locks are not locked;
    None on Windows.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # an old NFS
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _holder(os.fstat(descriptor).st_ino)
            os.close(descriptor)
            raise ValueError(f"{folder} is {use} by {other}; {remedy}") from None
    return descriptor


def _holder(inode: int) -> str:
    """The process that holds a lock, from /proc/locks: "1: FLOCK ADVISORY WRITE 4321 08:01:1234567 0 EOF"."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[5].rpartition(":")[2] == str(inode):
                return f"process {words[4]}"
    return "another process"


def stop_signals() -> list[signal.Signals]:
    """The signals of `NAMES` on this system, without SIGHUP under nohup."""
    known = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    ignored = [s for s in known if s.name == "SIGHUP" and signal.getsignal(s) == signal.SIG_IGN]
    return [number for number in known if number not in ignored]

"""Processes that are made to die: forks of a warm one, so that a hundred deaths take seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

# A fork has one thread, whatever its parent had; what it does here needs no other.
fork_is_fine = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def begin(work: Callable[[], object]) -> int:
    """`work` in a fork, silent; its process number. It ends with 0, or with 1 where `work` raises."""
    process = os.fork()
    if process:
        return process
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            work()
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(1)


def begin_on_terminal(work: Callable[[], int]) -> tuple[int, int]:
    """`work` in a fork with a terminal of its own, as a user has it; its process number, and our end of the
    terminal. It ends with what `work` gives."""
    import pty

    process, terminal = pty.fork()
    if process:
        return process, terminal
    try:
        os.environ["TERM"] = "xterm"
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = work()
        sys.stdout.flush(), sys.stderr.flush()  # as Python does at its end, whose code is 120 where it cannot
        os._exit(code)
    finally:
        os._exit(99)


def shown(terminal: int) -> str:
    """What a terminal shows until its process closes it, or we do."""
    parts = []
    with contextlib.suppress(OSError):  # Linux's way to say that nobody is there
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode(errors="replace")


def ended(process: int, seconds: float = 60) -> int:
    """What a fork ended with; the number of a signal is negative."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"still running after {seconds} s")


def kill(process: int) -> int:
    """End a fork at once, as a power cut would; what it ended with, 0 where it was done already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return ended(process)


CALLS = {
    *("open", "write", "close", "flush", "fsync", "mkdir", "rename", "unlink", "rmdir", "serialize_file"),
    "__exit__",
}
"""Functions of C through which a save changes what is on disk."""


def die_at_call(number: int) -> None:
    """From here on, this process is killed before its `number`th call (from 0) of `CALLS`."""
    seen = -1

    def watch(frame: object, event: str, function: object) -> None:
        nonlocal seen
        if event == "c_call" and getattr(function, "__name__", "") in CALLS:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def traced(work: Callable[[], object], log: Path, *options: str) -> int:
    """What a fork that does `work` under strace ends with; its calls to the system are in `log`."""
    import subprocess

    reading, writing = os.pipe()

    def wait_and_work() -> None:
        os.read(reading, 1)
        work()

    process = begin(wait_and_work)
    command = ["strace", "-f", "-qqq", "-o", str(log), *options, "-p", str(process)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as strace:
        while f"TracerPid:\t{strace.pid}" not in Path(f"/proc/{process}/status").read_text():
            assert strace.poll() is None, "strace may not attach here"
            time.sleep(0.002)
        os.write(writing, b"x")
        code = ended(process)
    os.close(reading)
    os.close(writing)
    return code


def sleep_in_pool(member, out: Path, device: str) -> None:
    """In place of a training in a process of several: leaves its process number, and does not end."""
    (out / member.name).write_text(str(os.getpid()))
    time.sleep(600)

"""Entry point of the command `objecthood`: dispatch, help, errors and exit codes.

Commands import heavy packages themselves, so that help and usage errors are fast.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from objecthood.cli.commands import COMMANDS
from objecthood.cli.options import UsageError, is_option
from objecthood.runtime import renamed
from objecthood.runtime.cores import idle_cores
from objecthood.runtime.signals import INTERRUPTED, PREEMPTED, TOLD, Preempted, StartingUp, stop_signals
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

AGAIN = "type the command again"
STOPPABLE = {
    "train": "go on with --resume, or start again where there is no run yet",
    "sweep": AGAIN,
    "leaderboard": AGAIN,
    "predict": AGAIN,
    "evaluate": AGAIN,
}
"""Commands that a scheduler runs: stopped by it, they end with `PREEMPTED` and a line, which says what to
do."""
EXIT_CODES = """\
  0    success
  1    failure, also if some images were skipped; the reason is on stderr
  2    usage error: unknown command, recipe or option, or invalid value
  75   stopped by a scheduler; a training is saved: train --resume RUN continues it
  130  stopped by Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (`sys.argv` by default) and return its exit code."""
    # On a busy machine spinning OpenMP threads cost several times the CPU seconds. Importing torch reads the
    # variable, so it is set first; a value set by the user is kept.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # escape characters that the terminal cannot encode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    word = typed[0] if typed else ""
    try:
        with StartingUp(STOPPABLE[word]) if word in STOPPABLE else contextlib.nullcontext():
            words, hints = renamed.options([word for word in typed if word != "--debug"])
            for hint in hints:
                echo(hint, file=sys.stderr)
            return run(words)
    except KeyboardInterrupt as stop:
        try:
            if TOLD not in stop.args:
                print("stopped", file=sys.stderr, flush=True)
        except OSError:  # the terminal was closed
            discard_output()
        return PREEMPTED if isinstance(stop, Preempted) else INTERRUPTED
    except SystemExit as stop:  # raised by --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # the reader (such as `| head`) closed the pipe
        if word in STOPPABLE:
            with contextlib.suppress(OSError):
                echo(
                    f"error: nobody reads the output any more; {STOPPABLE[word]}", file=sys.stderr, flush=True
                )
        discard_output()
        return 1 if word in STOPPABLE else 0
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        echo(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def entry() -> int:
    """`main` as a process: signals that arrive after its end do not change the exit code."""
    if sys.argv[1:2] == ["predict"]:  # in training the number of threads decides the last bits of weights
        os.environ.setdefault("OMP_NUM_THREADS", str(idle_cores()))
    code = main()
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    return code


def discard_output() -> None:
    """Redirect stdout and stderr to the null device: flushing them at exit would fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def run(arguments: list[str]) -> int:
    """Run the command named by the first argument and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    name, *rest = arguments
    if name == "--version":
        from objecthood import __version__

        print(f"objecthood {__version__}")
        return 0
    if name not in COMMANDS:
        known = ["--help", "--version"] if is_option(name) else list(COMMANDS)
        raise UsageError(f"no command {name!r}; {did_you_mean(name, known)} See objecthood --help")
    try:
        os.getcwd()
    except OSError as error:  # libraries below torch would end the process with an error of their own
        raise ValueError("the working directory was removed; change into another") from error
    return COMMANDS[name](rest)


def help_text() -> str:
    """The help of the whole command: the first line of every command's docstring, and exit codes."""
    lines = [f"  {name:<12}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: objecthood COMMAND ...",
            "",
            "Find objects in images, learned without labels (Slot Attention and related models).",
            "",
            "commands:",
            *lines,
            "",
            "objecthood COMMAND --help  show the options of a command",
            "objecthood --version       show the version",
            "--debug                    show the traceback of an error",
            "",
            "exit codes:",
            EXIT_CODES,
        ]
    )


def in_one_line(error: Exception) -> str:
    """An error as one line; unexpected types of errors with their type and a hint."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror}; check the path, its permissions and the space left"
    elif not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}; --debug shows the traceback"
    return text

"""The command: `objecthood train | sweep | evaluate | predict | list | ...`; help, errors and exit codes.

Nothing heavy is imported until a command needs it, so that help and mistakes are answered at once.
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
from objecthood.runtime.signals import INTERRUPTED, PREEMPTED, TOLD, Preempted, StartingUp, stop_signals
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo

AGAIN = "type the command again"
STOPPABLE = {
    "train": "go on with --resume, or start again where there is no run yet",
    "sweep": AGAIN,
    "predict": AGAIN,
    "evaluate": AGAIN,
}
"""Commands that a scheduler runs: stopped by it, they end with `PREEMPTED` and a line, which says what to
do."""
EXIT_CODES = """\
  0    done
  1    could not be done, or not for all pictures; the reason is one line on stderr
  2    typed wrongly: unknown command, recipe or option, or a value that does not fit
  75   stopped by a signal (SIGTERM, SIGUSR1, SIGHUP) and saved; train --resume RUN goes on
  130  stopped with Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those typed, unless given) and return its exit code."""
    # Threads of OpenMP that wait by spinning take a busy machine's cores from each other: several times the
    # CPU seconds. It is read when torch is imported, so this comes first; a choice of the user's own stands.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # names that the terminal's encoding lacks are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    try:
        word = typed[0] if typed else ""
        with StartingUp(STOPPABLE[word]) if word in STOPPABLE else contextlib.nullcontext():
            return run([word for word in typed if word != "--debug"])
    except KeyboardInterrupt as stop:
        try:
            if TOLD not in stop.args:
                print("stopped", file=sys.stderr, flush=True)
        except OSError:  # the terminal was closed, which is why we were stopped
            nothing_more_is_said()
        return PREEMPTED if isinstance(stop, Preempted) else INTERRUPTED
    except SystemExit as stop:  # after a command's help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # whoever read our output (`| head`) has enough
        nothing_more_is_said()
        return 0
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        echo(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def entry() -> int:
    """`main` as a process of its own: once it has ended, being told to stop changes its exit code no more."""
    code = main()
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    return code


def nothing_more_is_said() -> None:
    """What was printed and could not be written is dropped, for Python would fail to write it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def run(arguments: list[str]) -> int:
    """The command that the first word names, with the rest; its exit code."""
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
        raise UsageError(f"no command {name!r}; {did_you_mean(name, known)} objecthood --help lists all")
    return COMMANDS[name](rest)


def help_text() -> str:
    """The help of the whole command, from the first lines of its parts."""
    lines = [f"  {name:<12}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: objecthood COMMAND ...",
            "",
            "Objects in pictures, found without labels.",
            "",
            "commands:",
            *lines,
            "",
            "objecthood COMMAND --help shows a command's options; objecthood --version the version.",
            "--debug, anywhere, shows where an error comes from.",
            "",
            "exit codes:",
            EXIT_CODES,
        ]
    )


def in_one_line(error: Exception) -> str:
    """An error as one line; of a kind that we do not raise ourselves, with its kind and how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        text = f"{place}{error.strerror}; check the path, its permissions and the space left"
    elif not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}; see where with --debug"
    return text

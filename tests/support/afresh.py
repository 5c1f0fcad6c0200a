"""Python in a fresh process that is ready at once: forked from one that has imported PyTorch and the package
and done nothing else. Shapes are not checked, as for a user."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

IMPORTED = [
    "scipy.optimize",
    "objecthood.models",
    "objecthood.checkpoint",
    "objecthood.inference.predict",
]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def run(
    code: str,
    folder: Path,
    environment: dict[str, str],
    arguments: tuple[str, ...] = (),
    strict: bool = False,
) -> str:
    """What `code` prints in `folder`; AssertionError with the traceback where it raises. With `strict`, a
    warning is an error."""
    reading, writing = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(code, folder, environment, arguments, strict, writing))
    process.start()
    writing.close()
    try:
        said, problem = reading.recv()
    except EOFError:
        said, problem = "", "the process died"
    process.join()
    reading.close()
    assert not problem, problem
    return said


def _work(
    code: str,
    folder: Path,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    strict: bool,
    writing: Connection,
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    warnings.simplefilter("error" if strict else "default")
    said, problem = io.StringIO(), ""
    with contextlib.redirect_stdout(said):
        try:
            exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
        except BaseException:
            problem = traceback.format_exc()
    writing.send((said.getvalue(), problem))

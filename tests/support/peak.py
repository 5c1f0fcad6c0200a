"""How much memory images take to be read: run in a fresh process, whose peak is its own."""

from __future__ import annotations

import re
import time
from pathlib import Path

from corpus import PICTURE, encode

from objecthood.data.io.images import ImageError, read_image


def peak_growth(paths: list[Path], honest: bytes) -> tuple[float, float, float]:
    """MB that the peak of this process grows by over the bombs, seconds of the slowest, MB for `honest`."""
    read_image(encode(PICTURE, "PNG"))
    before, slowest = peak(), 0.0
    for path in paths:
        start = time.perf_counter()
        try:
            read_image(path)
            raise AssertionError(f"{path} was read")
        except ImageError:
            slowest = max(slowest, time.perf_counter() - start)
    after = peak()
    read_image(honest)
    return after - before, slowest, peak() - after


def peak() -> float:
    """MB. Not `getrusage`, which carries over the peak of the process that started this one."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024

"""Used for hours: memory, open files and threads stay what they were."""

import gc
import io
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import objecthood as oh
from objecthood.data.io.images import read_image

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc"),
]


AREA, SAME = "What goes wrong inside", "memory, open files and threads stay as they were"


def held() -> tuple[float, int, int]:
    """Kilobytes, open files and threads of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024, len(os.listdir("/proc/self/fd")), threading.active_count()


def soaked(work, times: int) -> float:
    """Kilobytes that every further time takes, after a quarter of them to warm up."""
    for number in range(times // 4):
        work(number)
    before = held()
    for number in range(times):
        work(number)
    after = held()
    assert after[1:] == before[1:], "open files or threads are left"
    return (after[0] - before[0]) / times


def test_predictions(unchecked, scoreboard):
    model = oh.load("tetrominoes")
    pictures = [np.random.default_rng(n).integers(0, 256, (35, 35, 3), np.uint8) for n in range(8)]
    growth = soaked(lambda number: oh.predict(model, [pictures[number % 8]])[0].masks, 1000)
    assert growth < 1
    scoreboard(AREA, f"predictions: {SAME}", 1000, measured=f"{growth:+.2f} KB each")


def test_user_images(scoreboard):
    """Good ones and damaged ones in turn."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(stream, "PNG")
    contents = [stream.getvalue(), stream.getvalue()[:900], b"no image"]

    def read(number: int) -> None:
        try:
            read_image(contents[number % 3])
        except ValueError:
            assert number % 3

    growth = soaked(read, 6000)
    assert growth < 1
    scoreboard(AREA, f"images, two of three damaged: {SAME}", 6000, measured=f"{growth:+.3f} KB each")

"""Work on several items at a time, in threads that use one PyTorch thread each.

Operators on small tensors gain little from several threads within; whole items in parallel do. NumPy, Pillow,
OpenCV, PyAV and PyTorch let other threads run while they compute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")
MOST = 8
"""Threads unless said otherwise: each may hold much memory, and what the caller's thread does bounds the
speed."""


def parallel(
    function: Callable[[Item], Found], items: Iterable[Item], threads: int | None = None
) -> Iterator[Found]:
    """`function` of every item, in the order of `items`.

    Items are taken in the caller's thread, at most `threads` ahead of the results. Gradients are recorded in
    `function` where the caller records them.

    Args:
        function: may run in several threads at a time.
        items: what it is called with.
        threads: how many; as many as PyTorch has by default, at most `MOST`. One: in the caller's thread.

    Raises:
        Exception: what `function` raises, in place of its result; no further item is taken.
        RuntimeError: the system starts no further thread.

    Example:
        >>> list(parallel(abs, [-2, 3, -5], threads=2))
        [2, 3, 5]
    """
    threads = threads or min(torch.get_num_threads(), MOST)
    if threads == 1:
        yield from map(function, items)
        return
    records = torch.is_grad_enabled()

    def once(item: Item) -> Found:
        with torch.set_grad_enabled(records):
            return function(item)

    pool = _pool(threads)
    waiting: deque[Future[Found]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(once, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads with one PyTorch thread each. That number is also what later threads begin with, so it is set
    back once all of these have theirs."""
    own, ready = torch.get_num_threads(), Barrier(threads)

    def start() -> None:
        torch.get_num_threads()  # the first call in a thread would undo what was set before it
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads)
    try:
        for begun in [pool.submit(start) for _ in range(threads)]:
            begun.result()
    except BaseException:  # interrupted, or no thread to be had: those that wait would wait for ever
        ready.abort()
        pool.shutdown()
        raise
    finally:
        torch.set_num_threads(own)
    return pool

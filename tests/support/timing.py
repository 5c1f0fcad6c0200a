"""CPU time of calls, for tests that hold a limit on a machine that others use too."""

import time
from collections.abc import Callable


def cpu_seconds(function: Callable[[], object], limit: float = 0.0, tries: int = 3) -> float:
    """CPU seconds of this thread for `function`: of the first call within `limit`, else of the fastest.

    Slow code is slow each time; the garbage collector or a neighbour on the same core strikes once.
    """
    fastest = float("inf")
    for _ in range(tries):
        start = time.thread_time()
        function()
        fastest = min(fastest, time.thread_time() - start)
        if fastest < limit:
            break
    return fastest

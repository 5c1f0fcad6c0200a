"""CPU cores that a process may use."""

from __future__ import annotations

import os


def num_cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def idle_cores() -> int:
    """Cores that other processes leave free, at least 1.

    Threads that wait for a core which another process holds cost several times the CPU seconds of one thread.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, num_cores() - round(load))

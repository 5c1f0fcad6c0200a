"""Timing on a shared machine: calls are interleaved in rounds; results are medians with quartiles.

Load by other processes affects all calls of a round, so ratios are computed per round before the median. CPU
seconds include all threads of this process and exclude time given to other processes.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

LEAST_ROUNDS = 5
"""Minimum number of rounds, for quartiles."""
_TURN_SECONDS = 0.05
"""Approximate duration of a turn, long relative to the clock's resolution; short calls are repeated."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles of `count` measurements."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """
        Example:
            >>> Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
            Spread(median=3.0, low=2.0, high=4.0, count=5)
        """
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high, len(values))

    def to_dict(self, digits: int = 4) -> dict[str, float]:
        """For JSON, rounded to `digits` significant digits."""
        numbers = {"median": self.median, "low": self.low, "high": self.high}
        return {name: float(f"{value:.{digits}g}") for name, value in numbers.items()} | {"count": self.count}


@dataclasses.dataclass(frozen=True)
class Turns:
    """Seconds per call of every turn of one contestant."""

    wall: list[float]
    cpu: list[float]

    def ratio(self, other: Turns, clock: str = "cpu") -> Spread:
        """Ratio to the seconds of `other`, per round."""
        pairs = zip(getattr(self, clock), getattr(other, clock), strict=True)
        return Spread.of([one / another for one, another in pairs])


def take_turns(
    calls: Mapping[str, Callable[[], object]], seconds: float, device: torch.device | None = None
) -> dict[str, Turns]:
    """Time `calls` in rounds, one turn each, for about `seconds` in total and at least `LEAST_ROUNDS` rounds.

    Every call is made twice before, untimed. On a GPU a turn ends with a synchronisation.

    Example:
        >>> turns = take_turns({"short": lambda: sum(range(10)), "long": lambda: sum(range(10_000))}, 0.1)
        >>> turns["long"].ratio(turns["short"], "wall").median > 10
        True
    """
    repeats = {name: _repeats(call, device) for name, call in calls.items()}
    turns = {name: Turns([], []) for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        for name, call in calls.items():
            wall, cpu = seconds_of(call, repeats[name], device)
            turns[name].wall.append(wall)
            turns[name].cpu.append(cpu)
        rounds += 1
    return turns


def seconds_of(
    call: Callable[[], object], repeats: int = 1, device: torch.device | None = None
) -> tuple[float, float]:
    """Wall and CPU seconds per call, averaged over `repeats`."""
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def clock_of(device: torch.device) -> str:
    """The clock of ratios: "cpu", which other processes hardly affect, or "wall" on a GPU."""
    return "wall" if device.type == "cuda" else "cpu"


def wait(device: torch.device | None) -> None:
    """Synchronise a GPU; no effect on a CPU."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _repeats(call: Callable[[], object], device: torch.device | None) -> int:
    call()
    wall, _ = seconds_of(call, 1, device)
    return max(1, round(_TURN_SECONDS / max(wall, 1e-7)))

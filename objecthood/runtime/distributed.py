"""Several processes train as one: each has its share of every batch, gradients are averaged between them.

torchrun, or whatever else sets its environment variables, starts the processes; DistributedDataParallel (Li
et al. 2020, arXiv 2006.15704) averages gradients while they are computed. This file is what lies between
these and the loop: who am I, on which device, and what do the others say?
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from objecthood.runtime.signals import INTERRUPTED, PREEMPTED, Preempted, stop_signals

Value = TypeVar("Value")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process that it starts."""
LAUNCHED = "objecthood-"
"""How the identity of a job of `launch` begins, which torchrun's agent hands on."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: scoring and drawing on the first one are waited for as well."""


class Processes:
    """This process among the `count` that train together; `rank` 0 is the first, which alone writes.

    Args:
        rank: of this process, from 0.
        count: of all processes, on all machines.
        device: what this process computes on.

    Example:
        >>> alone = Processes(0, 1, torch.device("cpu"))
        >>> alone.first, alone.total(2.0, 3.0)
        (True, [2.0, 3.0])
    """

    def __init__(self, rank: int, count: int, device: torch.device):
        self.rank, self.count, self.device = rank, count, device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def spread(self, module: nn.Module) -> nn.Module:
        """`module`, whose backward pass averages gradients over processes; all parameters must have a part
        in it."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def total(self, *values: float) -> list[float]:
        """Sums over processes; all must ask."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """The largest of each over processes; all must ask."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def agree(self, text: str) -> bool:
        """Whether `text` is the same in all processes; all must ask."""
        number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)  # 48 bits: exact as a float64
        least, most = self.largest(-number, number)
        return -least == most

    def wait(self) -> None:
        """Until all have come here."""
        self.total(0)

    def _reduce(self, values: tuple[float, ...], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)  # on the CPU: no GPU has to be waited for
        dist.all_reduce(shared, operation)
        return shared.tolist()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """This process among those that torchrun started, or alone; all but the first keep silent.

    "cuda" without a number is the GPU of the process's own number on its machine. Raises ValueError where
    there is none.
    """
    if not started() or os.environ["WORLD_SIZE"] == "1":
        yield Processes(0, 1, device)
        return
    rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device.type == "cuda":
        device = torch.device("cuda", local if device.index is None else device.index)
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU of its own ({torch.cuda.device_count()} here); "
                "start as many processes as there are GPUs, or choose --device cpu"
            )
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, **meeting_place())
    try:
        with contextlib.nullcontext() if rank == 0 else silence():
            yield Processes(rank, count, device)
    finally:
        # A thread of gloo may still wait for Python's lock, to let go of a tensor. Destroying the group waits
        # for that thread with the lock in hand; asleep we do not hold it.
        time.sleep(0.2)
        dist.destroy_process_group()


def meeting_place() -> dict[str, Any]:
    """Where processes that torchrun started anew find each other: its store (torch 2.13) still lists the
    ports of those that died, hence a part of it for each start; nothing for the first one."""
    if not restarted():
        return {}
    store, rank, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    store = dist.PrefixStore(  # type: ignore[attr-defined]
        f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store
    )
    return {"store": store, "rank": rank, "world_size": count}


def started() -> bool:
    """Whether this process is one of several that were started together."""
    return all(name in os.environ for name in VARIABLES)


def restarted() -> bool:
    """Whether torchrun started this process anew after a failure (`--max-restarts`)."""
    return started() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def launched() -> bool:
    """Whether `launch` started this process: what is to be said of the whole, the launching one says."""
    return started() and os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCHED)


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return not started() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is printed; errors are raised as ever."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def launch(arguments: list[str], count: int) -> None:
    """Run `objecthood ARGUMENTS` as `count` processes of this machine, through torchrun's agent.

    Signals are handed on, the processes given 30 seconds to save, and KeyboardInterrupt or `Preempted`
    raised. Where a process fails, the others are ended, and ValueError says why, in one line. Cores are
    shared out (`OMP_NUM_THREADS`) unless that is set.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    before = {number: signal.getsignal(number) for number in stop_signals()}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // count)))
    with tempfile.TemporaryDirectory() as folder, logging_off():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            max_restarts=0,
            run_id=f"{LAUNCHED}{uuid.uuid4().hex}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(folder),
            signals_to_handle=",".join(number.name for number in stop_signals()),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "objecthood", *arguments)
        except SignalException as stop:
            raise (KeyboardInterrupt if stop.sigval == signal.SIGINT else Preempted) from None
        except ChildFailedError as error:
            raise cause(error.failures, count) from error
        finally:
            for number, handler in before.items():  # torchrun's agent leaves its own behind
                signal.signal(number, handler)


def cause(failures: dict[int, Any], count: int) -> BaseException:
    """What the first of the failed processes (`ProcessFailure` by rank) ended with."""

    earliest = min(failure.timestamp for failure in failures.values())

    def doubt(rank: int) -> tuple[bool, ...]:
        """That the agent ended a process (SIGTERM, 30 seconds later SIGKILL), or that one lost a peer, is no
        cause."""
        failure = failures[rank]
        ended = failure.exitcode == -signal.SIGTERM or failure.timestamp > earliest + 10
        return ended, failure.exitcode > 0, "peer" in str(failure.message)

    rank = min(failures, key=doubt)
    failure = failures[rank]
    if failure.exitcode in (PREEMPTED, INTERRUPTED):
        return Preempted() if failure.exitcode == PREEMPTED else KeyboardInterrupt()
    if failure.exitcode < 0:
        return ValueError(
            f"process {rank} of {count} was killed ({failure.signal_name()}), and the others were ended; "
            "the run goes on from its last checkpoint with --resume RUN"
        )
    told = failure.message if isinstance(failure.message, str) else failure.message["message"]
    kind, _, text = told.partition(": ")
    return ValueError(text if kind in ("ValueError", "UsageError") else f"process {rank}: {told}")


def reporting(function: Callable[..., Value]) -> Callable[..., Value]:
    """`function`, silent: its errors go to the agent that started this process, where there is one, which
    tells them once."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return function
    from torch.distributed.elastic.multiprocessing.errors import record

    def run(*arguments: object, **settings: object) -> Value:
        try:
            return record(function)(*arguments, **settings)  # type: ignore[return-value]
        except KeyboardInterrupt as stop:
            raise SystemExit(PREEMPTED if isinstance(stop, Preempted) else INTERRUPTED) from None
        except Exception:
            raise SystemExit(1) from None

    return run


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def logging_off() -> Iterator[None]:
    """The agent's own account of a failure, in dozens of lines, is left out."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

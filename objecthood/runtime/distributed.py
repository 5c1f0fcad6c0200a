"""Data-parallel training: processes share each batch and average gradients.

torchrun (or anything that sets its environment variables) starts the processes; DistributedDataParallel (Li
et al. 2020, arXiv 2006.15704) averages gradients.
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
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from objecthood.runtime.cores import num_cores
from objecthood.runtime.signals import INTERRUPTED, PREEMPTED, Preempted, stop_signals

Value = TypeVar("Value")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""
LAUNCHED = "objecthood-"
"""Prefix of the job identity of `launch`, which torchrun's agent passes on."""
PATIENCE = timedelta(minutes=30)
"""Timeout of collective operations, which includes evaluation on the first process."""


class Processes:
    """This process in a group of `count`; only `rank` 0 writes files.

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
        """`module` with gradients averaged over processes; every parameter must be used."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def total(self, *values: float) -> list[float]:
        """Sums over processes (collective)."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def largest(self, *values: float) -> list[float]:
        """Maxima over processes (collective)."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, by rank (collective)."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def agree(self, text: str) -> bool:
        """Whether `text` is equal in all processes (collective)."""
        number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)  # 48 bits: exact as a float64
        least, most = self.largest(-number, number)
        return -least == most

    def wait(self) -> None:
        """Wait for all processes (collective)."""
        self.total(0)

    def _reduce(self, values: tuple[float, ...], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)  # on the CPU, without GPU synchronisation
        dist.all_reduce(shared, operation)
        return shared.tolist()


_sharing: ContextVar[Processes | None] = ContextVar("_sharing", default=None)


@contextlib.contextmanager
def sharing(processes: Processes) -> Iterator[None]:
    """Within it all processes open the same data sets, and share what is computed for them (`sharers`)."""
    before = _sharing.set(processes)
    try:
        yield
    finally:
        _sharing.reset(before)


def sharers() -> Processes:
    """The processes that open a data set together; outside of `sharing`, this one alone."""
    return _sharing.get() or Processes(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The group of processes that torchrun started, or a single process; only the first prints.

    "cuda" without a number is the GPU with the local rank. Raises ValueError if there is none.
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
        # A gloo thread may still wait for the GIL to release a tensor, and destroying the group waits for
        # that thread while holding the GIL; sleeping releases it.
        time.sleep(0.2)
        dist.destroy_process_group()


def meeting_place() -> dict[str, Any]:
    """Rendezvous arguments after a restart by torchrun: its store (torch 2.13) still lists ports of failed
    processes, so each start uses its own prefix; empty for the first start."""
    if not restarted():
        return {}
    store, rank, count = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    store = dist.PrefixStore(  # type: ignore[attr-defined]
        f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store
    )
    return {"store": store, "rank": rank, "world_size": count}


def started() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in VARIABLES)


def restarted() -> bool:
    """Whether torchrun restarted this process after a failure (`--max-restarts`)."""
    return started() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def launched() -> bool:
    """Whether `launch` started this process: what is to be said of the whole, the launching one says."""
    return started() and os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCHED)


def is_first() -> bool:
    """Whether this is the first process, which prints."""
    return not started() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress all output; errors are still raised."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def launch(arguments: list[str], count: int) -> None:
    """Run `objecthood ARGUMENTS` as `count` processes of this machine, through torchrun's agent.

    Signals are forwarded, and the processes have 30 seconds to save; then KeyboardInterrupt or `Preempted` is
    raised. If a process fails, the others are stopped and ValueError states the reason. Cores are divided
    (`OMP_NUM_THREADS`) unless that is set.
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
    """The error of the process that failed first (`ProcessFailure` by rank)."""

    earliest = min(failure.timestamp for failure in failures.values())

    def doubt(rank: int) -> tuple[bool, ...]:
        """Sort key: processes stopped by the agent (SIGTERM, 30 seconds later SIGKILL) or that lost a peer
        are not the cause."""
        failure = failures[rank]
        ended = failure.exitcode == -signal.SIGTERM or failure.timestamp > earliest + 10
        return ended, failure.exitcode > 0, "peer" in str(failure.message)

    rank = min(failures, key=doubt)
    failure = failures[rank]
    if failure.exitcode in (PREEMPTED, INTERRUPTED):
        return Preempted() if failure.exitcode == PREEMPTED else KeyboardInterrupt()
    if failure.exitcode < 0:
        return ValueError(
            f"process {rank} of {count} was killed ({failure.signal_name()}), and the others were stopped; "
            "continue from the last checkpoint with --resume RUN"
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


@contextlib.contextmanager
def logging_off() -> Iterator[None]:
    """Suppress logging, such as the agent's long report of a failure."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

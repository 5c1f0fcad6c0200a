"""Forked processes in a group, as torchrun starts them, without its seconds of imports."""

import json
import multiprocessing
import os
import socket
from pathlib import Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def as_process(rank: int, count: int, port: int, folder: Path, work) -> None:
    """What torchrun does for one process; what `work` returns or raises is left in a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    try:
        told = work()
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    (folder / f"told-{rank}.json").write_text(json.dumps(told))


def start(count: int, folder: Path, work) -> list:
    """Several processes that do `work`."""
    context, port = multiprocessing.get_context("fork"), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        context.Process(target=as_process, args=(rank, count, port, folder, work)) for rank in range(count)
    ]
    for process in started:
        process.start()
    return started


def together(count: int, folder: Path, work) -> list:
    """What `work` gave in each of several processes."""
    started = start(count, folder, work)
    for process in started:
        process.join(60)
    stuck = [process for process in started if process.is_alive()]
    for process in stuck:
        process.kill()
    assert not stuck
    return [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(count)]

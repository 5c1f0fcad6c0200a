"""Items in several threads: order, one PyTorch thread each, gradients, errors, and what is read ahead."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from objecthood.runtime.threads import MOST, parallel


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_keep_their_order_and_two_items_run_at_a_time():
    both = threading.Barrier(2, timeout=10)

    def meet(item: int) -> int:
        both.wait()  # passes only where two are under way
        time.sleep(0.02 * (item == 0))
        return item

    assert list(parallel(meet, range(6), threads=2)) == list(range(6))


def test_threads_use_one_pytorch_thread_and_leave_others_alone(two_threads):
    def facts(_: int) -> tuple[int, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert set(parallel(facts, range(6))) == {(1, False)}
    assert set(parallel(facts, range(6))) == {(1, True)}
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]


def test_one_thread_is_the_caller():
    assert set(parallel(lambda _: threading.get_ident(), range(3), threads=1)) == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_and_early_ends_stop_the_source(threads):
    taken: list[int] = []
    before = set(threading.enumerate())

    def source():
        for item in range(100):
            taken.append(item)
            yield item

    def fail(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    found = parallel(fail, source(), threads=threads)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert len(taken) <= 4 + threads
    found = parallel(fail, source(), threads=threads)
    next(found)
    found.close()
    assert len(taken) <= 4 + threads + 1 + threads
    assert set(threading.enumerate()) <= before, "no thread is left"


def test_no_thread_waits_for_those_that_the_system_refuses(two_threads, monkeypatch):
    before, start, started = set(threading.enumerate()), threading.Thread.start, []

    def refused(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    found = parallel(abs, range(6), threads=3)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            next(found)
        assert set(threading.enumerate()) <= before and torch.get_num_threads() == 2
    finally:
        for thread in started:
            thread.join(timeout=5)


def test_many_cores_do_not_hold_many_items(two_threads):
    torch.set_num_threads(MOST + 4)
    held, most = 0, 0

    def source():
        nonlocal held, most
        for item in range(3 * MOST):
            held += 1
            most = max(most, held)
            yield item

    for _ in parallel(abs, source()):
        held -= 1
    assert most <= MOST + 1

"""The demo's server under load: large uploads that are refused, slow and half-open connections, many pieces.

Every kind is tried here for seconds, in this process and with limits lowered; `make test-long` tries the
server that a user starts, with its own limits, in its own process.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import crafted
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra [demo]")
pytest.importorskip("uvicorn", reason="needs the extra [demo]")

from serving import Answer, ask, message, raw, read_all, serving

import objecthood as oh
from objecthood.demo import server
from objecthood.demo.limits import Names
from objecthood.demo.shown import MAX_BYTES, Shown, load_shown
from objecthood.demo.work import Work
from objecthood.runtime import limits

AREA = "The demo's server"
LOOK = "/api/look?model=tetrominoes&slots=4&iterations=3&seed=1&spread=0"
pytestmark = [
    pytest.mark.xdist_group("demo server"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads memory where Linux puts it"),
]


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    return load_shown(["tetrominoes"])


@pytest.fixture
def few(monkeypatch):
    """Limits that are reached at once."""
    for name, value in {
        "CONNECTIONS": 24, "HEAD_SECONDS": 1.5, "UPLOAD_SECONDS": 1.5, "EXCHANGE_SECONDS": 6.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(limits, name, value)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[tuple[int, int]]:
    """Port and process of the command itself, which may open 1,024 files as most systems allow."""
    environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    errors = tmp_path_factory.mktemp("demo") / "errors"
    command = [sys.executable, "-m", "objecthood", "demo", "tetrominoes", "--no-browser", "--port", "0"]
    with errors.open("w") as file, subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024)),
    ) as run:  # fmt: skip
        assert run.stdout is not None
        port = int(re.search(r":(\d+)/", run.stdout.readline())[1])  # type: ignore[index]
        for _ in range(3):
            assert ask(port, LOOK, png()).status == 200
            assert ask(port, LOOK, cut_png(600)).status == 422
        yield port, run.pid
        run.send_signal(signal.SIGINT)
        run.wait(60)
    assert errors.read_text() in ("", "stopped\n")


def png(side: int = 35, seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


CUT: dict[int, bytes] = {}


def cut_png(side: int) -> bytes:
    """97 % of the file of a black image."""
    if side not in CUT:
        file = io.BytesIO()
        Image.new("RGB", (side, side)).save(file, "PNG")
        CUT[side] = file.getvalue()[: file.tell() * 97 // 100]
    return CUT[side]


def resident(process: int | str = "self") -> float:
    """Megabytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def large_and_refused(port: int, number: int) -> Answer:
    """Four kinds in turn."""
    kinds = (
        (cut_png(5000), 422), (crafted.hidden_icon(10_400), 413),
        (crafted.tiled_tiff(16, 5000), 413), (bytes(MAX_BYTES + 1), 413),
    )  # fmt: skip
    content, status = kinds[number % len(kinds)] if number % 2 else kinds[0]
    answer = ask(port, LOOK, content)
    assert answer.status == status, answer.body
    return answer


@pytest.mark.parametrize("count", [8, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_large_refused_uploads_leave_no_memory(alone, count, scoreboard):
    port, process = alone
    before = resident(process)
    for number in range(count):
        large_and_refused(port, number)
    after = resident(process)
    assert after < 1.2 * before, f"{before:.0f} to {after:.0f} MB"
    scoreboard(AREA, "large uploads that are refused (25 megapixels cut short, hidden sizes): memory stays",
               count, measured=f"{before:.0f} MB before, {after:.0f} MB after")  # fmt: skip


HEAD = "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n"
POST = "POST /api/look{} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{}\r\n\r\n"
ODD = [
    (HEAD.format("127.0.0.1\r\nOrigin: http://["), {403}),
    (HEAD.format("127.0.0.1\r\nOrigin: http://[::1"), {403}),
    (HEAD.format("127.0.0.1\r\nOrigin: http://127.0.0.1\r\nOrigin: http://evil.example"), {403}),
    (HEAD.format("["), {400}),
    (HEAD.format("a]:9"), {400}),
    (HEAD.format("\xff\xfe"), {400}),
    ("GET / HTTP/1.1\r\n\r\n", {400}),
    ("nonsense\r\n\r\n", {400}),
    (HEAD.format("127.0.0.1").replace("/ ", "/%ff%00 "), {404}),
    (HEAD.format("127.0.0.1\r\nUpgrade: websocket"), {200}),
    (POST.format("?%ff=%fe&model=%00", "Content-Length: 0"), {422}),
    (POST.format("", "Content-Length: -1"), {400}),
    (POST.format("", "Transfer-Encoding: gzip"), {400, 501}),
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_heads_are_refused_with_guard_headers(one_port, number, capfd, scoreboard):
    content, statuses = ODD[number]
    answer = raw(one_port, content.encode("latin-1"))
    assert answer.status in statuses, answer.body
    assert answer.headers["x-content-type-options"] == "nosniff" and "server" not in answer.headers
    assert "Traceback" not in capfd.readouterr().err
    scoreboard(AREA, "heads that are no HTTP, or names and origins that cannot be read: refused, guarded", 1)


@pytest.fixture(scope="module")
def one_port(shown):
    with serving(server.build_app(shown)) as port:
        yield port


def mixed(port: int, number: int) -> None:
    """One request of many kinds, each ending as it should."""
    chance = random.Random(number)
    kind = number % 9
    if kind == 0:
        assert ask(port, LOOK, png(seed=number)).status in (200, 503)
    elif kind == 1:
        assert ask(port, chance.choice(("/", "/main.js", "/config.json"))).status == 200
    elif kind == 2:
        assert ask(port, LOOK, chance.randbytes(chance.randrange(5000))).status in (415, 422, 503)
    elif kind == 3:
        content, statuses = ODD[number // 9 % len(ODD)]
        assert raw(port, content.encode("latin-1")).status in statuses
    elif kind == 4:  # gone in the middle, or before the answer
        content = message(port, LOOK, png(seed=number))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(content[: chance.randrange(1, len(content) + 1)])
    elif kind == 5:
        body = (
            b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"ab", bytes(3000), b"c"))
            + b"0\r\n\r\n"
        )
        content = message(port, LOOK, body, {"Transfer-Encoding": "chunked"})
        assert raw(port, content).status in (415, 422, 503)
    elif kind == 6:
        assert ask(port, LOOK, png(), {"Origin": "https://evil.example"}).status == 403
    elif kind == 7:
        assert ask(port, LOOK, cut_png(600)).status in (422, 503)
    else:  # several requests at once on one connection
        whole = message(port, "/", headers={"Connection": "keep-alive"}) * 3 + message(port, "/")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(whole)
            assert read_all(connection).count(b"HTTP/1.1 200") == 4


def try_mixed(port: int, process: int | str, count: int, at_once: int = 8) -> tuple[float, float]:
    """Memory before and after, in MB."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda number: mixed(port, number), range(60)))
        before = resident(process)
        list(pool.map(lambda number: mixed(port, number), range(count)))
    return before, resident(process)


def test_mixed_requests(one_port, scoreboard):
    before, after = try_mixed(one_port, "self", 180)
    assert after < 1.2 * before
    scoreboard(AREA, "requests of nine kinds mixed, eight at a time: each ends as it should, memory stays",
               180, measured=f"{before:.0f} MB before, {after:.0f} MB after")  # fmt: skip


@contextlib.contextmanager
def connections(port: int, count: int, content: bytes) -> Iterator[list[socket.socket]]:
    """So many, each of which has sent `content` and stays."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            with contextlib.suppress(ConnectionError):
                one.sendall(content)
            opened.append(one)
        yield opened


def page_seconds(port: int) -> float:
    """How long a page takes, the slower of two."""
    slowest = 0.0
    for path in ("/", "/main.js"):
        begun = time.perf_counter()
        assert ask(port, path).status == 200
        slowest = max(slowest, time.perf_counter() - begun)
    return slowest


def until_free(port: int, most: float) -> float:
    """Seconds until the server looks at an image again."""
    begun = time.monotonic()
    while (status := ask(port, LOOK, png()).status) != 200:
        assert status == 503 and time.monotonic() - begun < most
        time.sleep(0.1)
    return time.monotonic() - begun


HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


@pytest.mark.timed
def test_half_open_connections_give_way(shown, few, scoreboard):
    """More than there are places: a page is served all the same, and each is ended in the end."""
    with serving(server.build_app(shown)) as port, connections(port, 60, HALF) as opened:
        seconds = page_seconds(port)
        assert seconds < 1
        begun = time.monotonic()
        for one in opened:
            read_all(one)
        assert time.monotonic() - begun < 5, "each has a deadline"
        assert ask(port, LOOK, png()).status == 200
    scoreboard(AREA, "half-open connections, more than there are places: a page within 1 s, each one ended",
               60, measured=f"{seconds:.2f} s for a page")  # fmt: skip


@pytest.mark.timed
def test_slow_uploads_lose_their_places(shown, few, scoreboard):
    """Each sends a byte now and then, before and amid the body."""
    head = message(1, LOOK, b"", {"Content-Length": "1000"})
    with serving(server.build_app(shown)) as port:
        stop = threading.Event()
        with connections(port, 20, head.replace(b"127.0.0.1:1", b"127.0.0.1:%d" % port)) as opened:

            def drip() -> None:
                while not stop.wait(0.1):
                    for one in opened:
                        with contextlib.suppress(OSError):
                            one.send(b"x")

            thread = threading.Thread(target=drip)
            thread.start()
            seconds = page_seconds(port)
            free = until_free(port, 10)
            stop.set()
            thread.join()
    assert seconds < 1 and free < 5
    scoreboard(AREA, "slow uploads, more than there are places: a page within 1 s, places free again", 20,
               measured=f"{seconds:.2f} s for a page, free after {free:.0f} s")  # fmt: skip


def test_a_head_may_not_drip_either(shown, few):
    with serving(server.build_app(shown)) as port, connections(port, 1, HALF) as (one,):
        begun = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - begun < 10:
                one.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - begun < 5


def test_where_all_are_answered_a_further_one_is_told(shown, few, monkeypatch):
    """No connection that is being answered gives way."""
    held = threading.Event()

    def wait(self, content, settings, left):
        held.wait(20)
        return b"done"

    monkeypatch.setattr(Work, "look", wait)
    monkeypatch.setattr(limits, "CONNECTIONS", 4)
    with serving(server.build_app(shown)) as port:
        with connections(port, 4, message(port, LOOK, png())) as opened:
            time.sleep(0.3)
            answer = raw(port, message(port, "/"))
            assert answer.status == 503 and answer.headers["retry-after"] == "1"
            held.set()
            assert {Answer(read_all(one)).status for one in opened} == {200}
        time.sleep(0.1)
        assert ask(port, "/").status == 200


def test_a_body_in_a_million_pieces_is_refused_early(one_port, scoreboard):
    """The event loop serves others meanwhile."""
    body = b"1\r\nx\r\n" * 1_000_000
    content = message(one_port, LOOK, body, {"Transfer-Encoding": "chunked"})
    slowest, stop = 0.0, threading.Event()

    def watch() -> None:
        nonlocal slowest
        while not stop.is_set():
            slowest = max(slowest, page_seconds(one_port))

    thread = threading.Thread(target=watch)
    thread.start()
    begun = time.monotonic()
    answer = raw(one_port, content)
    seconds = time.monotonic() - begun
    stop.set()
    thread.join()
    assert answer.status in (0, 400) and seconds < 2 and slowest < 1
    few = b"".join(b"1\r\nx\r\n" for _ in range(9000)) + b"0\r\n\r\n"
    assert raw(one_port, message(one_port, LOOK, few, {"Transfer-Encoding": "chunked"})).status == 415
    scoreboard(AREA, "a body in a million pieces: refused, others served meanwhile", 1,
               measured=f"after {seconds:.1f} s; {slowest:.2f} s for a page")  # fmt: skip


def test_work_whose_client_has_left_is_not_done(shown, monkeypatch):
    """Neither what waits for its turn, nor the rest of what is being done."""
    begun, ended, go = [], [], threading.Event()

    def look(self, content, settings, left):
        begun.append(settings.seed)
        while not left() and not go.wait(0.01):
            pass
        ended.append((settings.seed, left()))
        return b"done"

    monkeypatch.setattr(Work, "look", look)
    with serving(server.build_app(shown)) as port:
        first = [LOOK.replace("seed=1", f"seed={number}") for number in range(4)]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in first]
            for path, one in zip(first, opened, strict=True):
                one.sendall(message(port, path, png()))
                time.sleep(0.2)
            opened[1].close()  # waits
            opened[0].close()  # is being done
            deadline = time.monotonic() + 5
            while 2 not in begun and time.monotonic() < deadline:
                time.sleep(0.02)
            go.set()
            assert [Answer(read_all(one)).status for one in opened[2:]] == [200, 200]
    assert ended == [(0, True), (2, False), (3, False)] and begun == [0, 2, 3]


def test_the_model_stops_between_iterations(shown):
    from objecthood.demo.work import Settings

    asked = []

    def left() -> bool:
        asked.append(True)
        return len(asked) == 3

    assert Work(shown[0]).look(png(), Settings(4, 30, 0, 0.0), left) == b"" and len(asked) == 3


@pytest.mark.parametrize(
    ("host", "names", "any_address", "answered"),
    [
        ("localhost:8765", (), False, True), ("LOCALHOST", (), False, True), ("[::1]:8765", (), False, True),
        ("[::1]", (), False, True), ("127.0.0.1", (), False, True), ("192.168.1.4", (), False, False),
        ("192.168.1.4:80", (), True, True), ("[fe80::1]:80", (), True, True), ("evil.lan", (), True, False),
        ("192.168.1.4.evil.example", (), True, False), ("box.lan", ("box.lan",), False, True),
        ("[", (), True, False), ("[::1", (), True, False), ("", (), True, False),
        ("localhost:x", (), True, False), ("a@localhost", (), True, False), ("localhost:1:2", (), True,
         False),
    ],
)  # fmt: skip
def test_names_that_are_answered_to(host, names, any_address, answered):
    assert Names((*server.THIS_MACHINE, *names), any_address).include(host) is answered


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("::1", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", None),
        ("::", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_any_address_can_be_listened_on(shown, monkeypatch, host, asked):
    """The address that is told leads there, and its names are answered to."""
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    told, made = [], {}

    class Once:
        def __init__(self, config):
            made["app"] = config.app

        def run(self, sockets):
            made["port"] = sockets[0].getsockname()[1]
            with socket.create_connection((asked.strip("[]") if asked else "127.0.0.1", made["port"])):
                pass

    with monkeypatch.context() as patch:
        patch.setattr(server.uvicorn, "Server", Once)
        server.serve(shown, host, 0, told.append)
    assert told[0] == f"http://{told[0].split('//')[1].rpartition(':')[0]}:{made['port']}/"
    names = [asked or socket.gethostname(), told[0].split("//")[1].rpartition(":")[0]]
    with serving(made["app"]) as port:
        for name in names:
            assert ask(port, "/config.json", headers={"Host": f"{name}:{port}"}).status == 200, name
        assert ask(port, "/config.json", headers={"Host": "evil.example"}).status == 400


@pytest.mark.parametrize("host", ["", " ", "no.such.host.invalid", "256.1.1.1", "a" * 300, "::1::2"])
def test_addresses_that_are_none(shown, host):
    with pytest.raises(ValueError, match="is empty|cannot listen on") as caught:
        server.serve(shown, host, 0, lambda address: None)
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_whole_load(alone, scoreboard):
    """3,000 mixed requests, 500 slow ones, 1,300 half-open: with the limits of every day."""
    port, process = alone
    before, after = try_mixed(port, process, 3000)
    assert after < 1.2 * before
    scoreboard(AREA, "requests of nine kinds mixed, eight at a time: each ends as it should, memory stays",
               3000, measured=f"{before:.0f} MB before, {after:.0f} MB after")  # fmt: skip
    head = message(port, LOOK, b"x", {"Content-Length": "100000"})
    with connections(port, 500, head):
        seconds = page_seconds(port)
        free = until_free(port, 30)
    assert seconds < 1
    scoreboard(AREA, "slow uploads, more than there are places: a page within 1 s, places free again", 500,
               measured=f"{seconds:.2f} s for a page, free after {free:.0f} s")  # fmt: skip
    with connections(port, 1300, HALF) as opened:
        seconds = max(page_seconds(port) for _ in range(5))
        assert seconds < 1
        begun = time.monotonic()
        for one in opened:
            read_all(one)
        assert time.monotonic() - begun < 30
    assert until_free(port, 30) < 30 and resident(process) < 1.2 * before
    scoreboard(AREA, "half-open connections, more than there are places: a page within 1 s, each one ended",
               1300, measured=f"{seconds:.2f} s for a page")  # fmt: skip

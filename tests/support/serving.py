"""A server in a thread of the test, and requests so raw that they can lie."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from objecthood.demo.server import settings_for


@contextlib.contextmanager
def serving(app) -> Iterator[int]:
    """The port of 127.0.0.1 on which `app` is served for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(settings_for(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


class Answer:
    """Status, headers (lower case) and body of a response."""

    def __init__(self, raw: bytes):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if raw else 0
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }

    def error(self) -> str:
        """What is said in one line of JSON."""
        return json.loads(self.body)["error"]


def raw(port: int, content: bytes, timeout: float = 30.0) -> Answer:
    """The answer to bytes sent as they are; the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with contextlib.suppress(ConnectionError):  # it may be refused before all is sent
            connection.sendall(content)
        return Answer(read_all(connection))


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def ask(
    port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
) -> Answer:
    """An honest request; POST where there is a body."""
    return raw(port, message(port, path, body, headers, method))


def message(
    port: int, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str = ""
) -> bytes:
    """The bytes of an honest request."""
    method = method or ("GET" if body is None else "POST")
    lines = {"Host": f"127.0.0.1:{port}", "Connection": "close"} | (headers or {})
    if body is not None and "Transfer-Encoding" not in lines:
        lines.setdefault("Content-Length", str(len(body)))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + (body or b"")

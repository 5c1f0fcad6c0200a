"""Request limits of the demo server: size, queue, allowed hosts and origins, security headers.

The server is meant for one user on one machine, but any web page that this user visits can send requests to
it.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from objecthood.runtime import limits

_DISCARD_SECONDS = 1.0
"""Time for which the rest of an oversized upload is read and discarded, so that the client gets the
response."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A refused request: HTTP status and reason in one line."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason

    def response(self) -> JSONResponse:
        """The error response; it closes the connection, as the request may not have been read completely."""
        headers = {"connection": "close"} | ({"retry-after": "1"} if self.status == 503 else {})
        return JSONResponse({"error": self.reason}, self.status, headers)


class Queue:
    """At most `capacity` requests at a time, of which one is computed."""

    def __init__(self, capacity: int):
        self.capacity, self.held = capacity, 0
        self.worker = anyio.CapacityLimiter(1)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in the queue within the block; Refused (503) if the queue is full."""
        if self.held >= self.capacity:
            raise Refused(503, f"the queue is full ({self.capacity} requests); try again in a moment")
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    async def run(
        self, request: Request, function: Callable[..., bytes | Refused], *arguments: Any
    ) -> bytes | Refused:
        """Run `function` in the worker thread and return its result.

        `function` must not raise: an exception passed between threads stays in a reference cycle that keeps
        its frames alive, with decoded images. It gets `arguments` and a function that returns whether the
        client has disconnected; it may then stop early, and its result is discarded.

        Raises ClientDisconnect if the client disconnects.
        """
        left = threading.Event()
        outcome: bytes | Refused | None = None

        async def watch(scope: anyio.CancelScope) -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            left.set()
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch, group.cancel_scope)
            outcome = await anyio.to_thread.run_sync(
                functools.partial(function, *arguments, left.is_set), limiter=self.worker
            )
            group.cancel_scope.cancel()
        if outcome is None or left.is_set():
            raise ClientDisconnect
        return outcome


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(:\d{1,5})?")


class Names:
    """Host names that the server accepts; others are refused, against DNS rebinding."""

    def __init__(self, names: tuple[str, ...], any_address: bool = False):
        self.names = {name.lower() for name in names}
        self.any_address = any_address
        """Whether all IP addresses are accepted; DNS rebinding needs a name."""

    def include(self, host: str) -> bool:
        """Whether the header `Host` holds an accepted name, with any port."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found[1].strip("[]")
        return name in self.names or (self.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request; its size is counted, whatever content-length states.

    Raises Refused: 413 above `most` bytes, 408 after `limits.UPLOAD_SECONDS`.
    """
    stated = request.headers.get("content-length", "")
    size = 0
    parts: list[bytes] = []
    with anyio.move_on_after(limits.UPLOAD_SECONDS) as waiting:
        if stated.isdecimal() and (len(stated) > 18 or int(stated) > most):
            await _refuse_large(request, most)
        async for part in request.stream():
            size += len(part)
            if size > most:
                parts.clear()
                await _refuse_large(request, most)
            parts.append(part)
    if waiting.cancelled_caught:
        raise Refused(408, f"the upload took more than {limits.UPLOAD_SECONDS:.0f} seconds")
    return b"".join(parts)


async def _refuse_large(request: Request, most: int) -> None:
    with anyio.move_on_after(_DISCARD_SECONDS):
        async for _ in request.stream():
            pass
    raise Refused(413, f"the upload is too large; the limit is {most} bytes")


def guarded(app: ASGIApp, names: Names) -> ASGIApp:
    """`app` with `HEADERS` on every response; refuses requests for other hosts or from other origins."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not names.include(headers.get("host", "")):
            refused = Refused(400, "unknown host name; add it with --names")
            await refused.response()(scope, receive, send_with_headers)
        elif is_foreign(headers):
            refused = Refused(403, "requests from pages of another origin are refused")
            await refused.response()(scope, receive, send_with_headers)
        else:
            await app(scope, receive, send_with_headers)

    return guard


def is_foreign(headers: Headers) -> bool:
    """Whether the request comes from a page of another origin, or its origin cannot be parsed."""
    for origin in headers.getlist("origin"):
        try:
            if urlsplit(origin).netloc != headers.get("host"):
                return True
        except ValueError:
            return True
    is_page = headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_page

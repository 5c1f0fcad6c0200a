"""What a request may ask for: its size, its place in the queue, who may ask, and what comes back with it.

The server is made for one person on one machine, but any page that this person visits can send requests
to it.
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
"""For which too large an upload is read on without being kept, lest the answer get lost."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is not answered as asked: HTTP status, and why in one line."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason

    def response(self) -> JSONResponse:
        """What is sent instead; the connection ends, as the request may not have been read to its end."""
        headers = {"connection": "close"} | ({"retry-after": "1"} if self.status == 503 else {})
        return JSONResponse({"error": self.reason}, self.status, headers)


class Queue:
    """At most `capacity` requests at a time, read, waiting or being answered; one of them at work."""

    def __init__(self, capacity: int):
        self.capacity, self.held = capacity, 0
        self.worker = anyio.CapacityLimiter(1)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place for as long as the block lasts; Refused (503) where none is free."""
        if self.held >= self.capacity:
            raise Refused(503, f"{self.capacity} requests are waiting already; try again in a moment")
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    async def run(
        self, request: Request, function: Callable[..., bytes | Refused], *arguments: Any
    ) -> bytes | Refused:
        """What `function` returns, from the one thread at work.

        It must not raise: an exception that passes from one thread to another stays in a reference cycle, and
        with it all that its frames hold, such as a decoded image. It is called with `arguments` and one more,
        a function that tells whether the client has left; then it may stop, and what it returns is dropped.

        Raises ClientDisconnect where the client leaves.
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
    """The names by which the server may be asked for. Another one may be a stranger's, made to point here
    ("DNS rebinding"): its pages would count as ours."""

    def __init__(self, names: tuple[str, ...], any_address: bool = False):
        self.names = {name.lower() for name in names}
        self.any_address = any_address
        """Whether addresses in numbers are answered to as well: no name can be made to look like one."""

    def include(self, host: str) -> bool:
        """Whether the header `Host` is one of the names, with any port."""
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
    """The content of a request, counted as it comes, whatever its length is said to be.

    Raises Refused: 413 above `most` bytes, 408 where it takes too long.
    """
    said = request.headers.get("content-length", "")
    size = 0
    parts: list[bytes] = []
    with anyio.move_on_after(limits.UPLOAD_SECONDS) as waiting:
        if said.isdigit() and int(said) > most:
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
    raise Refused(413, f"that is too large; at most {most} bytes are taken")


def guarded(app: ASGIApp, names: Names) -> ASGIApp:
    """`app`, with `HEADERS` on every answer, and only requests for one of `names` that no page of another
    origin sent."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if not names.include(headers.get("host", "")):
            refused = Refused(400, "that is no name of this server; --names adds one")
            await refused.response()(scope, receive, send_with_headers)
        elif is_foreign(headers):
            refused = Refused(403, "requests of pages of another origin are not answered")
            await refused.response()(scope, receive, send_with_headers)
        else:
            await app(scope, receive, send_with_headers)

    return guard


def is_foreign(headers: Headers) -> bool:
    """Whether a browser says that the request comes from a page of another origin, or says it unreadably."""
    for origin in headers.getlist("origin"):
        try:
            if urlsplit(origin).netloc != headers.get("host"):
                return True
        except ValueError:
            return True
    is_page = headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_page

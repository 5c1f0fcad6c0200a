"""The demo server: the page as static files held in memory, and four endpoints that run models with PyTorch.

`POST api/look` takes an image, `POST api/decode` slots (see `work.Work`), `POST api/divide` a photograph
(`work.PhotographWork`), `POST api/segment` a frame (`work.LiveWork`). Nothing is written to disk and no name
in a request reaches the file system. Errors are one line of JSON: 400 (unknown host), 403 (other origin),
404, 405, 408 (timeout), 413 (too large), 415 (not an image), 422 (damaged, or a number out of range), 503
(queue full).
"""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from objecthood.data.io.images import ImageFormatError, ImageTooLargeError
from objecthood.demo.connections import BoundedProtocol
from objecthood.demo.limits import Names, Queue, Refused, guarded, read_body
from objecthood.demo.shown import MAX_BYTES, TYPES, Shown, config, example_files, page_files
from objecthood.demo.work import LiveWork, PhotographWork, Settings, Work
from objecthood.runtime import limits

CAPACITY = limits.REQUESTS
BACKLOG = 128
"""Pending connections of the listening socket."""
SEND_SECONDS = 30.0
"""Time in which a client must read the response; slower clients are disconnected."""
MOST = {"slots": 32, "segments": 64, "iterations": 30, "seed": 2**32 - 1}
MOST_SPREAD = 4.0
_CHUNK = 64 * 1024
WRONG_HERE = "internal error; see the terminal"


THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Host names of the local machine."""


def build_app(shown: list[Shown], names: Names | None = None) -> ASGIApp:
    """The server as an ASGI application that accepts `names` as hosts, by default those of this machine."""
    files = {name: content for name, content in page_files().items() if name != "engine-browser.js"}
    for one in shown:
        files |= example_files(one)
    files["config.json"] = json.dumps(config("server", shown)).encode()
    queue = Queue(CAPACITY)
    works = {one.name: Work(one) for one in shown if one.kind == "slots"}
    photographs = {one.name: PhotographWork(one) for one in shown if one.kind == "photographs"}
    live = {one.name: LiveWork(one) for one in shown if one.kind == "live"}
    routes: list[BaseRoute] = [Route("/", _file("index.html", files["index.html"]), methods=["GET"])]
    routes += [Route(f"/{name}", _file(name, content), methods=["GET"]) for name, content in files.items()]
    routes += [
        Route("/api/look", Api(works, queue, look), methods=["POST"]),
        Route("/api/decode", Api(works, queue, decode), methods=["POST"]),
        Route("/api/divide", Api(photographs, queue, divide), methods=["POST"]),
        Route("/api/segment", Api(live, queue, segment), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _plainly, Exception: _quietly})
    return guarded(app, names or Names(THIS_MACHINE))


class Api:
    """An endpoint: a request is read, queued, computed and answered within one place of the queue."""

    def __init__(self, works: Mapping[str, Any], queue: Queue, answer: Callable[..., Any]):
        self.works, self.queue, self.answer = works, queue, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            with self.queue.place():
                answer = await self.answer(request, self._work(request), self.queue)
                if isinstance(answer, bytes):
                    with anyio.move_on_after(SEND_SECONDS):
                        await _stream(answer)(scope, receive, send)
                    return
            response = answer.response()
        except Refused as refused:
            response = refused.response()
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def _work(self, request: Request) -> Any:
        name = request.query_params.get("model", "")
        if name not in self.works:
            raise Refused(422, f"unknown model; available are {', '.join(self.works)}")
        return self.works[name]


async def look(request: Request, work: Work, queue: Queue) -> bytes | Refused:
    """The response of `Work.look`."""
    settings = Settings(
        slots=_number(request, "slots", 1),
        iterations=_number(request, "iterations", 1),
        seed=_number(request, "seed", 0),
        noise_scale=_noise_scale(request),
    )
    content = await read_body(request, MAX_BYTES)
    return await queue.run(request, answered, work.look, content, settings)


async def decode(request: Request, work: Work, queue: Queue) -> bytes | Refused:
    """The response of `Work.decode`."""
    num_slots = _number(request, "slots", 1)
    content = await read_body(request, work.decode_size(num_slots))
    return await queue.run(request, answered, work.decode, content, num_slots)


async def divide(request: Request, work: PhotographWork, queue: Queue) -> bytes | Refused:
    """The response of `PhotographWork.divide`."""
    num_segments = _number(request, "segments", 0)
    content = await read_body(request, MAX_BYTES)
    return await queue.run(request, answered, work.divide, content, num_segments)


async def segment(request: Request, work: LiveWork, queue: Queue) -> bytes | Refused:
    """The response of `LiveWork.segment`."""
    content = await read_body(request, MAX_BYTES)
    return await queue.run(request, answered, work.segment, content)


def answered(function: Callable[..., bytes], *arguments: Any) -> bytes | Refused:
    """The result of `function`, or the error response for an exception."""
    try:
        return function(*arguments)
    except ImageTooLargeError as error:
        return Refused(413, str(error))
    except ImageFormatError as error:
        return Refused(415, str(error))
    except ValueError as error:  # ImageError among them
        return Refused(422, str(error))
    except Exception:
        logging.getLogger("uvicorn.error").exception("a request could not be answered")
        return Refused(500, WRONG_HERE)


def serve(
    shown: list[Shown], host: str, port: int, started: Callable[[str], None], names: tuple[str, ...] = ()
) -> None:
    """Serve until stopped; `started` is called with the address of the page.

    Args:
        host: IPv4 or IPv6 address or name to listen on; 0.0.0.0 or :: for all interfaces.
        port: 0 takes a free one.
        names: additional host names to accept.

    Raises ValueError if the address or port is not available.
    """
    everywhere = host in ("0.0.0.0", "::")
    listening = listen(host, port)
    own = (socket.gethostname(), f"{socket.gethostname()}.local") if everywhere else (host,)
    app = build_app(shown, Names((*THIS_MACHINE, *own, *names), any_address=everywhere))
    with listening:
        name = "localhost" if everywhere else f"[{host}]" if ":" in host else host
        started(f"http://{name}:{listening.getsockname()[1]}/")
        uvicorn.Server(settings_for(app)).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError if the address or port is not available."""
    if not host.strip():
        raise ValueError(
            f"--host (={host!r}) is empty; use 127.0.0.1 for this machine only, 0.0.0.0 for all networks"
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"cannot listen on {host}:{port} ({error}); choose another --port") from error


def settings_for(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's settings: plain HTTP, short headers, no server header."""
    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=BoundedProtocol,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=limits.REQUEST_HEAD_BYTES,
        timeout_graceful_shutdown=2,
    )


def _stream(content: bytes) -> Response:
    """Stream the response in chunks, so that a slow client delays one chunk only."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]

    headers = {"content-length": str(len(content))}
    return StreamingResponse(pieces(), media_type="application/octet-stream", headers=headers)


def _file(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    media_type = TYPES[name[name.rindex(".") :]]

    async def send_file(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return send_file


def _number(request: Request, name: str, least: int) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= MOST[name]):
        raise Refused(422, f"{name} must be a whole number from {least} to {MOST[name]}")
    return int(text)


def _noise_scale(request: Request) -> float:
    try:
        value = float(request.query_params.get("spread", "0"))
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_SPREAD:
        raise Refused(422, f"spread must be a number from 0 to {MOST_SPREAD:.0f}")
    return value


async def _plainly(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _quietly(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": WRONG_HERE}, 500)

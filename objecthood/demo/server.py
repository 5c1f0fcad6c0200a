"""The page with PyTorch behind it: two questions, and files that were read before the first request came.

`POST api/look` takes an image, `POST api/paint` slots (see `work.Work`). Nothing is written to disk, no name
in a request reaches the file system, and what is refused is told in one line of JSON: 403 (a page of another
origin), 404, 405, 408, 413 (too large), 415 (no image), 422 (damaged, or a number out of range), 503 (the
queue is full).
"""

from __future__ import annotations

import json
import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
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
from objecthood.demo.work import Settings, Work
from objecthood.runtime import limits

CAPACITY = limits.REQUESTS
BACKLOG = 128
"""Connections that are accepted at once, on top of those that are served."""
SEND_SECONDS = 30.0
"""In which an answer must be taken; slower readers are cut off, so that they hold no place for ever."""
MOST = {"slots": 32, "iterations": 30, "seed": 2**32 - 1}
MOST_SPREAD = 4.0
_CHUNK = 64 * 1024
WRONG_HERE = "something went wrong here; the terminal says more"


THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Names by which a machine asks for itself."""


def build_app(shown: list[Shown], names: Names | None = None) -> ASGIApp:
    """The whole server as an ASGI application, for requests that name one of `names`; this machine's own
    unless given."""
    files = {name: content for name, content in page_files().items() if name != "engine-browser.js"}
    for one in shown:
        files |= example_files(one)
    files["config.json"] = json.dumps(config("server", shown)).encode()
    works, queue = {one.name: Work(one) for one in shown}, Queue(CAPACITY)
    routes: list[BaseRoute] = [Route("/", _file("index.html", files["index.html"]), methods=["GET"])]
    routes += [Route(f"/{name}", _file(name, content), methods=["GET"]) for name, content in files.items()]
    routes += [
        Route("/api/look", Api(works, queue, look), methods=["POST"]),
        Route("/api/paint", Api(works, queue, paint), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _plainly, Exception: _quietly})
    return guarded(app, names or Names(THIS_MACHINE))


class Api:
    """A question that is read, waits its turn, is answered and sent, all within one place of the queue."""

    def __init__(self, works: dict[str, Work], queue: Queue, answer: Callable[..., Any]):
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

    def _work(self, request: Request) -> Work:
        name = request.query_params.get("model", "")
        if name not in self.works:
            raise Refused(422, f"no such model; there are {', '.join(self.works)}")
        return self.works[name]


async def look(request: Request, work: Work, queue: Queue) -> bytes | Refused:
    """The answer of `Work.look`."""
    settings = Settings(
        slots=_number(request, "slots", 1),
        iterations=_number(request, "iterations", 1),
        seed=_number(request, "seed", 0),
        noise_scale=_noise_scale(request),
    )
    content = await read_body(request, MAX_BYTES)
    return await queue.run(request, answered, work.look, content, settings)


async def paint(request: Request, work: Work, queue: Queue) -> bytes | Refused:
    """The answer of `Work.paint`."""
    num_slots = _number(request, "slots", 1)
    content = await read_body(request, work.paint_size(num_slots))
    return await queue.run(request, answered, work.paint, content, num_slots)


def answered(function: Callable[..., bytes], *arguments: Any) -> bytes | Refused:
    """What `function` returns, or, in place of each exception, what the client is told of it."""
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
    """Serve until stopped; `started` is told the address.

    Args:
        host: address to listen on, of either family; 0.0.0.0 or :: for all of this machine's.
        names: by which the server may be asked for, besides its own.

    Raises ValueError where the address or the port cannot be had.
    """
    everywhere = host in ("0.0.0.0", "::")
    listening = listen(host, port)
    own = (socket.gethostname(), f"{socket.gethostname()}.local") if everywhere else (host,)
    app = build_app(shown, Names((*THIS_MACHINE, *own, *names), any_address=everywhere))
    with listening:
        said = "localhost" if everywhere else f"[{host}]" if ":" in host else host
        started(f"http://{said}:{listening.getsockname()[1]}/")
        uvicorn.Server(settings_for(app)).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError, in one line, where there can be none."""
    if not host.strip():
        raise ValueError(
            f"--host (={host!r}) names no address; 127.0.0.1 is this machine alone, 0.0.0.0 all networks"
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error}); name another --port") from error


def settings_for(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn is to serve: plain HTTP, short heads, and nothing said of itself."""
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
    """Sent piece by piece, so that a slow reader holds one piece back, not all."""

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

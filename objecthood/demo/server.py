"""The page with PyTorch behind it: two questions, and files that were read before the first request came.

`POST api/look` takes a picture, `POST api/paint` slots (see `work.Work`). Nothing is written to disk, no name
in a request reaches the file system, and what is refused is told in one line of JSON: 403 (a page of another
origin), 404, 405, 408, 413 (too large), 415 (no picture), 422 (damaged, or a number out of range), 503 (the
queue is full).
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from objecthood.data.io.images import ImageError, ImageFormatError, ImageTooLargeError
from objecthood.demo.limits import Queue, Refused, guarded, read_body
from objecthood.demo.shown import MAX_BYTES, TYPES, Shown, config, example_files, page_files
from objecthood.demo.work import Settings, Work

CAPACITY = 16
SEND_SECONDS = 30.0
"""In which an answer must be taken; slower readers are cut off, so that they hold no place for ever."""
MOST = {"slots": 32, "iterations": 30, "seed": 2**32 - 1}
MOST_SPREAD = 4.0
_CHUNK = 64 * 1024


def build_app(shown: list[Shown], hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> ASGIApp:
    """The whole server as an ASGI application, for requests that name one of `hosts`."""
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
    return guarded(TrustedHostMiddleware(app, list(hosts), www_redirect=False))


class Api:
    """A question that is read, waits its turn, is answered and sent, all within one place of the queue."""

    def __init__(self, works: dict[str, Work], queue: Queue, answer: Callable[..., Any]):
        self.works, self.queue, self.answer = works, queue, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            with self.queue.place():
                content = await self.answer(request, self._work(request), self.queue)
                with anyio.move_on_after(SEND_SECONDS):
                    await _stream(content)(scope, receive, send)
        except Refused as refused:
            await refused.response()(scope, receive, send)
        except ClientDisconnect:
            pass

    def _work(self, request: Request) -> Work:
        name = request.query_params.get("model", "")
        if name not in self.works:
            raise Refused(422, f"no such model; there are {', '.join(self.works)}")
        return self.works[name]


async def look(request: Request, work: Work, queue: Queue) -> bytes:
    """The answer of `Work.look`."""
    settings = Settings(
        slots=_number(request, "slots", 1),
        iterations=_number(request, "iterations", 1),
        seed=_number(request, "seed", 0),
        spread=_spread(request),
    )
    content = await read_body(request, MAX_BYTES)
    await _still_there(request)
    try:
        return await queue.run(work.look, content, settings)
    except ImageTooLargeError as error:
        raise Refused(413, str(error)) from error
    except ImageFormatError as error:
        raise Refused(415, str(error)) from error
    except ImageError as error:
        raise Refused(422, str(error)) from error


async def paint(request: Request, work: Work, queue: Queue) -> bytes:
    """The answer of `Work.paint`."""
    num_slots = _number(request, "slots", 1)
    content = await read_body(request, work.paint_size(num_slots))
    await _still_there(request)
    try:
        return await queue.run(work.paint, content, num_slots)
    except ValueError as error:
        raise Refused(422, str(error)) from error


def serve(shown: list[Shown], host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until stopped; `started` is told the address. Raises ValueError where the port cannot be had."""
    try:
        listening = socket.create_server((host, port), backlog=128)
    except (OSError, OverflowError) as error:
        raise ValueError(f"{host}:{port} cannot be listened on ({error}); name another --port") from error
    app = build_app(shown, ("127.0.0.1", "localhost", host))
    with listening:
        started(f"http://{host}:{listening.getsockname()[1]}/")
        uvicorn.Server(settings_for(app)).run(sockets=[listening])


def settings_for(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn is to serve: plain HTTP, short heads, and nothing said of itself."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="none",
        http="h11",
        h11_max_incomplete_event_size=16 * 1024,
        timeout_graceful_shutdown=2,
    )


async def _still_there(request: Request) -> None:
    """ClientDisconnect where nobody waits for the answer any more."""
    if await request.is_disconnected():
        raise ClientDisconnect


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


def _spread(request: Request) -> float:
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
    return JSONResponse({"error": "something went wrong here; the terminal says more"}, 500)

"""Limits on connections to the demo server: their number, duration and chunks.

uvicorn has no timeout for incomplete requests and no limit on chunks. Here the header and the whole exchange
have deadlines, and a new connection replaces the one that has waited longest for its header if all are taken.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from objecthood.demo.limits import HEADERS
from objecthood.runtime import limits

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"
)


def most_connections() -> int:
    """`limits.CONNECTIONS`, or fewer if the system limits open files."""
    try:
        import resource
    except ImportError:  # Windows
        return limits.CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limits.CONNECTIONS if allowed < 0 else max(1, min(limits.CONNECTIONS, allowed // 4))


class _Parser(h11.Connection):
    """Limits the number of chunks of a request body."""

    num_chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.num_chunks = 0
        self.num_chunks += isinstance(event, h11.Data) and event.chunk_start
        if self.num_chunks > limits.CHUNKS:
            raise h11.RemoteProtocolError(f"more than {limits.CHUNKS} chunks")
        return event


class BoundedProtocol(H11Protocol):
    """uvicorn's connection with deadlines, one of at most `limits.CONNECTIONS`."""

    def __init__(self, config: Config, server_state: Any, app_state: dict[str, Any], _loop: Any = None):
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Parser(h11.SERVER, config.h11_max_incomplete_event_size or limits.REQUEST_HEAD_BYTES)
        self._deadline: asyncio.TimerHandle | None = None
        self.waits_since: float | None = None
        """Time since which it waits for a request header; None while a request is processed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= most_connections() and not self._make_room():
            transport.write(_FULL)
            transport.close()
            return
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_deadline()
        if self.transport is not None:  # None if the connection was refused
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.waits_since is not None and self.cycle is not None and not self.cycle.response_complete:
            self.waits_since = None
            self._end_deadline()
            self._deadline = self.loop.call_later(limits.EXCHANGE_SECONDS, self.transport.abort)

    def eof_received(self) -> None:
        if self.transport is not None:
            super().eof_received()

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse malformed HTTP with the security headers of every response."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # a response is already being sent
            return
        headers = {"content-type": "text/plain; charset=utf-8", "connection": "close", **HEADERS}
        self.transport.write(self.conn.send(h11.Response(status_code=400, headers=list(headers.items()))))
        self.transport.write(self.conn.send(h11.Data(data=msg.encode("ascii"))))
        self.transport.write(self.conn.send(h11.EndOfMessage()))
        self.transport.close()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for a header; False if none waits."""
        waiting = [
            (one.waits_since, number, one)
            for number, one in enumerate(self.connections)
            if isinstance(one, BoundedProtocol) and one.waits_since is not None
        ]
        if not waiting:
            return False
        oldest = min(waiting)[2]
        oldest.transport.abort()
        self.connections.discard(oldest)
        return True

    def _await_head(self) -> None:
        self._end_deadline()
        self.waits_since = self.loop.time()
        self._deadline = self.loop.call_later(limits.HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        """Close the connection, unless the client still reads the last response, which has a longer
        deadline."""
        waited = self.loop.time() - (self.waits_since or 0)
        if self.transport.get_write_buffer_size() and waited < limits.EXCHANGE_SECONDS:
            self._deadline = self.loop.call_later(limits.HEAD_SECONDS, self._head_is_late)
        else:
            self.transport.abort()

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

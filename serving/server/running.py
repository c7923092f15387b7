"""Runs an app until it has drained: the first signal drains it, the second one ends it at once."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from agentsys.serving.server.lifecycle import Lifecycle

_TRANSPORT = "agentsys.transport"
_MILLISECONDS = 1000


class DrainingServer(uvicorn.Server):
    """A server that finishes what it has begun. ``told`` hears how many requests that is."""

    def __init__(
        self, config: uvicorn.Config, lifecycle: Lifecycle, told: Callable[[int], None] = lambda under_way: None
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._told = told
        self._would_die = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # Signals that came are raised anew at the end; to die of one then would skip what still has to be closed.
        self._would_die = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._lifecycle.draining:
            super().handle_exit(sig, frame)
            return
        if not (sig == signal.SIGTERM and self._would_die):
            self._captured_signals.append(sig)
        self._lifecycle.drain()
        if self._lifecycle.under_way:
            self._told(self._lifecycle.under_way)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._lifecycle.ended
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._lifecycle.drain()
        self._lifecycle.abort_all()
        await super().shutdown(sockets)


def server_config(app: ASGIApp, *, read_seconds: float, **options: Any) -> uvicorn.Config:
    """Return how to run ``app`` so that a client that reads nothing for ``read_seconds`` can be dropped."""

    class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.app_state: dict[str, Any] = {**self.app_state, _TRANSPORT: transport}
            _bound_unread(transport, read_seconds)

    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": 5} | options
    return uvicorn.Config(app, http=Connection, **settings)


def drop_connection(scope: Scope) -> bool:
    """Close a request's connection, forgetting what it has not read; False where the server cannot."""
    transport = scope.get("state", {}).get(_TRANSPORT)
    if transport is None:
        return False
    transport.abort()
    return True


def _bound_unread(transport: asyncio.Transport, seconds: float) -> None:
    # What a whole answer has left in the system's buffers, nobody waits for; the system itself drops such clients.
    connected = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.IPPROTO_TCP, option, int(seconds * _MILLISECONDS))

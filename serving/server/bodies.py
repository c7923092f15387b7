"""How large a request's body may be: it is read as a whole before a route looks at it, and all of it is in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentsys.serving.server.errors import BodyTooLargeError

MOST_PROMPT_BYTES: Final = 64 * 1024 * 1024
"""Of 2,048 texts, the most that one request for embeddings takes, each may have 8,192 tokens of four bytes."""


class BoundedBodies:
    """Answers itself where a body has more than ``most`` bytes, whether or not its length was told before.

    ``refuse`` makes the answer of the error. Requests for paths that begin with one of ``but`` pass.
    """

    def __init__(
        self, app: ASGIApp, *, most: int, refuse: Callable[[BodyTooLargeError], Response], but: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._most = most
        self._refuse = refuse
        self._but = but

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(self._but):
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        try:
            body = None if told.isdecimal() and int(told) > self._most else await _read(receive, self._most)
        except ClientDisconnect:
            return
        if body is None:
            refusal = self._refuse(BodyTooLargeError(f"The body has more than {self._most} bytes."))
            await refusal(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def received() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, received, send)


async def _read(receive: Receive, most: int) -> bytes | None:
    """Return a whole body; ``None`` for one that is too large. Raises :class:`ClientDisconnect`."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return bytes(body)

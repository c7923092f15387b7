"""How large a request's body may be: it is read as a whole before a face looks at it, and all of it is in memory."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentsys.protocols.edge import FaceError

MOST_BYTES: Final = 8 * 1024 * 1024
"""As much as what a foreign agent or tool may answer."""

MODELS: Final = "/v1/"
"""Where prompts come in, by the hundred in one request: how long they may be, each model says."""


class BodyTooLarge(FaceError):
    """A request's body is larger than a face reads."""

    code = "AGS-0710"
    remedy = "Send less at once, or put the data where a workflow reads it, such as in a file."


class BoundedBodies:
    """Answers 413 itself where a body has more than :data:`MOST_BYTES`, whether or not its length was told before."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(MODELS):
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        try:
            body = None if told.isdecimal() and int(told) > MOST_BYTES else await _read(receive)
        except ClientDisconnect:
            return
        if body is None:
            error = BodyTooLarge(f"The body has more than {MOST_BYTES} bytes.")
            await JSONResponse({"error": error.to_json()}, 413)(scope, receive, send)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def received() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, received, send)


async def _read(receive: Receive) -> bytes | None:
    """Return a whole body; ``None`` for one that is too large. Raises :class:`ClientDisconnect`."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)

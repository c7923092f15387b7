"""One connection to a foreign MCP server, owned by one task from its opening to its end.

The client's cancel scopes must be left in the task that entered them, so callers never touch the connection itself:
they wait for it, and for their own answer on it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import httpx2
from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    CallToolResult,
    Implementation,
    Tool,
    ToolListChangedNotification,
)

from agentsys.errors import AgentsysError
from agentsys.protocols.mcp.content import MAX_MESSAGE
from agentsys.protocols.mcp.errors import ConnectionLost, ForeignToolFailed, ServerUnavailable, UnusableAnswer
from agentsys.protocols.mcp.pins import Offer

FRESH_SECONDS: Final = 30.0
"""Seconds for which a server's listing of its tools is relied on, unless it says that it changed."""

MAX_TOOLS: Final = 1000
MAX_PAGES: Final = 100
CANCEL_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 10.0

T = TypeVar("T")


class Connection:
    """A connection to server ``name``; made inside a running event loop, which it belongs to.

    ``server`` returns what :class:`mcp.Client` takes. ``seconds`` bound the opening and each listing.
    """

    def __init__(self, name: str, server: Callable[[], Any], seconds: float) -> None:
        self._name, self._server, self._seconds = name, server, seconds
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._opened: asyncio.Future[Client] = self._loop.create_future()
        self._listing = asyncio.Lock()
        self._offer: Offer | None = None
        self._listed_at = 0.0
        self._calls = 0
        """Those under way."""
        self._task = asyncio.create_task(self._own(), name=f"mcp server {name}")

    @property
    def usable(self) -> bool:
        """Whether it is open, or being opened, in the running event loop."""
        return not self._task.done() and not self._stop.is_set() and self._loop is asyncio.get_running_loop()

    async def offer(self) -> Offer:
        """Return what the server offers, asked again where it may have changed. Raises :class:`ServerUnavailable`."""
        client = await asyncio.shield(self._opened)
        async with self._listing:
            if self._offer is None or time.monotonic() - self._listed_at > FRESH_SECONDS:
                try:
                    async with asyncio.timeout(self._seconds):
                        self._offer = await self._race(_listed(client))
                except Exception as error:
                    # A server may do one thing after another: who waits for its answer would lose that.
                    if not (self._calls and isinstance(error, TimeoutError)):
                        self._stop.set()
                    raise self._unavailable(error) from error
                self._listed_at = time.monotonic()
            return self._offer

    async def call(self, tool: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool. Raises :class:`ConnectionLost`, :class:`UnusableAnswer`, :class:`ForeignToolFailed`."""
        client = await asyncio.shield(self._opened)
        self._calls += 1
        try:
            # Questions of a server to its client are answered by nobody here.
            result = await self._race(client.session.call_tool(tool, arguments, allow_input_required=True))
        except MCPError as error:
            raise self._refusal(tool, error) from error
        except (AgentsysError, TimeoutError):
            raise
        except Exception as error:
            raise UnusableAnswer(
                f"{self._name} answered {tool} with what cannot be read: {str(error)[:MAX_MESSAGE]}."
            ) from error
        finally:
            self._calls -= 1
        if not isinstance(result, CallToolResult):
            raise UnusableAnswer(f"{self._name} answered {tool} with a question.")
        return result

    async def close(self) -> None:
        """End the connection, and the server's process with it."""
        self._stop.set()
        if self._loop is not asyncio.get_running_loop():
            return
        done, _ = await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)

    async def _own(self) -> None:
        info = Implementation(name="agentsys", version="1")
        try:
            async with asyncio.timeout(self._seconds) as opening:
                client = Client(self._server(), cache=None, message_handler=self._hear, client_info=info)
                async with client:
                    opening.reschedule(None)
                    self._opened.set_result(client)
                    await self._stop.wait()
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(self._unavailable(error))
                # Where the caller was cancelled, nobody asks for it any more.
                self._opened.exception()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _hear(self, message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._listed_at = 0.0

    async def _race(self, asking: Coroutine[Any, Any, T]) -> T:
        """Return the answer. Raises :class:`ConnectionLost` if the connection ends first."""
        answer = asyncio.create_task(asking)
        try:
            await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionLost(f"The connection to {self._name} ended during the call.")
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()
                await asyncio.wait({answer}, timeout=CANCEL_SECONDS)

    def _refusal(self, tool: str, error: MCPError) -> Exception:
        message = error.error.message[:MAX_MESSAGE]
        if error.error.code in (INVALID_PARAMS, METHOD_NOT_FOUND):
            return ForeignToolFailed(f"{self._name} refused the call of {tool}: {message}.")
        if error.error.code == REQUEST_TIMEOUT:
            return TimeoutError()
        if error.error.code == CONNECTION_CLOSED:
            self._stop.set()
            return ConnectionLost(f"{self._name} went away during {tool}: {message}.")
        return UnusableAnswer(f"{self._name} answered {tool} with an error of its own: {message}.")

    def _unavailable(self, error: BaseException) -> ServerUnavailable:
        return ServerUnavailable(f"The MCP server {self._name} cannot be used: {_reason(error)}.")


async def _listed(client: Client) -> Offer:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    if cursor is not None or len(tools) > MAX_TOOLS:
        raise ServerUnavailable(f"It lists more than {MAX_TOOLS} tools.")
    info = client.server_info
    return Offer.of(info.name if info else None, tools)


def _reason(error: BaseException) -> str:
    """Return why, without the words of the server, which nobody vouches for."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, AgentsysError):
        return error.message.rstrip(".")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, MCPError):
        return "it ended" if error.error.code == CONNECTION_CLOSED else f"it answers with error {error.error.code}"
    if isinstance(error, OSError | httpx2.TransportError):
        return str(error)
    return type(error).__name__

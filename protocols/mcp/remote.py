"""Foreign MCP servers' tools, as tools that agents call through the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import OWNER, Label
from agentsys.labelled import Labelled
from agentsys.protocols.mcp.connection import Connection
from agentsys.protocols.mcp.content import message_of, metadata_of, value_of
from agentsys.protocols.mcp.errors import ConnectionLost, DefinitionRefused, ForeignToolFailed, ServerUnavailable
from agentsys.protocols.mcp.labels import Declaration, declare, label_of_result, source_label
from agentsys.protocols.mcp.pins import Offer, Pins, ToolDocument, write_pins
from agentsys.protocols.mcp.schema import arguments_model
from agentsys.protocols.mcp.transports import transport_of
from agentsys.runtime import Runtime
from agentsys.sections import ForeignServerSettings, McpSettings
from agentsys.tools import Tool

SEPARATOR: Final = "__"
"""Between a server's name and a tool's; models' tool names have no dot."""

CONNECT_SECONDS: Final = 30.0
AWAY_SECONDS: Final = 30.0
"""Seconds after which a server that could not be reached is tried again."""

FIRST_USE: Final = "runtime"
"""Who accepts what a server offers when it is first used."""


class RemoteServer:
    """A foreign server as a source of tools, named ``NAME__TOOL``.

    The tools are known from the pins on the board; nothing is connected to before a call, or the first use ever.
    """

    def __init__(
        self,
        name: str,
        settings: ForeignServerSettings,
        board: Board,
        *,
        owner: str = OWNER,
        server: Callable[[], Any] | None = None,
    ) -> None:
        self.name, self.settings, self.prefix = name, settings, name + SEPARATOR
        self._board, self._owner = board, owner
        self._server = server or partial(transport_of, settings)
        self._connection: Connection | None = None
        self._pinned: tuple[int, Pins | None] = (-1, None)
        """What was accepted, and the head of the board then: what is called asks again and again."""
        self._known: tuple[int, dict[str, Tool]] = (0, {})
        self._away: tuple[float, ServerUnavailable] | None = None

    def pins(self) -> Pins | None:
        """Return what was accepted of the server."""
        heard = self._board.heard
        if heard != self._pinned[0]:
            self._pinned = heard, Pins.load(self._board, self.name)
        return self._pinned[1]

    def known(self) -> Mapping[str, Tool]:
        """Return the accepted tools that the settings let be called."""
        pins = self.pins()
        if pins is None:
            return {}
        if self._known[0] != pins.version:
            wanted = [tool for tool in pins.tools if self.settings.tools is None or tool in self.settings.tools]
            made = [self._tool(tool, pins.tools[tool]) for tool in sorted(wanted)]
            self._known = pins.version, {tool.name: tool for tool in made}
        return self._known[1]

    async def discover(self, name: str | None = None) -> None:
        """Accept what the server offers, if it is used for the first time.

        Raises :class:`ServerUnavailable`, and :class:`DefinitionRefused` for a tool ``name`` offered only since then.
        """
        offer = await self.offer()
        pins = self.pins()
        if pins is None:
            try:
                await write_pins(
                    self._board, self.name, Pins(offer.server, offer.tools), by=FIRST_USE, owner=self._owner
                )
            except Conflict:
                # Another process was first: what it accepted holds.
                pins = self.pins()
        if pins is not None and name is not None:
            self._check(name.removeprefix(self.prefix), pins, offer)

    async def offer(self) -> Offer:
        """Return what the server offers now. Raises :class:`ServerUnavailable`."""
        if self._away is not None and time.monotonic() < self._away[0]:
            raise self._away[1]
        try:
            while self._connection is not None and (connection := self._connection).usable:
                try:
                    return await connection.offer()
                except ServerUnavailable:
                    if connection.usable:
                        # It is busy with a call.
                        raise
            seconds = min(CONNECT_SECONDS, 0.8 * self.settings.timeout)
            self._connection = Connection(self.name, self._server, seconds)
            return await self._connection.offer()
        except ServerUnavailable as error:
            # Or every call would wait for it again.
            self._away = time.monotonic() + AWAY_SECONDS, error
            raise

    async def accept(self, offer: Offer, tool: str | None = None) -> None:
        """Accept what ``offer`` says of ``tool``, or of all, on the owner's word."""
        pins = self.pins() or Pins(offer.server, {})
        await write_pins(self._board, self.name, pins.accepting(offer, tool), by=self._owner, owner=self._owner)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _tool(self, name: str, definition: ToolDocument) -> Tool:
        declared = declare(self.name, self.settings, name, definition.get("annotations", {}))
        source = source_label(self.name, declared, self._owner)

        async def call(**arguments: Json) -> Labelled[Json]:
            return await self._call(name, arguments, declared, source)

        return Tool(
            name=self.prefix + name,
            function=call,
            parameters=arguments_model(self.prefix + name, definition["inputSchema"]),
            effect_class=declared.effect,
            consequential=declared.consequential,
            audience=declared.audience,
            source=source,
            timeout=declared.timeout,
            description=definition.get("description", ""),
            own_words=False,
        )

    async def _call(self, tool: str, arguments: dict[str, Any], declared: Declaration, source: Label) -> Labelled[Json]:
        try:
            result = await self._send(tool, arguments)
        except ConnectionLost:
            if not declared.effect.repeatable:
                raise
            result = await self._send(tool, arguments)
        label = label_of_result(self.name, source, self._owner, metadata_of(result))
        if result.is_error:
            failed = ForeignToolFailed(f"{self.name} says of {tool}: {message_of(result)}.")
            failed.label = label
            raise failed
        return Labelled(value_of(result), label)

    async def _send(self, tool: str, arguments: dict[str, Any]) -> Any:
        offer = await self.offer()
        pins = self.pins()
        self._check(tool, pins or Pins(offer.server, {}), offer)
        assert self._connection is not None, "an offer comes through a connection"
        return await self._connection.call(tool, arguments)

    def _check(self, tool: str, pins: Pins, offer: Offer) -> None:
        if tool in offer.faults:
            raise DefinitionRefused(f"The tool {tool} of the MCP server {self.name}: {offer.faults[tool]}.")
        change = pins.changes(offer).get(tool)
        if change is not None:
            # Under another name of the server, no tool can be accepted by itself.
            chosen = f"{self.name} {tool}" if pins.server == offer.server else self.name
            raise DefinitionRefused(
                f"The tool {tool} of the MCP server {self.name} is {change} since it was accepted.",
                remedy=f"`agentsys mcp accept {chosen}` shows the difference and accepts it.",
            )


def attach_servers(runtime: Runtime, settings: McpSettings) -> list[RemoteServer]:
    """Let agents of ``runtime`` call the tools of the settings' servers, without connecting yet."""
    servers = [
        RemoteServer(name, wanted, runtime.board, owner=runtime.policy.owner)
        for name, wanted in sorted(settings.servers.items())
    ]
    for server in servers:
        runtime.tools.attach(server)
    return servers

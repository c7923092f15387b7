"""Pins: what a foreign server's tools were when they were accepted, so that a change is noticed and refused.

The first listing is accepted as it is. It lies on the board, under a topic that agents can neither read nor write, so
that the hash chain covers it and its history is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from mcp_types import Tool as Definition

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import InvalidValue, Json, canonical_json
from agentsys.blackboard.labels import EXTERNAL, OWNER, Label, Readers
from agentsys.journal import submit
from agentsys.protocols.mcp.schema import fault_of_schema

Change = Literal["new", "changed", "gone"]
ToolDocument = dict[str, Any]
"""A tool as its server describes it: name, title, description, schemas, annotations, ``_meta`` and all else."""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server offers: its own name, its tools by name, and why some cannot be used."""

    server: str | None
    tools: dict[str, ToolDocument]
    faults: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(server: str | None, listed: Iterable[Definition]) -> Offer:
        """Sort a listing into tools that can be pinned and those that cannot."""
        listed = list(listed)
        times = Counter(definition.name for definition in listed)
        tools: dict[str, ToolDocument] = {}
        faults: dict[str, str] = {}
        for definition in listed:
            fault = "two tools have this name" if times[definition.name] > 1 else _fault_of(definition)
            if fault is None:
                tools[definition.name] = _document(definition)
            else:
                faults[definition.name[:80]] = fault
        return Offer(server, tools, faults)


@dataclass(frozen=True, slots=True)
class Pins:
    """What was accepted of one server; ``version`` counts the acceptances."""

    server: str | None
    tools: dict[str, ToolDocument]
    version: int = 0

    @staticmethod
    def load(board: Board, name: str) -> Pins | None:
        """Return what was accepted of server ``name``, or ``None`` if nothing ever was."""
        entry = board.get(topics.TOOL_PINS, name)
        if entry is None:
            return None
        value: Any = entry.value
        return Pins(value["server"], {tool: pin["definition"] for tool, pin in value["tools"].items()}, entry.version)

    def changes(self, offer: Offer) -> dict[str, Change]:
        """Return how ``offer`` differs, by tool. Of a server under another name, every tool differs."""
        found: dict[str, Change] = {tool: "new" for tool in offer.tools if tool not in self.tools}
        for tool, pinned in self.tools.items():
            if tool not in offer.tools:
                found[tool] = "gone"
            elif self.server != offer.server or digest_of(pinned) != digest_of(offer.tools[tool]):
                found[tool] = "changed"
        return found

    def accepting(self, offer: Offer, tool: str | None = None) -> Pins:
        """Return these pins with what ``offer`` says of ``tool``, or of all."""
        if tool is None:
            return Pins(offer.server, dict(offer.tools), self.version)
        kept = {name: pinned for name, pinned in self.tools.items() if name != tool}
        accepted = {tool: offer.tools[tool]} if tool in offer.tools else {}
        return Pins(self.server, kept | accepted, self.version)


async def write_pins(board: Board, name: str, pins: Pins, *, by: str, owner: str = OWNER) -> None:
    """Record what ``by`` accepts of server ``name``. Raises ``Conflict`` if others did meanwhile."""
    transaction = await asyncio.to_thread(board.begin, by)
    # Read, so that of two processes that see a server for the first time one loses.
    await asyncio.to_thread(transaction.get, topics.TOOL_PINS, name)
    tools: Json = {
        tool: {"sha256": digest_of(definition), "definition": definition} for tool, definition in pins.tools.items()
    }
    label = Label(frozenset({f"mcp:{name}", EXTERNAL}), Readers.of(owner))
    transaction.put(topics.TOOL_PINS, name, {"server": pins.server, "tools": tools}, type="tool_pins", label=label)
    await submit(board, transaction)


def digest_of(definition: ToolDocument) -> str:
    """Return the SHA-256 of a definition's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(definition).encode()).hexdigest()


def _document(definition: Definition) -> ToolDocument:
    return definition.model_dump(mode="json", by_alias=True, exclude_none=True)


def _fault_of(definition: Definition) -> str | None:
    name = definition.name
    if not (
        0 < len(name) <= 128 and name.isascii() and name.replace("_", "").replace("-", "").replace(".", "").isalnum()
    ):
        return "the name is not made of 1 to 128 letters, digits, '_', '-' and '.'"
    try:
        canonical_json(_document(definition))
    except InvalidValue as error:
        return error.message
    return fault_of_schema(definition.input_schema)

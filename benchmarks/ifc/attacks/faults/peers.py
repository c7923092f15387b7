"""Faults of what is believed of servers and agents elsewhere, and of a person's word."""

from __future__ import annotations

from dataclasses import replace as altered
from types import SimpleNamespace
from typing import Any

from agentsys import approval_use, approvals, deciding
from agentsys.benchmarks.ifc.attacks.weakenings import plain, weakening
from agentsys.blackboard.labels import Label, Readers
from agentsys.planning import planner
from agentsys.protocols.a2a import remote as agents
from agentsys.protocols.mcp import remote as servers
from agentsys.protocols.mcp.pins import Pins
from agentsys.tools import Tool
from agentsys.views import approvals as views
from agentsys.views.visible import Visible


@weakening("a server's word makes it trusted")
def _(replace: Any) -> None:
    def label(server: str, source: Label, owner: str, metadata: Any) -> Label:
        return Label.trusted(owner, source.readers) if any(metadata) else source

    replace(servers, "label_of_result", label)


@weakening("a peer's word makes it trusted")
def _(replace: Any) -> None:
    original = plain(agents, "label_from_peer")

    def label(peer: str, owner: str, metadata: Any) -> Label:
        readers: Readers = original(peer, owner, {}).readers
        return Label.trusted(owner, readers)

    replace(agents, "label_from_peer", label)
    volunteer = plain(agents.RemoteAgent, "volunteer")

    async def bid(self: Any, request: Any) -> Any:
        return altered(await volunteer(self, request), label=None)

    replace(agents.RemoteAgent, "volunteer", bid)


@weakening("a server's hints are believed")
def _(replace: Any) -> None:
    original = plain(servers, "declare")

    def declare(server: str, settings: Any, tool: str, annotations: Any) -> Any:
        return altered(original(server, settings, tool, annotations), consequential=not annotations)

    replace(servers, "declare", declare)


@weakening("a server's tools are never compared")
def _(replace: Any) -> None:
    replace(Pins, "changes", lambda self, offer: {})


@weakening("a foreign tool's words are shown to planners")
def _(replace: Any) -> None:
    def described(tool: Tool, said: str) -> str:
        return f"{tool.name}: {tool.description} {tool.parameters.model_json_schema()}"

    replace(planner, "_described", described)


@weakening("a word holds for every call of its tool")
def _(replace: Any) -> None:
    original = approvals.Approval.load

    def load(board: Any, approval: str) -> Any:
        found = original(board, approval)
        for other in approvals.list_approvals(board):
            if found.status == "pending" and other.status == "approved" and other.subject == found.subject:
                return altered(found, status="approved", decided_by=other.decided_by, decided_at=other.decided_at)
        return found

    replace(approvals.Approval, "load", staticmethod(load))
    replace(approval_use, "invalidity", lambda *given: None)


@weakening("a word holds for whatever is there")
def _(replace: Any) -> None:
    replace(approval_use, "invalidity", lambda *given: None)
    replace(deciding, "_check_open", lambda found, word: None)


@weakening("a word need not say what was shown")
def _(replace: Any) -> None:
    original = deciding._check_open
    replace(deciding, "_check_open", lambda found, word: original(found, altered(word, binding=None)))


@weakening("an approval never expires")
def _(replace: Any) -> None:
    replace(approvals, "time", SimpleNamespace(time=lambda: 0.0))
    replace(approval_use, "invalidity", lambda *given: None)


@weakening("anybody may decide")
def _(replace: Any) -> None:
    replace(approvals.Approval, "admits", lambda self, principal: True)


@weakening("people are shown texts as they are")
def _(replace: Any) -> None:
    replace(views, "visible", lambda value: Visible(str(value), ()))

"""What is believed about a foreign MCP server: the operator's word, which the server's own can only make worse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import EXTERNAL, Label, Readers
from agentsys.sections import ForeignServerSettings, ForeignToolSettings

FLOW: Final = "agentsys/flow"
"""``_meta`` key of a result's flow label."""

IFC: Final = "ifc"
"""``_meta`` key under which other makers' servers write integrity and confidentiality."""

MAX_PRINCIPALS: Final = 64
"""Principals of a server's labels that are kept by name."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the gateway is told of a foreign tool."""

    effect: EffectClass
    consequential: bool
    trusted: bool
    audience: Readers
    timeout: float


def principal_of(server: str) -> str:
    """Return the principal of a foreign MCP server, under which it learns and speaks."""
    return f"mcp:{server}"


def declare(server: str, settings: ForeignServerSettings, tool: str, annotations: Mapping[str, Any]) -> Declaration:
    """Return what holds for ``tool``: the operator's word about it, else about its server as far as it admits that.

    A server's annotations never make it better: they are hints from whom the hints would serve.
    """
    own = settings.tool.get(tool) or ForeignToolSettings()
    open_world = annotations.get("openWorldHint") is True
    repeatable = annotations.get("readOnlyHint") is not False or settings.effect != "pure"
    repeatable &= annotations.get("idempotentHint") is not False or settings.effect == "pure"
    audience = settings.audience if settings.audience is not None else frozenset({principal_of(server)})
    return Declaration(
        effect=EffectClass(own.effect or (settings.effect if repeatable else "irreversible")),
        consequential=_first(own.consequential, settings.consequential or annotations.get("destructiveHint") is True),
        trusted=_first(own.trusted, settings.trusted and not open_world),
        audience=Readers(own.audience if own.audience is not None else audience | _world(server, open_world)),
        timeout=own.timeout or settings.timeout,
    )


def source_label(server: str, declared: Declaration, owner: str) -> Label:
    """Return the label of a tool's results, where the server does not make it worse."""
    readers = Readers(frozenset({owner}) | (declared.audience.members or frozenset()))
    return Label.trusted(owner, readers) if declared.trusted else Label(_untrusted(server, ()), readers)


def label_of_result(server: str, source: Label, owner: str, metadata: Iterable[Mapping[str, Any] | None]) -> Label:
    """Return ``source`` joined with what the ``_meta`` of a result and of its parts admit."""
    words = [meta[key] for meta in metadata if meta for key in (FLOW, IFC) if key in meta]
    return source.join(*(_admitted(server, source, owner, word) for word in words))


def _admitted(server: str, source: Label, owner: str, word: Any) -> Label:
    says = word if isinstance(word, Mapping) else {}
    readers = source.readers
    if says.get("confidentiality") != "public":
        readers = readers.join(Readers.of(owner, principal_of(server)))
    if says.get("integrity") == "trusted":
        return Label(frozenset(), readers, 0.0)
    named = says.get("influencers")
    names = [name[:200] for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return Label(_untrusted(server, names[:MAX_PRINCIPALS]), readers)


def _untrusted(server: str, named: Iterable[str]) -> frozenset[str]:
    principal = principal_of(server)
    return frozenset({principal, EXTERNAL, *(f"{principal}/{name}" for name in named)})


def _world(server: str, open_world: bool) -> frozenset[str]:
    return frozenset({principal_of(server)} if open_world else ())


def _first(own: bool | None, otherwise: bool) -> bool:
    return otherwise if own is None else own

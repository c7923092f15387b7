"""Flow labels across A2A: the metadata extension, and what a peer's word about labels is worth.

A peer's label can only lower trust: its principals are added to the influencers under the peer's own name, so that a
peer cannot pass for a local principal, and what it says about readers is never taken as permission.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from a2a.types.a2a_pb2 import AgentExtension

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.policy.policy import Policy

FLOW_EXTENSION: Final = "urn:agentsys:ext:flow:v1"
"""URI of the extension, and the ``metadata`` key on messages, parts and artifacts."""

MAX_PRINCIPALS: Final = 64
"""Principals of a peer's provenance that are kept by name."""


def principal_of(peer: str) -> str:
    """Return the principal of an A2A peer: a client's user name, or a server's host."""
    return f"a2a:{peer}"


def label_from_peer(peer: str, owner: str, metadata: Mapping[str, Any]) -> Label:
    """Return the label of what ``peer`` sent: shaped by it and whom it names, readable by it and the owner."""
    principal = principal_of(peer)
    named = {f"{principal}/{name}" for name in _provenance(metadata.get(FLOW_EXTENSION))}
    return Label(frozenset({principal, *named}), Readers.of(owner, principal))


def principal_of_client(client: str) -> str:
    """Return the principal of a client of ours: itself, where the edge knows it by its token (``user:ann``)."""
    return client if ":" in client else principal_of(client)


def label_from_client(client: str, owner: str, metadata: Mapping[str, Any]) -> Label:
    """Return the label of what a client sent: of one without a token of its own, that of a peer."""
    if ":" not in client:
        return label_from_peer(client, owner, metadata)
    named = {f"{client}/{name}" for name in _provenance(metadata.get(FLOW_EXTENSION))}
    return Label(frozenset({client, *named}), Readers.of(client))


def flow_metadata(label: Label, policy: Policy) -> dict[str, Json]:
    """Return the extension's ``metadata`` for a value; who else may read it is nobody's business, so it is left out."""
    provenance: list[Json] = [{"principal": name} for name in sorted(label.shaped_by)]
    return {
        FLOW_EXTENSION: {
            "v": 1,
            "integrity": "trusted" if policy.trusts(label) else "untrusted",
            "confidentiality": "public" if label.readers == PUBLIC else "private",
            "provenance": provenance,
        }
    }


def flow_extension() -> AgentExtension:
    """Return the extension as an agent card declares it."""
    return AgentExtension(
        uri=FLOW_EXTENSION,
        description="Information-flow label of an artifact: integrity, confidentiality and provenance.",
        required=False,
    )


def _provenance(value: Any) -> list[str]:
    steps = value.get("provenance") if isinstance(value, Mapping) else None
    if not isinstance(steps, list):
        return []
    names = [step.get("principal") for step in steps if isinstance(step, Mapping)]
    return [name[:200] for name in names if isinstance(name, str)][:MAX_PRINCIPALS]

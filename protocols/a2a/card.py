"""The agent card: who we are, where we listen, and each workflow as a skill."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)

from agentsys.protocols.a2a.labels import flow_extension
from agentsys.protocols.a2a.parts import JSON, TEXT
from agentsys.workflow import Workflow

PREFIX: Final = "/a2a"
"""Path of both bindings below the public URL."""

DISTRIBUTION: Final = "agentsys-runtime"


def agent_card(workflows: Iterable[Workflow], *, url: str, name: str = "agentsys", token: bool = False) -> AgentCard:
    """Return the card of a server whose public address is ``url``, which a proxy may have changed.

    ``token`` says that callers authenticate with a bearer token.
    """
    base = url.rstrip("/") + PREFIX
    card = AgentCard(
        name=name,
        description="Workflows of an agentsys runtime: teams of agents over one labelled blackboard.",
        version=_version(),
        supported_interfaces=[
            AgentInterface(url=base, protocol_binding=binding, protocol_version=protocol)
            for protocol in ("1.0", "0.3")
            for binding in ("JSONRPC", "HTTP+JSON")
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False, extensions=[flow_extension()]),
        default_input_modes=[TEXT, JSON],
        default_output_modes=[TEXT, JSON],
        skills=[_skill(workflow) for workflow in workflows],
    )
    if token:
        scheme = HTTPAuthSecurityScheme(scheme="bearer", description="the token of `agentsys serve`")
        card.security_schemes["bearer"].CopyFrom(SecurityScheme(http_auth_security_scheme=scheme))
        card.security_requirements.append(SecurityRequirement(schemes={"bearer": StringList()}))
    return card


def _skill(workflow: Workflow) -> AgentSkill:
    # A graph has no docstring of its own: its class's would describe LangGraph.
    text = inspect.getdoc(workflow.body) if inspect.isroutine(workflow.body) else None
    description = text or f"Runs the workflow {workflow.name}."
    return AgentSkill(id=workflow.name, name=workflow.name, description=description, tags=["workflow"])


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"

"""What an MCP client gets of a run that has ended."""

from __future__ import annotations

import json
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp_types import CallToolResult, ContentBlock, TextContent
from pydantic import TypeAdapter, ValidationError
from starlette.requests import HTTPConnection

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.policy.policy import Policy
from agentsys.protocols.mcp.errors import WithheldOutcome
from agentsys.protocols.mcp.labels import FLOW
from agentsys.protocols.principals import CALLER, Caller
from agentsys.runs import RunFailed, RunResult

CLIENT: Final = "mcp:client"
"""The principal of every MCP client that has no token of its own."""

_BLOCK: Final[TypeAdapter[ContentBlock]] = TypeAdapter(ContentBlock)


def client_of(context: ServerRequestContext[Any, Any]) -> str:
    """Return the principal that makes a request: that of its token, where the edge knows one beside the owner's."""
    caller = context.request.scope.get(CALLER) if isinstance(context.request, HTTPConnection) else None
    return caller.principal if isinstance(caller, Caller) and not caller.operator else CLIENT


def label_of_client(client: str, owner: str) -> Label:
    """Return the label of what a client sends."""
    return Label(frozenset({CLIENT}), Readers.of(owner, CLIENT)) if client == CLIENT else Label.trusted(client)


def result_of(result: RunResult, policy: Policy, client: str = CLIENT) -> CallToolResult:
    """Return a run's answer if its label lets the client read it, otherwise an error that says so."""
    record = result.record
    label = record.label
    if label is None or not label.readers.permits(Readers.of(client)):
        withheld = WithheldOutcome(f"Run {record.run} is {record.status}; its outcome is not for this client.")
        code = record.failure.code if record.failure is not None else withheld.code
        return error_result(code, f"{withheld.message} {withheld.remedy}", None)
    meta = flow_of(label, policy)
    if record.failure is not None:
        return error_result(record.failure.code, record.failure.message, meta)
    try:
        value = result.value
    except RunFailed as unfinished:
        return error_result(unfinished.code, unfinished.message, meta)
    blocks = content_blocks(value)
    if blocks is not None:
        return CallToolResult(content=blocks, _meta=meta)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return CallToolResult(content=[TextContent(text=text)], structured_content={"value": value}, _meta=meta)


def error_result(code: str, message: str, meta: dict[str, Any] | None) -> CallToolResult:
    """Return a result that is an error, with its code."""
    return CallToolResult(content=[TextContent(text=f"[{code}] {message}")], is_error=True, _meta=meta)


def flow_of(label: Label, policy: Policy) -> dict[str, Any]:
    """Return the ``_meta`` that tells a label; who else may read the value is nobody's business."""
    integrity = "trusted" if policy.trusts(label) else "untrusted"
    confidentiality = "public" if label.readers == PUBLIC else "private"
    return {FLOW: {"integrity": integrity, "confidentiality": confidentiality, "influencers": sorted(label.shaped_by)}}


def content_blocks(value: Json) -> list[ContentBlock] | None:
    """Return ``value`` as MCP content if that is what it is: a block, or a list of blocks and texts, not texts alone.

    So a tool answers with an image, a sound or a file: ``{"type": "image", "data": BASE64, "mimeType": "image/png"}``.
    """
    parts = value if isinstance(value, list) else [value]
    if not any(isinstance(part, dict) for part in parts):
        return None
    try:
        return [
            TextContent(text=part) if isinstance(part, str) else _BLOCK.validate_python(part, by_name=False)
            for part in parts
        ]
    except ValidationError:
        return None

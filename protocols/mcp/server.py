"""Our workflows, tools and board for MCP clients, over streamable HTTP and standard streams.

Every call is a run on the board, started under the client's label, so that the gateway judges it like any other.
Clients name themselves without proof, so all of them act as one principal, which no policy trusts by default.
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote, unquote

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextContent,
    TextResourceContents,
    Tool,
)
from starlette.applications import Starlette

from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.policy import Policy
from agentsys.protocols.mcp.errors import WithheldOutcome
from agentsys.protocols.mcp.labels import FLOW
from agentsys.runs import RunResult
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.workflow import Workflow

CLIENT: Final = "mcp:client"
"""The principal of every MCP client."""

CALL_WORKFLOW: Final = "mcp_call"
"""The workflow in whose runs clients call tools."""

AUDIENCE: Final = Readers.of(CLIENT)


async def _call_tool(context: Context, request: Any) -> Any:
    return await context.call(request["tool"], **request["arguments"])


class _Face:
    """The request handlers of one runtime."""

    def __init__(self, runtime: Runtime, supervisor: RunSupervisor) -> None:
        self._runtime, self._supervisor = runtime, supervisor
        runtime.workflows.setdefault(CALL_WORKFLOW, Workflow(CALL_WORKFLOW, _call_tool))

    async def list_tools(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        anything: dict[str, Any] = {"type": "object", "properties": {"input": {}}}
        offered = [
            Tool(name=f"run_{name}", description=f"Run the workflow {name}.", input_schema=anything)
            for name in sorted(self._runtime.workflows)
            if name != CALL_WORKFLOW
        ]
        for name in self._runtime.tools.names():
            if (found := self._runtime.tools.get(name)) is not None:
                schema = found.parameters.model_json_schema()
                offered.append(Tool(name=f"call_{name}", description=found.description, input_schema=schema))
        return ListToolsResult(tools=offered)

    async def call_tool(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        kind, _, name = params.name.partition("_")
        arguments: dict[str, Any] = params.arguments or {}
        if kind == "run" and name in self._runtime.workflows and name != CALL_WORKFLOW:
            workflow, value = name, arguments.get("input")
        elif kind == "call" and self._runtime.tools.get(name) is not None:
            workflow, value = CALL_WORKFLOW, {"tool": name, "arguments": arguments}
        else:
            raise MCPError(INVALID_PARAMS, f"No tool is named {params.name!r}.")
        label = Label(frozenset({CLIENT}), Readers.of(self._runtime.policy.owner, CLIENT))
        try:
            run = await self._supervisor.start(workflow, value, label=label)
            return _result(await self._supervisor.wait(run), self._runtime.policy)
        except AgentsysError as error:
            return _error(error.code, f"{error.message} {error.remedy}", None)

    async def list_resources(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        entries = [entry for entry in self._runtime.board.query(Predicate()) if _readable(entry)]
        return ListResourcesResult(
            resources=[
                Resource(name=f"{entry.topic}/{entry.key}", uri=_uri(entry), mime_type="application/json")
                for entry in entries
            ]
        )

    async def read_resource(
        self, context: ServerRequestContext[Any], params: ReadResourceRequestParams
    ) -> ReadResourceResult:
        scheme, _, address = str(params.uri).partition("://")
        topic, _, key = address.partition("/")
        entry = self._runtime.board.get(unquote(topic), unquote(key)) if scheme == "board" and topic and key else None
        # One answer for what is absent and what is withheld, so that it does not tell them apart.
        if entry is None or not _readable(entry):
            raise MCPError(INVALID_PARAMS, "No such resource.")
        text = json.dumps(entry.value, ensure_ascii=False)
        contents = TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
        return ReadResourceResult(contents=[contents])


def mcp_server(runtime: Runtime, supervisor: RunSupervisor) -> Server[Any]:
    """Return the server, for any transport."""
    face = _Face(runtime, supervisor)
    return Server(
        "agentsys",
        on_list_tools=face.list_tools,
        on_call_tool=face.call_tool,
        on_list_resources=face.list_resources,
        on_read_resource=face.read_resource,
    )


def mcp_app(runtime: Runtime, supervisor: RunSupervisor) -> Starlette:
    """Return the streamable HTTP application at ``/mcp``; its lifespan must run. The edge in front checks hosts."""
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return mcp_server(runtime, supervisor).streamable_http_app(transport_security=unchecked)


async def serve_stdio(runtime: Runtime, supervisor: RunSupervisor) -> None:
    """Serve one client over standard input and output until it leaves."""
    server = mcp_server(runtime, supervisor)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _result(result: RunResult, policy: Policy) -> CallToolResult:
    record = result.record
    label = record.label
    if label is None or not label.readers.permits(AUDIENCE):
        withheld = WithheldOutcome(f"Run {record.run} is {record.status}; its outcome is not for this client.")
        code = record.failure.code if record.failure is not None else withheld.code
        return _error(code, f"{withheld.message} {withheld.remedy}", None)
    if record.failure is not None:
        return _error(record.failure.code, record.failure.message, _flow(label, policy))
    text = record.value if isinstance(record.value, str) else json.dumps(record.value, ensure_ascii=False)
    return CallToolResult(
        content=[TextContent(text=text)], structured_content={"value": record.value}, _meta=_flow(label, policy)
    )


def _error(code: str, message: str, meta: dict[str, Any] | None) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=f"[{code}] {message}")], is_error=True, _meta=meta)


def _flow(label: Label, policy: Policy) -> dict[str, Json]:
    integrity = "trusted" if policy.trusts(label) else "untrusted"
    confidentiality = "public" if label.readers == PUBLIC else "private"
    return {
        FLOW: {"integrity": integrity, "confidentiality": confidentiality, "influencers": sorted(label.influencers)}
    }


def _readable(entry: Entry) -> bool:
    return not entry.deleted and entry.label.readers.permits(AUDIENCE)


def _uri(entry: Entry) -> str:
    return f"board://{quote(entry.topic, safe='')}/{quote(entry.key, safe='')}"

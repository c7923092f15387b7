"""Our workflows, tools and board for MCP clients, over streamable HTTP and standard streams.

Every call is a run on the board, started under the client's label, so that the gateway judges it like any other.
A client that the edge knows by its token acts as that principal. All others name themselves without proof, and act as
one principal, which no policy trusts by default.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from importlib.metadata import version
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)
from starlette.applications import Starlette

from agentsys.beginning import new_name
from agentsys.blackboard.effects import EffectClass
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.events import TokensStreamed
from agentsys.protocols.bodies import MOST_BYTES
from agentsys.protocols.http.streams import Stopping
from agentsys.protocols.mcp.published import Published
from agentsys.protocols.mcp.results import CLIENT, client_of, error_result, label_of_client, result_of
from agentsys.protocols.offers import CALL_WORKFLOW, offered_workflows
from agentsys.runs import PRINCIPAL
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.tools import Tool as OwnTool
from agentsys.workflow import Workflow

RUN: Final = "run_"
"""What the names of workflows begin with for clients; tools have their own."""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


async def _call_tool(context: Context, request: Any) -> Any:
    return await context.call(request["tool"], **request["arguments"])


class _Face:
    """The handlers of one runtime's tools and workflows."""

    def __init__(self, runtime: Runtime, supervisor: RunSupervisor, stopping: Stopping) -> None:
        self._runtime, self._supervisor, self._stopping = runtime, supervisor, stopping
        runtime.workflows.setdefault(CALL_WORKFLOW, Workflow(CALL_WORKFLOW, _call_tool))

    async def list_tools(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        await self._runtime.tools.discover()
        offered = {name: self._workflow(name) for name in sorted(self._workflows())}
        for name in self._runtime.tools.names():
            found = self._runtime.tools.get(name)
            if found is not None and _NAME.fullmatch(name):
                offered.setdefault(name, _described(found))
        return ListToolsResult(tools=list(offered.values()))

    async def call_tool(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        arguments: dict[str, Any] = params.arguments or {}
        if params.name in self._workflows():
            workflow, value = params.name.removeprefix(RUN), arguments.get("input")
        elif self._runtime.tools.get(params.name) is not None:
            workflow, value = CALL_WORKFLOW, {"tool": params.name, "arguments": arguments}
        else:
            raise MCPError(INVALID_PARAMS, f"No tool is named {params.name!r}.")
        client, run = client_of(context), new_name()
        label = label_of_client(client, self._runtime.policy.owner)
        try:
            origin = {"face": "mcp"} | ({} if client == CLIENT else {PRINCIPAL: client})
            await self._supervisor.start(workflow, value, label=label, run_id=run, origin=origin)
            await self._report(context, run)
            return result_of(await self._supervisor.wait(run), self._runtime.policy, client)
        except AgentsysError as error:
            return error_result(error.code, f"{error.message} {error.remedy}", None)
        except asyncio.CancelledError:
            # Its client took the call back, or left: nobody gets the answer, and who asks again has it done twice.
            if not self._stopping:
                self._supervisor.abandon(run, by=client)
            raise

    async def _report(self, context: ServerRequestContext[Any], run: str) -> None:
        """Tell a client that asked for it what kind of thing happens; the words are known to nobody before the end."""
        told = 0
        async for _, event in self._supervisor.stream(run):
            if not isinstance(event, TokensStreamed):
                told += 1
                await context.session.report_progress(told, message=type(event).__name__)

    def _workflows(self) -> set[str]:
        names = (RUN + name for name in offered_workflows(self._runtime))
        return {name for name in names if _NAME.fullmatch(name)}

    def _workflow(self, name: str) -> Tool:
        workflow = self._runtime.workflows[name.removeprefix(RUN)]
        body = workflow.body if inspect.isroutine(workflow.body) else None
        return Tool(
            name=name,
            description=inspect.getdoc(body) or f"Run the workflow {workflow.name}.",
            input_schema={"type": "object", "properties": {"input": {"description": "the workflow's input"}}},
        )


def mcp_server(runtime: Runtime, supervisor: RunSupervisor, stopping: Stopping | None = None) -> Server[Any]:
    """Return the server, for any transport. A call that its client takes back ends its run, unless ``stopping`` says
    that the process is about to end.
    """
    face = _Face(runtime, supervisor, Stopping() if stopping is None else stopping)
    published = Published(runtime.board, runtime.policy)
    return Server(
        "agentsys",
        version=version("agentsys-runtime"),
        on_list_tools=face.list_tools,
        on_call_tool=face.call_tool,
        on_list_prompts=published.list_prompts,
        on_get_prompt=published.get_prompt,
        on_list_resources=published.list_resources,
        on_list_resource_templates=published.list_templates,
        on_read_resource=published.read_resource,
        on_completion=published.complete,
    )


def mcp_app(runtime: Runtime, supervisor: RunSupervisor, stopping: Stopping | None = None) -> Starlette:
    """Return the streamable HTTP application at ``/mcp``; its lifespan must run. The edge in front checks hosts.

    ``stopping`` is as in :func:`mcp_server`.
    """
    unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    server = mcp_server(runtime, supervisor, stopping)
    return server.streamable_http_app(transport_security=unchecked, max_request_body_size=MOST_BYTES)


async def serve_stdio(runtime: Runtime, supervisor: RunSupervisor) -> None:
    """Serve one client over standard input and output until it leaves."""
    server = mcp_server(runtime, supervisor)
    async with stdio_server() as (read, write):
        try:
            await server.run(read, write, server.create_initialization_options())
        finally:
            # What others printed goes to standard error only while the protocol has standard output.
            sys.stdout.flush()


def _described(tool: OwnTool) -> Tool:
    hints = ToolAnnotations(
        read_only_hint=not tool.consequential and tool.effect_class is EffectClass.PURE,
        destructive_hint=tool.consequential,
        idempotent_hint=tool.effect_class.repeatable,
        open_world_hint=tool.source is not None,
    )
    return Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.parameters.model_json_schema(),
        annotations=hints,
    )

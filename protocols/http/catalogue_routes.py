"""Routes that say what a runtime has: agents, tools, workflows, models, and how it does."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from agentsys.protocols.http.callers import Calling, operating
from agentsys.protocols.http.metrics import RuntimeCollector, engine_views
from agentsys.protocols.http.schemas import AgentDocument, Health, ToolDocument, WorkflowDocument
from agentsys.protocols.http.serving_documents import EngineDocument
from agentsys.protocols.offers import offered_workflows
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.tools import Tool


def catalogue_router(runtime: Runtime, measured: Collector | None = None) -> APIRouter:
    """Return the routes that describe the runtime; ``measured`` is told beside its own metrics."""
    router = APIRouter(tags=["runtime"])
    registry = CollectorRegistry()
    registry.register(RuntimeCollector(runtime))
    if measured is not None:
        registry.register(measured)

    @router.get("/health")
    def health(caller: Calling) -> Health:
        """Say that the server answers."""
        return Health(version=version("agentsys-runtime"), head=runtime.board.head, principal=caller.principal)

    @router.get("/agents")
    def agents() -> list[AgentDocument]:
        """List the agents."""
        return [
            AgentDocument(name=agent.name, interests=sorted(agent.interests), profile=agent.profile)
            for agent in runtime.agents
        ]

    @router.get("/tools")
    def tools() -> list[ToolDocument]:
        """List the tools."""
        found = [runtime.tools.get(name) for name in runtime.tools.names()]
        return [_tool(tool) for tool in found if tool is not None]

    @router.get("/workflows")
    def workflows() -> list[WorkflowDocument]:
        """List the workflows that runs can be started of."""
        found = sorted(offered_workflows(runtime).items())
        return [WorkflowDocument(name=name, deadline_seconds=workflow.deadline) for name, workflow in found]

    @router.get("/models")
    def models() -> list[str]:
        """List the models by name, the default first."""
        return list(runtime.model.models) if isinstance(runtime.model, ServingClient) else []

    @router.get("/serving", dependencies=[Depends(operating)])
    def serving() -> list[EngineDocument]:
        """Describe each model: whether it is in memory, and its engine's queue, latencies and throughput."""
        if not isinstance(runtime.model, ServingClient):
            return []
        views = engine_views(runtime)
        return [EngineDocument.of(one.name, views.get(one.name), one) for one in runtime.model.residents()]

    @router.get(
        "/metrics",
        dependencies=[Depends(operating)],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
    )
    def metrics() -> Response:
        """Return measurements in the text format of Prometheus."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def _tool(tool: Tool) -> ToolDocument:
    members = tool.audience.members
    return ToolDocument(
        name=tool.name,
        description=tool.description,
        effect=str(tool.effect_class),
        consequential=tool.consequential,
        parameters=tool.parameters.model_json_schema(),
        audience=None if members is None else sorted(members),
        timeout_seconds=tool.timeout,
    )

"""Routes for whoever runs the server: does it live, may it be sent requests, how does it do, and let it end."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel

from agentsys.serving.client import ServingClient
from agentsys.serving.server.errors import OperatorOnlyError
from agentsys.serving.server.metrics import EngineCollector
from agentsys.serving.server.openai_routes import shaped_route
from agentsys.serving.server.operation import Operation
from agentsys.serving.server.places import user_of

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What load balancers ask, who have no token: neither tells more than that the server is there and takes requests."""


class Health(BaseModel):
    """``status`` is ``ok``, or why the server should be sent nothing: ``draining`` or ``failed``."""

    status: str


class Drain(BaseModel):
    """A server that ends: the requests left, and the seconds that it gives them at most."""

    under_way: int
    seconds: float


def health_router(client: ServingClient, operation: Operation) -> APIRouter:
    """Return ``/health``, ``/ready``, ``/metrics`` and ``/admin/drain``; the latter two are the operator's."""
    router = APIRouter(route_class=shaped_route(operation.metrics), tags=["health"])
    registry = CollectorRegistry()
    registry.register(EngineCollector(client))
    registry.register(operation.metrics.registry)

    @router.get("/health")
    async def health() -> Health:
        """Say that the server lives."""
        return Health(status="ok")

    @router.get("/ready", responses={503: {"model": Health}})
    async def ready() -> JSONResponse:
        """Say whether the server takes requests: it does not drain, and its default model did not fail just now."""
        failed = client.models[0] in client.failed
        status = "draining" if operation.lifecycle.draining else "failed" if failed else "ok"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(request: Request) -> Response:
        """Return measurements in the text format of Prometheus."""
        check_operator(request)
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @router.post("/admin/drain", status_code=202)
    async def drain(request: Request) -> Drain:
        """Take no further requests, finish those under way, and end the server."""
        check_operator(request)
        operation.lifecycle.drain()
        return Drain(under_way=operation.lifecycle.under_way, seconds=operation.lifecycle.seconds_left)

    return router


def check_operator(request: Request) -> None:
    """Raise :class:`OperatorOnlyError` for a request of somebody beside the owner."""
    user = user_of(request)
    if user is not None:
        raise OperatorOnlyError(f"{user} may not see or decide what concerns all users of the server.")

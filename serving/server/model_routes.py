"""Routes for whoever runs the server: which models are in memory, and how their replicas do."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import TypeAdapter

from agentsys.serving.client import ServingClient
from agentsys.serving.residence import Resident
from agentsys.serving.server.health_routes import check_operator
from agentsys.serving.server.openai_routes import shaped_route
from agentsys.serving.server.operation import Operation

_RESIDENTS = TypeAdapter(list[Resident])


def model_router(client: ServingClient, operation: Operation) -> APIRouter:
    """Return ``/admin/models`` and, below it, loading and unloading one by its name."""
    router = APIRouter(prefix="/admin/models", route_class=shaped_route(operation.metrics), tags=["models"])

    @router.get("")
    async def list_models(request: Request) -> list[dict[str, Any]]:
        """Return every model: whether it is loaded, its memory, its calls, and its replicas."""
        check_operator(request)
        return _described(client)

    @router.post("/load")
    async def load(request: Request, model: str) -> list[dict[str, Any]]:
        """Load a model now, so that its next call need not wait."""
        check_operator(request)
        await client.engine(model)
        return _described(client)

    @router.post("/unload")
    async def unload(request: Request, model: str) -> list[dict[str, Any]]:
        """Free an idle model's memory until its next call."""
        check_operator(request)
        await client.unload(model)
        return _described(client)

    return router


def _described(client: ServingClient) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = _RESIDENTS.dump_python(client.residents(), mode="json")
    return described

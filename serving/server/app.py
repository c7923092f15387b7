"""The OpenAI-compatible server as one application."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agentsys.serving.client import ServingClient
from agentsys.serving.server.bodies import MOST_PROMPT_BYTES, BoundedBodies
from agentsys.serving.server.errors import InvalidRequestError
from agentsys.serving.server.health_routes import health_router
from agentsys.serving.server.metrics import Measured
from agentsys.serving.server.model_routes import model_router
from agentsys.serving.server.openai_routes import openai_router, refusal
from agentsys.serving.server.operation import Operation


def serving_app(client: ServingClient, operation: Operation | None = None) -> FastAPI:
    """Return an app that serves models under ``/v1``, beside its health, its metrics and its end.

    ``operation`` holds its limits and its life; :class:`~agentsys.serving.server.running.DrainingServer` ends with it.
    """
    operation = Operation() if operation is None else operation
    # Its log events would repeat messages of errors, which may hold words of a prompt.
    telemetry: Any = {"logs": False, "operation_spans": False}
    app = FastAPI(
        title="agentsys models", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", telemetry=telemetry
    )
    refuse = partial(refusal, metrics=operation.metrics)
    app.add_middleware(BoundedBodies, most=MOST_PROMPT_BYTES, refuse=refuse)
    app.add_middleware(Measured, metrics=operation.metrics)

    async def not_there(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = f"{error.detail}: {request.method} {request.url.path}."
        refused = refuse(InvalidRequestError(told, remedy="/v1/openapi.json names every route of the models."))
        refused.status_code = error.status_code
        refused.headers.update(error.headers or {})
        return refused

    app.add_exception_handler(HTTPException, not_there)
    app.include_router(openai_router(client, operation), prefix="/v1")
    app.include_router(health_router(client, operation))
    app.include_router(model_router(client, operation))
    return app

"""The routes of the OpenAI format over a :class:`~agentsys.serving.client.ServingClient`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from agentsys.errors import AgentsysError
from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Capabilities
from agentsys.serving.loading import UnknownEngineError
from agentsys.serving.requests import GenerateRequest, WorkflowCall
from agentsys.serving.server.embeddings import embed
from agentsys.serving.server.errors import InvalidRequestError, error_body, headers_of, of_validation, status_of
from agentsys.serving.server.formats import AnswerFormat, ChatFormat, Json, TextFormat, usage_body, whole_body
from agentsys.serving.server.metrics import HttpMetrics
from agentsys.serving.server.operation import Exchange, Operation
from agentsys.serving.server.places import PlaceHeaders, Places, user_of
from agentsys.serving.server.reading import (
    Reading,
    chat_requests,
    completion_prompts,
    completion_requests,
    echoes_of,
    embed_request,
)
from agentsys.serving.server.schemas import ChatCompletionBody, CompletionBody, EmbeddingBody
from agentsys.serving.server.streaming import EventStream, events_of, stream_from, while_connected
from agentsys.serving.server.tools import Toolbox, ToolChatFormat
from agentsys.serving.server.tracing import caller_context

GivenPlace = Annotated[PlaceHeaders, Header()]
B = TypeVar("B", ChatCompletionBody, CompletionBody, EmbeddingBody)
Wanted = tuple[list[GenerateRequest], AnswerFormat]
"""What the engine is asked, and how its answers are written."""


def openai_router(client: ServingClient, operation: Operation) -> APIRouter:
    """Return the routes below ``/v1``, whose errors have OpenAI's shape, whatever the app around them does."""
    router = APIRouter(route_class=shaped_route(operation.metrics), tags=["openai"])
    server = OpenAIServer(client, operation)
    router.add_api_route("/models", server.models, methods=["GET"])
    router.add_api_route("/models/{model:path}", server.model, methods=["GET"])
    for path, answer in (
        ("/chat/completions", server.chat),
        ("/completions", server.complete),
        ("/embeddings", server.embed),
    ):
        router.add_api_route(path, answer, methods=["POST"], response_model=None)
    return router


class OpenAIServer:
    """The operations. One server belongs to one event loop, as its client does."""

    def __init__(self, client: ServingClient, operation: Operation) -> None:
        self._client = client
        self._operation = operation
        self._places = Places()
        self._created = int(time.time())

    async def models(self) -> Json:
        """List the models; those that are loaded tell their context length and what they can do."""
        return {"object": "list", "data": [await self._entry(name) for name in self._client.models]}

    async def model(self, model: str) -> Json:
        """Describe one model."""
        if model not in self._client.models:
            raise UnknownEngineError(f"no model is configured as {model!r}.")
        return await self._entry(model)

    async def chat(self, body: ChatCompletionBody, request: Request, place: GivenPlace) -> Response:
        """Answer a conversation."""
        body = _salted(body, request)
        body.check_fields()
        toolbox, name = Toolbox.of(body), self._name(body)

        def read(reading: Reading) -> Wanted:
            wanted = chat_requests(body, toolbox, reading)
            if toolbox is None:
                return wanted, ChatFormat(name)
            return wanted, ToolChatFormat(name, toolbox=toolbox, holds=toolbox.holds(wanted[0].constraint))

        return await self._answer(request, body, place, read, calls=body.n, kind="chat")

    async def complete(self, body: CompletionBody, request: Request, place: GivenPlace) -> Response:
        """Continue texts."""
        body = _salted(body, request)
        body.check_fields()
        prompts = completion_prompts(body)

        def read(reading: Reading) -> Wanted:
            return completion_requests(body, prompts, reading), TextFormat(self._name(body), echoes_of(body))

        return await self._answer(request, body, place, read, calls=body.n * len(prompts), kind="text_completion")

    async def embed(self, body: EmbeddingBody, request: Request, place: GivenPlace) -> Response:
        """Return the vectors of texts."""
        body = _salted(body, request)
        body.check_fields()
        wanted = embed_request(body, *self._places.of(place.fill(body), user_of(request)))
        with caller_context(request.headers):
            answer = embed(self._operation, self._client, wanted, self._name(body), body.encoding_format)
            return JSONResponse(await while_connected(request, answer))

    async def _answer(
        self,
        request: Request,
        body: ChatCompletionBody | CompletionBody,
        place: PlaceHeaders,
        read: Callable[[Reading], Wanted],
        *,
        calls: int,
        kind: str,
    ) -> Response:
        urgency, call = self._places.of(place.fill(body), user_of(request))
        exchange = Exchange(self._operation, tenant=call.tenant if call else "", calls=calls)
        try:
            engine = await while_connected(request, exchange.engine(self._client, self._name(body)))
            wanted, form = read(_reading(engine.capabilities(), urgency, call))
            with caller_context(request.headers):
                span = exchange.ask(self._client, wanted, model=self._name(body), kind=kind, choices=body.n)
            with span.current():
                if body.stream:
                    return await self._streamed(request, body, form, exchange)
                await while_connected(request, exchange.finish())
            await exchange.close()
            return JSONResponse(whole_body(form, exchange.answers, exchange.usage))
        except BaseException as error:
            exchange.failed(error)
            await exchange.close()
            raise

    async def _streamed(
        self, request: Request, body: ChatCompletionBody | CompletionBody, form: AnswerFormat, exchange: Exchange
    ) -> Response:
        events = events_of(exchange.chunks, form, exchange.answers)
        # A refused request must have its status, which is sent with the first event.
        first = await while_connected(request, anext(events))
        wants_usage = body.stream_options is not None and body.stream_options.include_usage

        def ending(error: AgentsysError | None) -> Json | None:
            if error is not None:
                exchange.failed(error)
                self._operation.metrics.errors.labels(error.code).inc()
                return error_body(error)
            exchange.answered()
            return form.envelope([], usage_body(exchange.usage), streamed=True) if wants_usage else None

        stream = stream_from(first, events, ending)
        return EventStream(stream, read_seconds=self._operation.limits.read_seconds, close=exchange.close)

    def _name(self, body: ChatCompletionBody | CompletionBody | EmbeddingBody) -> str:
        return body.model or self._client.models[0]

    async def _entry(self, name: str) -> Json:
        entry: Json = {"id": name, "object": "model", "created": self._created, "owned_by": "agentsys"}
        base = self._client.adapter_of(name)
        if base is not None:
            entry["parent"] = base  # as vLLM's server tells it
        if (base or name) not in self._client.stats():
            return entry
        capabilities = (await self._client.engine(name)).capabilities()
        return entry | {
            "max_model_len": capabilities.context_length,
            "constraints": sorted(capabilities.constraints),
            "priority": capabilities.priority,
            "logprobs": capabilities.logprobs,
            "embeddings": capabilities.embeddings and base is None,
        }


def _reading(capabilities: Capabilities, urgency: float, call: WorkflowCall | None) -> Reading:
    return Reading(
        urgency,
        call,
        # Half the context: nobody but the engine knows how long the prompt is.
        default_tokens=max(1, capabilities.context_length // 2),
        constraints=capabilities.constraints,
        logprobs=capabilities.logprobs,
    )


def _salted(body: B, request: Request) -> B:
    """Return ``body`` so that a client that is known by name shares cached prefixes with itself alone."""
    user = user_of(request)
    if user is None:
        return body
    return body.model_copy(update={"cache_salt": f"{user}/{body.cache_salt or ''}"})


def shaped_route(metrics: HttpMetrics) -> type[APIRoute]:
    """Return a class of routes whose errors have OpenAI's shape, and are counted."""

    class ShapedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_in_shape(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError as invalid:
                    error: AgentsysError = of_validation(invalid)
                except AgentsysError as failed:
                    error = failed
                except HTTPException as refused:
                    if refused.status_code != HTTPStatus.BAD_REQUEST:
                        raise
                    # What FastAPI makes of a body that is no text.
                    error = InvalidRequestError(f"body: {refused.detail}.", param="body")
                return refusal(error, metrics)

            return handle_in_shape

    return ShapedRoute


def refusal(error: AgentsysError, metrics: HttpMetrics) -> Response:
    """Return an error in OpenAI's shape, counted."""
    metrics.errors.labels(error.code).inc()
    return JSONResponse(error_body(error), status_code=status_of(error), headers=headers_of(error))

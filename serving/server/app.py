"""The OpenAI-compatible HTTP API over a :class:`~agentsys.serving.client.ServingClient`."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from agentsys.errors import AgentsysError
from agentsys.serving.client import ServingClient, UnknownEngineError
from agentsys.serving.requests import GenerateRequest
from agentsys.serving.server.answers import Answer, chunks_of, total_usage
from agentsys.serving.server.errors import error_body, of_validation, status_of
from agentsys.serving.server.formats import AnswerFormat, ChatFormat, Json, TextFormat, usage_body, whole_body
from agentsys.serving.server.reading import Reading, chat_requests, completion_requests
from agentsys.serving.server.schemas import ChatCompletionBody, CompletionBody, GenerationBody
from agentsys.serving.server.streaming import EventStream, events_of, stream_from, while_connected
from agentsys.serving.server.tools import Toolbox, ToolChatFormat
from agentsys.serving.server.urgency import Urgencies


def openai_router(client: ServingClient) -> APIRouter:
    """Return the routes ``/chat/completions``, ``/completions`` and ``/models``; mount them under ``/v1``.

    Errors are answered in OpenAI's shape, whatever the app around the routes does with its own.
    """
    router = APIRouter(route_class=_OpenAIRoute, tags=["openai"])
    server = OpenAIServer(client)
    router.add_api_route("/models", server.models, methods=["GET"])
    router.add_api_route("/models/{model:path}", server.model, methods=["GET"])
    router.add_api_route("/chat/completions", server.chat, methods=["POST"], response_model=None)
    router.add_api_route("/completions", server.complete, methods=["POST"], response_model=None)
    return router


def serving_app(client: ServingClient) -> FastAPI:
    """Return an app that serves nothing but models, under ``/v1``."""
    app = FastAPI(title="agentsys models", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json")
    app.include_router(openai_router(client), prefix="/v1")
    return app


B = TypeVar("B", bound=GenerationBody)


class OpenAIServer:
    """The four operations. One server belongs to one event loop, as its client does."""

    def __init__(self, client: ServingClient) -> None:
        self._client = client
        self._urgencies = Urgencies()
        self._created = int(time.time())

    async def models(self) -> Json:
        """List the models; those that are loaded tell their context length and what they can do."""
        return {"object": "list", "data": [await self._entry(name) for name in self._client.models]}

    async def model(self, model: str) -> Json:
        """Describe one model."""
        if model not in self._client.models:
            raise UnknownEngineError(f"no model is configured as {model!r}.")
        return await self._entry(model)

    async def chat(self, body: ChatCompletionBody, request: Request) -> Response:
        """Answer a conversation."""
        body = _salted(body, request)
        reading = await self._reading(body)
        toolbox, name = Toolbox.of(body), self._name(body)
        form = ChatFormat(name) if toolbox is None else ToolChatFormat(name, toolbox=toolbox)
        return await self._answer(request, body, chat_requests(body, toolbox, reading), form)

    async def complete(self, body: CompletionBody, request: Request) -> Response:
        """Continue texts."""
        body = _salted(body, request)
        reading = await self._reading(body)
        return await self._answer(request, body, completion_requests(body, reading), TextFormat(self._name(body)))

    async def _answer(
        self, request: Request, body: GenerationBody, wanted: Sequence[GenerateRequest], form: AnswerFormat
    ) -> Response:
        answers = [Answer() for _ in wanted]
        chunks = chunks_of(self._client, wanted, self._name(body))
        if not body.stream:
            await while_connected(request, _add_up(chunks, answers))
            return JSONResponse(whole_body(form, answers, total_usage(answers, body.n)))
        events = events_of(chunks, form, answers)
        # A refused request must have its status, which is sent with the first event.
        first = await while_connected(request, anext(events))
        wants_usage = body.stream_options is not None and body.stream_options.include_usage

        def usage() -> Json | None:
            counted = usage_body(total_usage(answers, body.n))
            return form.envelope([], counted, streamed=True) if wants_usage else None

        return EventStream(stream_from(first, events, usage))

    async def _reading(self, body: GenerationBody) -> Reading:
        body.check_fields()
        engine = await self._client.engine(body.model)
        urgency = self._urgencies.of(deadline=body.deadline, priority=body.priority, workflow=body.workflow)
        capabilities = engine.capabilities()
        # Half the context: nobody but the engine knows how long the prompt is.
        return Reading(urgency, max(1, capabilities.context_length // 2), capabilities.constraints)

    def _name(self, body: GenerationBody) -> str:
        return body.model or self._client.models[0]

    async def _entry(self, name: str) -> Json:
        entry: Json = {"id": name, "object": "model", "created": self._created, "owned_by": "agentsys"}
        if name not in self._client.stats():
            return entry
        capabilities = (await self._client.engine(name)).capabilities()
        return entry | {
            "max_model_len": capabilities.context_length,
            "constraints": sorted(capabilities.constraints),
            "priority": capabilities.priority,
        }


def _salted(body: B, request: Request) -> B:
    """Return ``body`` so that a client that is known by name shares cached prefixes with itself alone."""
    user = request.scope.get("user")
    if user is None:
        return body
    return body.model_copy(update={"cache_salt": f"{user.display_name}/{body.cache_salt or ''}"})


class _OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_in_shape(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as invalid:
                error: AgentsysError = of_validation(invalid)
            except AgentsysError as failed:
                error = failed
            return JSONResponse(error_body(error), status_code=status_of(error))

        return handle_in_shape


async def _add_up(chunks: Any, answers: Sequence[Answer]) -> None:
    async with aclosing(chunks):
        async for index, chunk in chunks:
            answers[index].add(chunk)

"""Embeddings in OpenAI's format. Source: OpenAI's API reference, "Create embeddings"."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np

from agentsys.serving.client import ServingClient
from agentsys.serving.requests import Embedding, EmbedRequest
from agentsys.serving.server.errors import AnswerAbortedError
from agentsys.serving.server.formats import Json
from agentsys.serving.server.operation import Operation
from agentsys.serving.server.tracing import CallSpan


async def embed(
    operation: Operation,
    client: ServingClient,
    request: EmbedRequest,
    model: str,
    encoding: Literal["float", "base64"],
) -> Json:
    """Return the body of an answer; raises ``LimitReachedError``, ``DrainingError`` and what the engine raises."""
    work = asyncio.ensure_future(_within_limits(operation, client, request, model))
    try:
        with operation.lifecycle.request(work.cancel), CallSpan("embeddings", model).measured() as span:
            embedding = await work
            span.used(embedding.prompt_tokens)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise AnswerAbortedError("the server ended before the answer was whole.") from None
    finally:
        work.cancel()
    listed = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(embedding.vectors)
    ]
    usage = {"prompt_tokens": embedding.prompt_tokens, "total_tokens": embedding.prompt_tokens}
    return {"object": "list", "data": listed, "model": model, "usage": usage}


async def _within_limits(operation: Operation, client: ServingClient, request: EmbedRequest, model: str) -> Embedding:
    ticket = operation.admission.admit(request.call.tenant if request.call else "", 1)
    try:
        async with ticket.turn(request.urgency):
            embedding = await client.embed(request, model=model)
        ticket.use(embedding.prompt_tokens)
        return embedding
    finally:
        operation.admission.leave(ticket)


def _encoded(vector: Sequence[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()

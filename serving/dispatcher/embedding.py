"""Embeddings over several replicas: from the least busy one that may see the texts, or from another if it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentsys.errors import ServingError
from agentsys.serving.dispatcher.loops import TICK
from agentsys.serving.dispatcher.replica import Replica, blames_replica, foreign_errors_blamed, refuses_all
from agentsys.serving.dispatcher.watching import Watching
from agentsys.serving.engine_errors import RequestAbortedError
from agentsys.serving.meanwhile import Meanwhile
from agentsys.serving.requests import Embedding, EmbedRequest, WorkflowCall, learners
from agentsys.serving.scheduling.calls import Call, NoReplicaError


async def embed_somewhere(
    request: EmbedRequest,
    call: Call,
    replicas: Iterable[Replica],
    watching: Watching,
    attempts: int,
    meanwhile: Meanwhile,
) -> Embedding:
    """Return the vectors, trying up to ``attempts`` times, or each replica once if there are more of them.

    Where all are down it waits for one to come back, as long as a call does. Raises ``NoReplicaError`` if none may see
    the texts, ``RequestAbortedError`` if that was asked ``meanwhile``, the last error if none answers, and what an
    engine raises about the request itself.
    """
    permitted = [one for one in replicas if one.permits(call)]
    if not permitted:
        raise NoReplicaError(f"none of the replicas may see the texts of {request.request_id!r}.")
    tried: list[str] = []
    while True:
        if meanwhile.aborted:
            raise RequestAbortedError(f"request {request.request_id!r} was aborted.")
        able = [one for one in permitted if one.up]
        if not able:
            hopeless = watching.hopeless(call)
            if hopeless is not None:
                raise hopeless
            await asyncio.sleep(TICK)
            continue
        one = min(able, key=lambda each: (tried.count(each.name), each.in_flight + each.embedding))
        try:
            return await _embed_at(one, request)
        except ServingError as error:
            tried.append(one.name)
            if blames_replica(error):
                watching.blame(one, error)
            elif not refuses_all(error) or len(set(tried)) == len(permitted):
                raise
            if len(tried) >= max(attempts, len(permitted)):
                raise


def embedding_call(request: EmbedRequest, arrived: float) -> Call:
    """Return what says who may see the texts, and since when they wait."""
    place = request.call or WorkflowCall(request.request_id)
    return Call(request.request_id, place, arrived, prompt_tokens=0, most_tokens=0, readers=learners(request))


async def _embed_at(one: Replica, request: EmbedRequest) -> Embedding:
    assert one.engine is not None, "a replica that is up has its engine"
    one.embedding += 1
    try:
        with foreign_errors_blamed(one):
            embedding = await one.engine.embed(request)
    finally:
        one.embedding -= 1
    one.note_answer()
    return embedding

"""Carrying out a model call: whether the model may learn the prompt, and what to record of its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.decisions import DecisionLog
from agentsys.errors import ServingError
from agentsys.events import TokensStreamed
from agentsys.gateway import Deny
from agentsys.memoisation import Turn
from agentsys.models import audience_of
from agentsys.rounds import Failure
from agentsys.scope import RunScope
from agentsys.serving.requests import Chunk, GenerateRequest, Usage
from agentsys.tools import to_json


async def answer_of_model(
    scope: RunScope,
    agent: str,
    decisions: DecisionLog,
    step: str,
    request: GenerateRequest,
    model: str | None,
    turn: Turn,
) -> Json:
    """Return what to record of a model call: its answer, its denial, or its failure.

    An answer on record is taken over, at no cost, if the model might be asked for it.
    """
    decision = scope.gateway.decide_disclosure("the prompt", request.label, audience_of(scope.model))
    if isinstance(decision, Deny):
        decisions.note("ask the model", decision, request.label)
        return {"denied": decision.rule, "reason": decision.reason}
    if turn.found is not None:
        answer: Any = turn.found.answer
        return {**answer, "usage": to_json(asdict(Usage())), "seconds": 0.0, "memo": turn.key}
    try:
        generation = await scope.model.generate(
            request, model=model, on_chunk=_stream(scope, agent, step, request.label)
        )
    except ServingError as error:
        # Recorded like an answer: what the actor does about it must happen again when it is repeated.
        return {"failure": Failure.of(error).to_json()}
    return {
        "text": generation.text,
        "model": generation.model,
        "finish": str(generation.finish_reason),
        "usage": to_json(asdict(generation.usage)),
        "seconds": generation.timings.total,
    }


def _stream(scope: RunScope, agent: str, step: str, label: Label) -> Callable[[Chunk], None]:
    def emit(chunk: Chunk) -> None:
        scope.emit(TokensStreamed(scope.run, agent, step, chunk.text, len(chunk.token_ids), label=label))

    return emit

"""Carrying out a model call: whether the model may learn the prompt, and what to record of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.decisions import DecisionLog
from agentsys.events import TokensStreamed
from agentsys.gateway import Deny
from agentsys.memoisation import Turn
from agentsys.models import audience_of
from agentsys.questions import about_disclosure
from agentsys.rounds import Failure
from agentsys.scope import RunScope
from agentsys.secrets import Secrets
from agentsys.serving.requests import Chunk, GenerateRequest, Message, Usage
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
    allowed = scope.gateway.policy.learners(request.label)
    audience = audience_of(scope.model, allowed, model)
    decision = scope.gateway.decide_disclosure("the prompt", request.label, audience)
    if isinstance(decision, Deny):
        question = about_disclosure("the prompt", request.label, audience)
        decisions.note("ask the model", decision, request.label, question)
        return {"denied": decision.rule, "reason": decision.reason}
    if turn.found is not None:
        answer: Any = turn.found.answer
        return {**answer, "usage": to_json(asdict(Usage())), "seconds": 0.0, "memo": turn.key}
    # A model is shown no secret, wherever the prompt may have it from.
    request = replace(request, prompt=_redacted(scope.secrets, request.prompt), audience=allowed)
    tokens = _Tokens(scope, agent, step, request.label)
    try:
        generation = await scope.model.generate(request, model=model, on_chunk=tokens.feed)
    except Exception as error:
        # Recorded like an answer: what the actor does about it must happen again when it is repeated.
        return {"failure": Failure.of(error, scope.secrets.text).to_json()}
    tokens.end()
    return {
        "text": scope.secrets.text(generation.text),
        "model": generation.model,
        "finish": str(generation.finish_reason),
        "usage": to_json(asdict(generation.usage)),
        "seconds": generation.timings.total,
    }


class _Tokens:
    """Tells the listener of a model's tokens as they come, without the value of any secret."""

    def __init__(self, scope: RunScope, agent: str, step: str, label: Label) -> None:
        self._scope, self._agent, self._step, self._label = scope, agent, step, label
        self._stream = scope.secrets.stream()

    def feed(self, chunk: Chunk) -> None:
        # A server that tells no ids sends about one token a piece.
        self._emit(self._stream.feed(chunk.text), len(chunk.token_ids) or (1 if chunk.text else 0))

    def end(self) -> None:
        held = self._stream.end()
        if held:
            self._emit(held, 0)

    def _emit(self, text: str, tokens: int) -> None:
        run = self._scope.run
        self._scope.emit(TokensStreamed(run, self._agent, self._step, text, tokens, label=self._label))


def _redacted(secrets: Secrets, prompt: Sequence[Any]) -> Any:
    if isinstance(prompt, str):
        return secrets.text(prompt)
    # Token ids are no text; nothing here makes prompts of them.
    return [replace(part, content=secrets.text(part.content)) if isinstance(part, Message) else part for part in prompt]

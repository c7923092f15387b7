"""The models behind agents: the serving layer, any LangChain chat model, or a scripted one in tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from agentsys.blackboard.labels import NOBODY, PUBLIC, Readers
from agentsys.errors import ConfigurationError, ServingError
from agentsys.rounds import Failure
from agentsys.serving.requests import (
    Chunk,
    Constraint,
    FinishReason,
    GenerateRequest,
    Generation,
    Message,
    SamplingParams,
    Timings,
    Usage,
)

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import BaseMessage

SAMPLING_FIELDS: Final = ("max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
"""What LangChain's models and ours call alike of how they sample."""

OnChunk = Callable[[Chunk], None]


class ConstraintUnmet(ServingError):
    """A model that cannot be constrained kept answering outside the grammar."""

    code = "AGS-0430"
    remedy = "Use the embedded model or a server with constrained decoding, or loosen the schema."


class ModelFailed(ServingError):
    """A model call failed; ``failure`` keeps the code and message of the error underneath."""

    code = "AGS-0431"
    remedy = "The message begins with the code of the error underneath."

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.type} ({failure.code}): {failure.message}")
        self.failure = failure


class InvalidAnswer(ServingError):
    """A model's answer does not fit the schema that was asked for."""

    code = "AGS-0432"
    remedy = "Raise `max_tokens` if the answer was cut off; otherwise use a model with constrained decoding."


class Model(Protocol):
    """What a context needs of a model; :class:`agentsys.serving.client.ServingClient` is one."""

    async def generate(
        self, request: GenerateRequest, *, model: str | None = None, on_chunk: OnChunk | None = None
    ) -> Generation:
        """Answer ``request``; ``model`` names one of several. Raises :class:`ServingError` subclasses."""
        ...


def as_model(model: Any) -> Model:
    """Return ``model`` as a :class:`Model`. Raises :class:`ConfigurationError` for anything else."""
    chat_models = sys.modules.get("langchain_core.language_models")
    if chat_models is not None and isinstance(model, chat_models.BaseChatModel):
        raise ConfigurationError(
            f"{type(model).__name__} is a LangChain model, and nothing says who learns the prompts sent to it.",
            remedy="Wrap it: LangChainModel(model, audience=Readers.of(...)); NOBODY if it runs on this machine.",
        )
    if not callable(getattr(model, "generate", None)):
        raise ConfigurationError(
            f"{model!r} is not a model: it has no generate method.",
            remedy="Pass a ServingClient, a LangChainModel or a ScriptedModel.",
        )
    answering: Model = model
    return answering


def audience_of(model: Model, allowed: Readers = PUBLIC, name: str | None = None) -> Readers:
    """Return who learns the prompts beside this process; a model that does not say runs inside it.

    A model of several replicas sends a prompt to those alone whose audience is ``allowed`` to learn it.
    What is no :class:`Readers` is taken at its worst: everyone.
    """
    tell = getattr(model, "audience_for", None)
    audience = tell(allowed, name) if callable(tell) else getattr(model, "audience", NOBODY)
    return audience if isinstance(audience, Readers) else PUBLIC


def model_calls_ended(model: Model, run: str) -> None:
    """Tell a model that schedules by workflow that ``run`` asks it nothing more."""
    ended = getattr(model, "workflow_ended", None)
    if callable(ended):
        ended(run)


def identity_of(model: Model, name: str | None) -> str:
    """Return which model a call of ``name`` asks, as far as it says: two that differ must differ in this."""
    tell = getattr(model, "identity", None)
    return str(tell(name)) if callable(tell) else f"{type(model).__qualname__} {name or ''}"


class LangChainModel:
    """Any LangChain chat model. Constraints are checked on the finished answer, with a bounded number of retries.

    ``audience`` is who learns the prompts: the provider's principal, or ``NOBODY`` for a model on this machine.
    What a request wants of sampling takes the place of the model's own, where it is not the default and the model has
    a field of that name. So no request can ask for temperature 0, which is the default: make a model that is to answer
    greedily, as one must whose answers are kept in memory, with ``temperature=0``.
    """

    def __init__(self, model: BaseChatModel, *, audience: Readers, attempts: int = 3) -> None:
        self.audience = audience
        self._model = model
        self._attempts = attempts

    async def generate(
        self, request: GenerateRequest, *, model: str | None = None, on_chunk: OnChunk | None = None
    ) -> Generation:
        """Answer ``request``. Raises :class:`ConstraintUnmet` after the last attempt."""
        messages = _messages(request.prompt)
        for _ in range(self._attempts):
            generation = await self._answer(messages, request, on_chunk)
            if request.constraint is None or satisfies(request.constraint, generation.text):
                return generation
            correction = f"That does not match this {request.constraint.kind}: {request.constraint.source}"
            messages = [*messages, Message("assistant", generation.text), Message("user", correction)]
        raise ConstraintUnmet(f"{self._name} did not match the {request.constraint} in {self._attempts} attempts.")

    def identity(self, name: str | None) -> str:
        """Return the provider's class and the model's name; ``name`` chooses nothing here."""
        return f"{type(self._model).__qualname__} {self._name}"

    @property
    def _name(self) -> str:
        return str(getattr(self._model, "model_name", type(self._model).__name__))

    async def _answer(
        self, messages: Sequence[Message], request: GenerateRequest, on_chunk: OnChunk | None
    ) -> Generation:
        started, first, text, usage, reason = time.monotonic(), 0.0, "", Usage(), FinishReason.STOP
        stop, model = list(request.sampling.stop) or None, _sampling_as(request.sampling, self._model)
        async for piece in model.astream([_to_langchain(message) for message in messages], stop=stop):
            first = first or time.monotonic() - started
            if piece.response_metadata.get("finish_reason") == "length":
                reason = FinishReason.LENGTH
            text += str(piece.text)
            counts = getattr(piece, "usage_metadata", None)
            if counts:
                usage = Usage(counts["input_tokens"], completion_tokens=counts["output_tokens"])
            if on_chunk:
                on_chunk(Chunk(str(piece.text)))
        timings = Timings(first_token=first, total=time.monotonic() - started)
        return Generation(text, (), reason, usage, timings, self._name)


def _sampling_as(wanted: SamplingParams, model: BaseChatModel) -> BaseChatModel:
    """Return ``model`` with what is wanted, as far as it knows it.

    Defaults leave the model as its owner made it: some models refuse a temperature of 0.
    """
    default, has = SamplingParams(), type(model).model_fields
    named = {has[name].alias or name: name for name in has}
    changed = {
        named.get(name, name): getattr(wanted, name)
        for name in SAMPLING_FIELDS
        if (name in has or name in named) and getattr(wanted, name) != getattr(default, name)
    }
    return model.model_copy(update=changed) if changed else model


def satisfies(constraint: Constraint, text: str) -> bool:
    """Whether ``text`` is a sentence of the grammar. Raises ``ValueError`` for a grammar that is itself wrong."""
    from llguidance import LLMatcher, LLTokenizer

    match constraint.kind:
        case "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(constraint.source)
        case "regex":
            grammar = LLMatcher.grammar_from_regex(constraint.source)
        case "lark":
            grammar = LLMatcher.grammar_from_lark(constraint.source)
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(f"The {constraint.kind} grammar is wrong: {matcher.get_error()}")
    return bool(matcher.consume_tokens(list(text.encode())) and matcher.is_accepting())


def _messages(prompt: Sequence[Message] | str | Sequence[int]) -> list[Message]:
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    messages = [message for message in prompt if isinstance(message, Message)]
    if len(messages) != len(prompt):
        raise ConfigurationError(
            "A LangChain model takes messages or text, not token ids.", remedy="Use the embedded model for token ids."
        )
    return messages


def _to_langchain(message: Message) -> BaseMessage:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    match message.role:
        case "system":
            return SystemMessage(message.content)
        case "assistant":
            return AIMessage(message.content)
        case _:
            return HumanMessage(message.content)

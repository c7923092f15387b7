"""The protocol every engine fulfils."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from agentsys.serving.engine_errors import UnknownAdapterError
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, GenerateRequest, Usage
from agentsys.serving.scheduling.step_time import Iteration


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; callers check here instead of guessing from its type.

    ``adapters`` names the LoRA adapters that it has loaded.
    """

    model: str
    context_length: int
    constraints: frozenset[str] = frozenset()
    priority: bool = False
    preemption: bool = False
    rekey: bool = False
    speculation: bool = False
    batch_invariant: bool = False
    logprobs: bool = False
    embeddings: bool = False
    adapters: frozenset[str] = frozenset()


def check_adapter(adapter: str | None, adapters: Set[str], model: str) -> None:
    """Raise :class:`UnknownAdapterError` unless ``adapter`` is none, or one of the ``adapters`` of ``model``."""
    if adapter is not None and adapter not in adapters:
        has = f"it has {', '.join(sorted(adapters))}" if adapters else "it has none"
        raise UnknownAdapterError(f"{model} has no adapter {adapter!r}; {has}.")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an engine's load and of its work since start. ``slots`` (0: unknown) bounds ``running``."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_used_blocks: int = 0
    kv_total_blocks: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request in an engine's queue; ``urgency`` is κ as the queue takes it, ``usage`` what it has used so far.

    It waits for its first step, its prompt is computed (``prefill``) or its answer (``decode``), or it was ``paused``
    for more urgent ones.
    """

    request_id: str
    urgency: float
    phase: Literal["waiting", "prefill", "decode", "paused"]
    usage: Usage

    @property
    def generated_tokens(self) -> int:
        return self.usage.completion_tokens


@runtime_checkable
class Engine(Protocol):
    """Serves one model. Engines are safe to call from any event loop; one engine belongs to one process."""

    def capabilities(self) -> Capabilities:
        """Return what the engine can do; constant over its life."""
        ...

    def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream the answer. Closing the iterator aborts the request. Raises :class:`ServingError` subclasses."""
        ...

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return a vector for each prompt. Raises :class:`ServingError` subclasses, ``UnsupportedFeatureError`` among
        them if the engine has no ``embeddings``; cancelling the call stops the work."""
        ...

    def abort(self, request_id: str) -> None:
        """Stop a request; its stream ends with ``FinishReason.ABORTED``. Unknown ids are ignored."""
        ...

    def rekey(self, request_id: str, urgency: float) -> None:
        """Change κ of a request that waits or runs. Unknown ids are ignored."""
        ...

    def stats(self) -> EngineStats:
        """Return the current load."""
        ...

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        """Return the requests that wait or run, in order of service; ``None`` if the engine does not know."""
        ...

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        """Return the number of the engine's last step, counted from 1, and its newest steps later than ``after``.

        ``(0, ())`` if the engine does not tell.
        """
        ...

    async def close(self) -> None:
        """Stop the engine and free its memory. Further calls raise."""
        ...


async def close_all(engines: Iterable[Engine]) -> None:
    """Close every engine, whichever of them fails in that; raises what the first that fails does."""
    outcomes = await asyncio.gather(*(engine.close() for engine in engines), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome

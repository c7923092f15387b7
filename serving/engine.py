"""The protocol every engine fulfils."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentsys.serving.requests import Chunk, GenerateRequest


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; callers check here instead of guessing from its type."""

    model: str
    context_length: int
    constraints: frozenset[str] = frozenset()
    priority: bool = False
    preemption: bool = False
    rekey: bool = False
    speculation: bool = False
    batch_invariant: bool = False


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot of an engine's load and of its work since start."""

    running: int = 0
    waiting: int = 0
    kv_used_blocks: int = 0
    kv_total_blocks: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


@runtime_checkable
class Engine(Protocol):
    """Serves one model. Engines are safe to call from any event loop; one engine belongs to one process."""

    def capabilities(self) -> Capabilities:
        """Return what the engine can do; constant over its life."""
        ...

    def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream the answer. Closing the iterator aborts the request. Raises :class:`ServingError` subclasses."""
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

    async def close(self) -> None:
        """Stop the engine and free its memory. Further calls raise."""
        ...

"""A scripted model for tests of agents and workflows. It is not a language model."""

from __future__ import annotations

from collections.abc import Callable

from agentsys.models import OnChunk
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, Generation, Timings, Usage


def prompt_text(request: GenerateRequest) -> str:
    """Return everything the model sees as one text, one message a line."""
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(str(getattr(part, "content", part)) for part in request.prompt)


class ScriptedModel:
    """Answers by a function from the whole prompt text to the answer, and keeps what it was asked in ``requests``."""

    def __init__(self, script: Callable[[str], str]) -> None:
        self._script = script
        self.requests: list[GenerateRequest] = []

    async def generate(
        self, request: GenerateRequest, *, model: str | None = None, on_chunk: OnChunk | None = None
    ) -> Generation:
        """Return the scripted answer, streamed as one chunk."""
        self.requests.append(request)
        text = self._script(prompt_text(request))
        usage = Usage(prompt_tokens=len(prompt_text(request).split()), completion_tokens=len(text.split()))
        if on_chunk:
            on_chunk(Chunk(text, finish_reason=FinishReason.STOP, usage=usage))
        return Generation(text, (), FinishReason.STOP, usage, Timings(), model or "scripted")

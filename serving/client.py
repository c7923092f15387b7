"""The serving layer's front: named engines, created when first needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from agentsys.blackboard.labels import NOBODY, Readers
from agentsys.errors import ServingError
from agentsys.serving.adapted import AdaptedModel, AdaptedModels
from agentsys.serving.audiences import joint_audience
from agentsys.serving.device_memory import GPU, HOST, DeviceBudgets
from agentsys.serving.dispatcher.errors import ReplicasDownError
from agentsys.serving.engine import Capabilities, Engine, EngineStats
from agentsys.serving.engine_errors import (
    EngineClosedError,
    EngineFailedError,
    RequestAbortedError,
    UnsupportedFeatureError,
)
from agentsys.serving.loading import EngineFactory, LoadedModels, ModelBusyError
from agentsys.serving.meanwhile import OnTheWay
from agentsys.serving.observation import EngineView, ModelRecord
from agentsys.serving.requests import (
    Chunk,
    Embedding,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    Generation,
    Timings,
    TokenLogprobs,
    Usage,
)
from agentsys.serving.residence import Residence, Resident
from agentsys.serving.scheduling.workflows import WorkflowTable

_FAILED_SECONDS = 10.0


class ServingClient:
    """Routes each call to a named engine. Calls may come from any event loop; unload models and close it on one."""

    def __init__(
        self,
        engines: Mapping[str, Engine | EngineFactory | AdaptedModel],
        default: str,
        *,
        audience: Readers | None = None,
        workflows: WorkflowTable | None = None,
        memory_bytes: int | None = None,
        gpu_memory_bytes: int | None = None,
    ) -> None:
        """``engines`` maps names to engines, to functions that load one, or to another name with an adapter for it;
        ``default`` names one of them.

        ``audience`` is who learns the prompts beside this machine; by default what the engines and functions state
        in an attribute of that name (``OpenAIEngine`` and ``engine_factory`` do), all together.
        ``workflows`` is what its dispatchers know of workflows. Beyond ``memory_bytes`` of this machine and
        ``gpu_memory_bytes`` (by default most of what is free) idle models are unloaded, and loaded again shortly before
        a call of theirs is expected. Raises ``UnknownEngineError`` if ``default`` or an adapter's base names none.
        """
        self.workflows = workflows
        self.audience = (
            joint_audience(getattr(one, "audience", NOBODY) for one in engines.values())
            if audience is None
            else audience
        )
        self._adapted = AdaptedModels(engines)
        self._sources = {name: one for name, one in engines.items() if not isinstance(one, AdaptedModel)}
        budgets = DeviceBudgets({HOST: memory_bytes, GPU: gpu_memory_bytes})
        self._models = LoadedModels(self._sources, Residence(budgets), self._adapted.names)
        self._records = {name: ModelRecord() for name in self._sources}
        self._waiting = OnTheWay()  # for their engines to be loaded
        self._names: dict[str, str] = {}
        self._default = default
        for name in (default, *self._adapted.names):
            self._models.source(self._adapted.base(name))

    @property
    def models(self) -> tuple[str, ...]:
        """Names that calls may use; the default comes first."""
        return (self._default, *sorted({*self._sources, *self._adapted.names} - {self._default}))

    def adapter_of(self, model: str) -> str | None:
        """Return the name of the model that ``model`` is an adapter of; ``None`` if it is a model of its own."""
        return self._adapted.base(model) if model in self._adapted.names else None

    @property
    def failed(self) -> frozenset[str]:
        """Names whose engine could not be loaded the last time, or has failed since, for ten seconds: only another call
        can tell whether it still does."""
        since = time.monotonic() - _FAILED_SECONDS
        return frozenset(name for name, at in self._models.failed.items() if at > since)

    def audience_for(self, allowed: Readers, model: str | None = None) -> Readers:
        """Return who learns a prompt that only ``allowed`` may: behind all engines, or behind those it may go to."""
        tell = getattr(self._sources.get(self._base(model)), "audience_for", None)
        return tell(allowed) if callable(tell) else self.audience

    def identity(self, model: str | None = None) -> str:
        """Return the name of an engine with what its source says of the weights: answers of two may differ."""
        name = model or self._default
        told = f"{name} {getattr(self._sources.get(self._base(name)), 'identity', '')}"
        return f"{told} {self._adapted.identity(name)}" if name in self._adapted.names else told

    async def engine(self, model: str | None = None) -> Engine:
        """Return an engine, of an adapter that of its base, loading it in a thread on first use; a failed load is tried
        again by the next call."""
        return await self._models.engine(self._base(model))

    async def unload(self, model: str) -> bool:
        """Free an idle model's memory until its next call; returns whether it was loaded.

        Raises ``UnknownEngineError``, and ``ModelBusyError`` while it answers.
        """
        base = self.adapter_of(model)
        if base is not None:
            raise ModelBusyError(f"{model!r} is an adapter in the memory of {base!r}.", remedy=f"Unload {base}.")
        return await self._models.unload(model)

    def residents(self) -> list[Resident]:
        """Return how every model stands to this machine's memory, the default first."""
        every = [(name, self._models.resident(self._base(name))) for name in self.models]
        return [self._adapted.resident(name, base) for name, base in every]

    async def generate(
        self,
        request: GenerateRequest,
        *,
        model: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Generation:
        """Return the whole answer, showing each chunk to ``on_chunk`` as it comes.

        Raises ``UnknownEngineError``, ``RequestAbortedError`` where it was aborted before its end, and whatever
        :class:`ServingError` the engine raises.
        """
        text: list[str] = []
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        last = Chunk("")
        async with aclosing(self.stream(request, model=model)) as chunks:
            async for chunk in chunks:
                text.append(chunk.text)
                tokens.extend(chunk.token_ids)
                logprobs.extend(chunk.logprobs)
                last = chunk
                if on_chunk is not None:
                    on_chunk(chunk)
        if last.finish_reason in (None, FinishReason.ABORTED):
            raise RequestAbortedError(f"request {request.request_id!r} was aborted before its answer was whole.")
        return Generation(
            text="".join(text),
            token_ids=tuple(tokens),
            finish_reason=last.finish_reason,
            usage=last.usage or Usage(completion_tokens=len(tokens)),
            timings=last.timings or Timings(),
            model=self._names.get(model or self._default, ""),
            logprobs=tuple(logprobs),
        )

    async def embed(self, request: EmbedRequest, *, model: str | None = None) -> Embedding:
        """Return a vector for each prompt; raises ``UnsupportedFeatureError`` where the engine has none to give."""
        name = model or self._default
        if name in self._adapted.names:
            raise UnsupportedFeatureError(f"{name!r} is an adapter, and adapters give no embeddings.")
        with self._models.in_use(name):
            return await (await self._engine_for(request.request_id, name)).embed(request)

    async def stream(self, request: GenerateRequest, *, model: str | None = None) -> AsyncGenerator[Chunk]:
        """Stream the answer; closing the iterator aborts the request."""
        asked, name = model or self._default, self._base(model)
        request = self._adapted.under(request, asked)
        with self._models.in_use(name):
            engine = await self._engine_for(request.request_id, name)
            known = engine.capabilities().model
            self._names[asked] = known if request.adapter is None else f"{known}+{request.adapter}"
            async with aclosing(self._observed(name, engine, request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _engine_for(self, request_id: str, name: str) -> Engine:
        with self._waiting.coming(request_id) as meanwhile:
            engine = await self.engine(name)
        # In the next turn of the loop: the engine knows the request once the caller, which goes on now, awaits.
        if meanwhile.urgency is not None:
            asyncio.get_running_loop().call_soon(self.rekey, request_id, meanwhile.urgency)
        if meanwhile.aborted:
            asyncio.get_running_loop().call_soon(self.abort, request_id)
        return engine

    async def _observed(self, name: str, engine: Engine, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        observed = self._records[name].begin(request)
        stream, failed = engine.submit(request), False
        try:
            async for chunk in stream:
                observed.note(chunk)
                yield chunk
            self._models.failed.pop(name, None)
        except ServingError as error:
            failed = True
            if isinstance(error, EngineClosedError | EngineFailedError | ReplicasDownError):
                self._models.note_failed(name)
            raise
        finally:
            observed.end(failed=failed)
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def capabilities(self, model: str | None = None) -> Capabilities:
        """Return what an engine can do, its context length among it; loads the engine, blocking, if need be."""
        return self._models.load(self._base(model)).capabilities()

    def abort(self, request_id: str) -> None:
        """Stop a request wherever it runs, or waits for its model to be loaded."""
        self._waiting.abort(request_id)
        for engine in self._models.snapshot().values():
            engine.abort(request_id)

    def rekey(self, request_id: str, urgency: float) -> None:
        """Change κ of a request wherever it waits or runs."""
        self._waiting.rekey(request_id, urgency)
        for name, engine in self._models.snapshot().items():
            engine.rekey(request_id, urgency)
            self._records[name].rekey(request_id, urgency)

    def workflow_ended(self, workflow: str) -> None:
        """Note that a workflow makes no more calls."""
        for engine in self._models.snapshot().values():
            ended = getattr(engine, "workflow_ended", None)
            if callable(ended):
                ended(workflow)

    def stats(self) -> dict[str, EngineStats]:
        """Return the load of every engine that is loaded, by name."""
        return {name: engine.stats() for name, engine in self._models.snapshot().items()}

    def observe(self) -> dict[str, EngineView]:
        """Return what is known of every loaded engine's requests, by name."""
        return {
            name: self._records[name].view(engine.stats(), engine.queue())
            for name, engine in self._models.snapshot().items()
        }

    async def close(self) -> None:
        """Close every engine, also those still loading."""
        await self._models.close()

    def _base(self, model: str | None) -> str:
        """Return the name of the model whose engine answers the calls of ``model``."""
        return self._adapted.base(model or self._default)

"""vLLM in this process, with our scheduler in it, under the engine protocol.

vLLM belongs to one event loop, so it gets one of its own in a thread; streams can be read from any other loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentsys.errors import ServingError
from agentsys.serving.constraints import CONSTRAINT_KINDS, ConstraintCompiler, ConstraintError
from agentsys.serving.engine import Capabilities, EngineStats, QueuedRequest, check_adapter
from agentsys.serving.engine_errors import (
    DuplicateRequestError,
    EngineClosedError,
    EngineFailedError,
    RequestFailedError,
    RequestTooLongError,
    UnsupportedFeatureError,
    anew,
)
from agentsys.serving.outbox import Outbox
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, GenerateRequest
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.text_stream import TextStream
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.block_pool import domain_digest
from agentsys.serving.vllm_engine import versions
from agentsys.serving.vllm_engine.adapters import Adapter, AdapterError, checked_adapters, lora_requests
from agentsys.serving.vllm_engine.answer import VllmAnswer
from agentsys.serving.vllm_engine.link import SchedulerLink
from agentsys.serving.vllm_engine.loading import VllmOptions, start
from agentsys.serving.vllm_engine.parameters import (
    MILLISECONDS,
    end_token_ids,
    latest_priority,
    priority,
    sampling_params,
)

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")


class VllmEngine:
    """Serves one model with vLLM; see :mod:`agentsys.serving.engine` for the protocol.

    Prompts are encoded and answers decoded by our own tokenizer, so that texts, stop strings and guarded special
    tokens are those of the torch engine. With ``scheduling`` other than "urgency" vLLM's own scheduler runs: it
    preempts only when memory runs out, cannot change κ later, and tells nothing of its queue and steps.
    """

    def __init__(self, model_dir: Path, options: VllmOptions | None = None) -> None:
        """Start vLLM with a model folder; blocks for about half a minute.

        Raises the errors of ``loading.start``, and ``AdapterError``.
        """
        self._process = os.getpid()
        options = options or VllmOptions()
        adapters = checked_adapters(options.adapters, model_dir)
        self._tokenizer = ModelTokenizer(model_dir)
        self._answers: dict[str, VllmAnswer] = {}
        self._totals = EngineStats()
        self._counting = threading.Lock()
        self._ended: ServingError | None = None
        self._loop = asyncio.new_event_loop()
        self._outbox = Outbox(self._loop.call_soon)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"vllm-{model_dir.name}", daemon=True)
        self._thread.start()
        try:
            self._llm: AsyncLLM = self._on_loop(_started(model_dir, options, adapters))
        except BaseException:
            self._stop_loop()
            raise
        config = self._llm.model_config
        self._loras = lora_requests(adapters)
        self._slots = options.max_batch
        self._link = SchedulerLink(self._llm.engine_core, self._answers) if options.urgent else None
        self._eos_token_ids = end_token_ids(config)
        vocab_size = config.get_vocab_size()
        self._tokenizer.limit_to(vocab_size)
        self._compiler = ConstraintCompiler(self._tokenizer, vocab_size, sorted(self._eos_token_ids))
        self._capabilities = Capabilities(
            model=model_dir.name,
            context_length=int(config.max_model_len),
            constraints=CONSTRAINT_KINDS,
            priority=options.scheduling != "fcfs",
            preemption=options.urgent,
            rekey=options.urgent,
            logprobs=True,
            adapters=frozenset(self._loras),
        )

    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream the answer; closing the iterator aborts the request.

        Raises ``PromptError``, ``UnknownTokenError``, ``ConstraintError``, ``RequestTooLongError``,
        ``UnsupportedFeatureError``, ``RequestFailedError``, ``DuplicateRequestError``, ``EngineClosedError`` or
        ``EngineFailedError``.
        """
        self._check_usable()
        check_adapter(request.adapter, self._capabilities.adapters, self._capabilities.model)
        if request.request_id in self._answers:
            raise DuplicateRequestError(f"request {request.request_id!r} is still being answered.")
        mailbox: asyncio.Queue[Chunk | ServingError] = asyncio.Queue()
        answer = VllmAnswer(self._outbox.to(mailbox, asyncio.get_running_loop()), latest_priority())
        answer.priority = priority(request.urgency, answer.latest)
        self._answers[request.request_id] = answer
        try:
            self._check_usable()  # again, since an engine that was closed meanwhile has not seen this answer
            tokens, params = await asyncio.to_thread(self._prepare, request, answer)
            self._schedule(lambda: self._start(request, answer, tokens, params))
            while True:
                item = await mailbox.get()
                if isinstance(item, ServingError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            # Readers of several loops end at once, and a counter that goes back tells of a restart.
            with self._counting:
                self._answers.pop(request.request_id, None)
                self._totals = _add_usage(self._totals, [answer])
            self._schedule(lambda: self._cancel(answer))

    def abort(self, request_id: str) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            self._schedule(lambda: self._cancel(answer))

    def rekey(self, request_id: str, urgency: float) -> None:
        """Change κ of a request; vLLM's own scheduler takes it once, at submission, so there nothing happens."""
        if self._link is not None:
            self._schedule(lambda: self._rekey(request_id, urgency))

    def stats(self) -> EngineStats:
        """Return load and totals, requests in progress included."""
        with self._counting:
            answers = list(self._answers.values())
            totals = _add_usage(self._totals, answers)
        running = sum(answer.first_token_at is not None for answer in answers)
        return replace(
            totals,
            running=running,
            waiting=len(answers) - running,
            slots=self._slots,
            kv_used_blocks=0 if self._link is None else self._link.used_blocks,
            kv_total_blocks=int(self._llm.vllm_config.cache_config.num_gpu_blocks or 0),
            steps=0 if self._link is None else self._link.steps,
        )

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        """Return the requests by κ, their phases up to a fifth of a second old; ``None`` of vLLM's own scheduler."""
        if self._link is None:
            return None
        phases = self._link.phases
        order = sorted(self._answers.copy().items(), key=lambda item: (item[1].priority, item[1].submitted_at))
        return tuple(
            QueuedRequest(name, answer.priority / MILLISECONDS, phases.get(name, "waiting"), answer.usage())
            for name, answer in order
        )

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        return (0, ()) if self._link is None else self._link.iterations.since(after)

    async def limit_running(self, most: int) -> None:
        """Let at most ``most`` requests run at once, 0: as many as there are slots; others give way at once.

        Raises :class:`UnsupportedFeatureError` with vLLM's own scheduler.
        """
        self._check_usable()
        if self._link is None:
            raise UnsupportedFeatureError("vLLM's own scheduler cannot change how many requests run.")
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._link.limit_running(most), self._loop))

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Refuse: a vLLM engine either generates or embeds. Raises :class:`UnsupportedFeatureError`."""
        raise UnsupportedFeatureError(f"{self._capabilities.model} runs in vLLM to generate, and gives no embeddings.")

    async def close(self) -> None:
        """Stop vLLM and its processes; answers in progress end with ``EngineClosedError``."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """As :meth:`close`, for callers without an event loop."""
        if os.getpid() != self._process or isinstance(self._ended, EngineClosedError):
            return
        self._ended = EngineClosedError(f"the engine of {self._capabilities.model} is closed.")
        self._on_loop(self._shut_down(self._ended))
        self._stop_loop()

    def _prepare(self, request: GenerateRequest, answer: VllmAnswer) -> tuple[list[int], SamplingParams]:
        tokens = self._tokenizer.encode(request.prompt)
        self._tokenizer.check_known(request.sampling.logit_bias, "logit_bias")
        longest = self._capabilities.context_length
        if len(tokens) >= longest:
            raise RequestTooLongError(f"the prompt has {len(tokens)} tokens; the context takes at most {longest - 1}.")
        if request.constraint is not None:
            self._compiler.compile(request.constraint)  # for an error that names the fault; vLLM compiles its own
        answer.text = TextStream(self._tokenizer, request.sampling.stop)
        answer.prompt_tokens = len(tokens)
        if request.sampling.logprobs is not None:
            answer.token_bytes, answer.top = self._compiler.token_bytes, request.sampling.logprobs
        answer.eos_token_ids = frozenset() if request.sampling.ignore_eos else self._eos_token_ids
        try:
            return tokens, sampling_params(request, longest - len(tokens), answer.eos_token_ids)
        except Exception as error:  # some of its bounds are narrower than ours
            raise _failure(error, begun=False) from error

    def _start(self, request: GenerateRequest, answer: VllmAnswer, tokens: list[int], params: SamplingParams) -> None:
        if self._ended is not None:
            answer.fail(self._ended)
        elif not answer.ended:
            answer.task = self._loop.create_task(self._generate(request, answer, tokens, params))
            if self._link is not None:
                self._link.watch()

    def _rekey(self, request_id: str, urgency: float) -> None:
        answer = self._answers.get(request_id)
        if answer is not None and not answer.ended and self._link is not None:
            answer.priority = priority(urgency, answer.latest)
            if answer.task is not None:  # else its prompt is still being read, and it goes to vLLM with the new key
                self._link.rekey(request_id, answer.priority)

    async def _generate(
        self, request: GenerateRequest, answer: VllmAnswer, tokens: list[int], params: SamplingParams
    ) -> None:
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = tokens_input(tokens, cache_salt=domain_digest(request.label.readers).hex())
        # vLLM keeps the cached prefixes of adapters apart, from each other's and from those of the model alone.
        lora = None if request.adapter is None else self._loras[request.adapter]
        try:
            async with aclosing(
                self._llm.generate(prompt, params, request.request_id, lora_request=lora, priority=answer.priority)
            ) as outputs:
                async for output in outputs:
                    answer.take(output)
                    if answer.ended:
                        return
            answer.fail(_given_up(request))
        except asyncio.CancelledError:
            raise
        # Whatever was raised, the reader must not wait for ever; a panic of Rust is no Exception.
        except BaseException as error:
            if isinstance(error, EngineDeadError) or self._llm.errored:
                self._ended = EngineFailedError(f"vLLM died while it answered: {error}.")
                answer.fail(self._ended)
            else:
                answer.fail(_failure(error, begun=answer.first_token_at is not None))

    def _cancel(self, answer: VllmAnswer) -> None:
        answer.abort()
        if answer.task is not None:
            answer.task.cancel()

    async def _shut_down(self, error: ServingError) -> None:
        answers = list(self._answers.values())  # readers of other loops come and go meanwhile
        tasks = [answer.task for answer in answers if answer.task is not None]
        for answer in answers:
            answer.fail(anew(error))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        self._llm.shutdown(timeout=0)
        # vLLM shuts down once more when the interpreter ends, and then complains about what is no longer there.
        self._llm.shutdown = lambda **_options: None
        await asyncio.sleep(0)  # the output handler, cancelled by the shutdown, ends in the next turn of the loop

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise EngineClosedError("the engine runs in the process that this one was forked from.")
        if self._ended is not None:
            raise anew(self._ended)

    def _schedule(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed with the engine, and its answers have ended
            self._loop.call_soon_threadsafe(callback)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _started(model_dir: Path, options: VllmOptions, adapters: Sequence[Adapter]) -> AsyncLLM:
    llm = start(model_dir, options, adapters)
    for lora in lora_requests(adapters).values():
        try:
            await llm.add_lora(lora)
        except Exception as error:  # it comes from vLLM's own process, as text
            llm.shutdown(timeout=0)
            raise AdapterError(f"vLLM does not take the adapter {lora.name!r} in {lora.path}: {error}.") from error
    return llm


def _failure(error: BaseException, *, begun: bool) -> ServingError:
    """Return the error of a request that vLLM refused before it had ``begun``, or failed on."""
    if not begun and isinstance(error, versions.refusals()):
        return UnsupportedFeatureError(f"vLLM does not take this request: {error}.")
    return RequestFailedError(f"vLLM failed on this request: {error.__cause__ or error!r}.")


def _given_up(request: GenerateRequest) -> ServingError:
    """Return the error of an answer that vLLM ended without a reason that is one of ours."""
    if request.constraint is not None:
        kind = request.constraint.kind
        return ConstraintError(f"vLLM gave the answer up: its parser could not go on with the {kind} constraint.")
    return RequestFailedError("vLLM gave the answer up; its log says why.")


def _add_usage(stats: EngineStats, answers: Iterable[VllmAnswer]) -> EngineStats:
    for answer in answers:
        usage = answer.usage()
        stats = replace(
            stats,
            prompt_tokens=stats.prompt_tokens + usage.prompt_tokens,
            cached_tokens=stats.cached_tokens + usage.cached_tokens,
            generated_tokens=stats.generated_tokens + usage.completion_tokens,
            preemptions=stats.preemptions + usage.preemptions,
        )
    return stats

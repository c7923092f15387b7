"""The in-process engine: a thread that steps the model, streams that any event loop can read."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import os
import secrets
import threading
import time
import traceback
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

from agentsys.errors import ServingError
from agentsys.serving.constraints import CONSTRAINT_KINDS, ConstraintCompiler
from agentsys.serving.engine import Capabilities, EngineStats, QueuedRequest, check_adapter
from agentsys.serving.engine_errors import EngineClosedError, EngineFailedError, anew
from agentsys.serving.outbox import Outbox
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, GenerateRequest
from agentsys.serving.scheduling.policy import LONGEST_WAIT_SECONDS
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.speculation.drafter import Drafter
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.text_stream import TextStream
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.active_embedding import ActiveEmbedding, Vector
from agentsys.serving.torch_engine.active_request import ActiveRequest
from agentsys.serving.torch_engine.arrivals import Arrivals
from agentsys.serving.torch_engine.block_pool import domain_digest
from agentsys.serving.torch_engine.core import EngineCore, Speculation, measure_verify_cost
from agentsys.serving.torch_engine.limits import ADAPTIVE, SchedulerLimits, Tuning
from agentsys.serving.torch_engine.logprobs import LogprobReader
from agentsys.serving.torch_engine.model_runner import ModelRunner
from agentsys.serving.torch_engine.runner_protocol import Runner
from agentsys.serving.torch_engine.sampling import Sampler
from agentsys.serving.torch_engine.sequence import SequenceState
from agentsys.serving.torch_engine.token_bias import TokenBias

DEFAULT_KV_CACHE_BYTES = 512 * 2**20
DEFAULT_MAX_BATCH = 16
DEFAULT_MAX_STEP_TOKENS = 256
GPU_MAX_STEP_TOKENS = 2048
DEFAULT_MAX_WAITING = 2048
_MAX_DRAFT_TOKENS = 8
_MOST_THREADS = 16


def default_threads() -> int:
    """Return the threads of a step: all cores this process may use, up to where more no longer pay."""
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class TorchEngine:
    """Serves one model in this process with continuous batching; see :mod:`agentsys.serving.engine` for the protocol.

    ``token_ids`` of the chunks include the end token; ``text`` does not.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: ModelTokenizer,
        *,
        name: str,
        max_batch: int = DEFAULT_MAX_BATCH,
        max_step_tokens: int = DEFAULT_MAX_STEP_TOKENS,
        max_waiting: int = DEFAULT_MAX_WAITING,
        speculation: Speculation | None = None,
        tuning: Tuning = ADAPTIVE,
    ) -> None:
        """Serve ``runner``'s model, ``max_batch`` requests at once; ``max_waiting`` bounds those that wait."""
        self._tokenizer = tokenizer
        tokenizer.limit_to(runner.config.vocab_size)
        self._eos_token_ids = runner.config.eos_token_ids
        self._compiler = ConstraintCompiler(tokenizer, runner.config.vocab_size, sorted(self._eos_token_ids))
        limits = SchedulerLimits(
            num_blocks=runner.kv.num_blocks,
            block_size=runner.kv.block_size,
            context_length=runner.config.context_length,
            max_batch=max_batch,
            max_step_tokens=max_step_tokens,
            **asdict(tuning),
        )
        self._core = EngineCore(runner, limits, speculation)
        self._capabilities = Capabilities(
            model=name,
            context_length=limits.longest,
            constraints=CONSTRAINT_KINDS,
            priority=True,
            preemption=True,
            rekey=True,
            speculation=speculation is not None,
            batch_invariant=runner.batch_invariant,
            logprobs=True,
            embeddings=True,
        )
        self._process = os.getpid()
        self._numbers = itertools.count()
        self._arrivals = Arrivals(name, max_waiting, lambda: self._core.waiting)
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._outbox = Outbox()  # of the engine's thread
        self._ended: ServingError | None = None
        self._thread = threading.Thread(target=self._run, name=f"torch-engine-{name}", daemon=True)
        self._thread.start()
        # A daemon thread inside native code while the interpreter is torn down would crash the process.
        atexit.register(self._stop)

    @staticmethod
    def load(
        model_dir: Path,
        *,
        weight_format: str = "auto",
        threads: int | None = None,
        kv_cache_bytes: int = DEFAULT_KV_CACHE_BYTES,
        max_batch: int = DEFAULT_MAX_BATCH,
        max_step_tokens: int | None = None,
        max_waiting: int = DEFAULT_MAX_WAITING,
        drafter: Drafter | Literal["auto"] | None = "auto",
        tuning: Tuning = ADAPTIVE,
        device: str = "cpu",
        random_weights: bool = False,
    ) -> TorchEngine:
        """Load a model folder onto ``device``, "cpu" or "cuda"; ``random_weights`` reads only its configuration.

        ``threads`` defaults to :func:`default_threads`. ``kv_cache_bytes`` bounds the memory of keys and values,
        ``max_waiting`` that of the queue.
        ``max_step_tokens`` defaults to 256, on a GPU to 2,048.
        ``tuning`` is how the scheduler trades haste against throughput.
        ``drafter`` "auto" drafts by prompt lookup where the weight format makes that lossless, None never drafts.

        Raises the errors of ``ModelRunner.load`` and ``PromptError`` for an unreadable tokenizer.
        """
        runner = ModelRunner.load(
            model_dir,
            weight_format=weight_format,
            threads=default_threads() if threads is None else threads,
            kv_cache_bytes=kv_cache_bytes,
            device=device,
            random_weights=random_weights,
        )
        if max_step_tokens is None:
            max_step_tokens = DEFAULT_MAX_STEP_TOKENS if device == "cpu" else GPU_MAX_STEP_TOKENS
        if drafter == "auto":
            drafter = PromptLookupDrafter() if runner.batch_invariant else None
        speculation = None
        if drafter is not None:
            cost = measure_verify_cost(runner, max_step_tokens)
            speculation = Speculation(drafter, _MAX_DRAFT_TOKENS, cost)
        return TorchEngine(
            runner,
            ModelTokenizer(model_dir),
            name=model_dir.name,
            max_batch=max_batch,
            max_step_tokens=max_step_tokens,
            max_waiting=max_waiting,
            speculation=speculation,
            tuning=tuning,
        )

    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def tokenizer(self) -> ModelTokenizer:
        """What prompts and answers are made of."""
        return self._tokenizer

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer and have no text."""
        return self._eos_token_ids

    async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
        """Stream the answer; closing the iterator aborts the request.

        Raises ``PromptError``, ``UnknownTokenError``, ``ConstraintError``, ``RequestTooLongError``,
        ``UnknownAdapterError``, ``DuplicateRequestError``, ``QueueFullError``, :class:`EngineClosedError` or
        :class:`EngineFailedError`.
        """
        check_adapter(request.adapter, self._capabilities.adapters, self._capabilities.model)
        mailbox: asyncio.Queue[Chunk | ServingError] = asyncio.Queue()
        deliver = self._outbox.to(mailbox, asyncio.get_running_loop())
        self._check_usable()
        with self._arrivals.reading(request.request_id) as meanwhile:
            # Long prompts and large grammars take a while to read, and the event loop has other things to do.
            active = await asyncio.to_thread(self._prepare, request, next(self._numbers), deliver)
            self._command(partial(self._take_up, active))
        if meanwhile.urgency is not None:
            self.rekey(request.request_id, meanwhile.urgency)
        if meanwhile.aborted:
            self._command_if_usable(partial(self._core.abort, active))
        try:
            while True:
                item = await mailbox.get()
                if isinstance(item, ServingError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            self._command_if_usable(partial(self._core.abort, active))

    def abort(self, request_id: str) -> None:
        self._arrivals.read.abort(request_id)
        self._command_if_usable(partial(self._core.abort_named, request_id))

    def rekey(self, request_id: str, urgency: float) -> None:
        self._arrivals.read.rekey(request_id, urgency)
        self._command_if_usable(partial(self._core.rekey, request_id, urgency))

    def stats(self) -> EngineStats:
        return self._core.stats()

    def queue(self) -> tuple[QueuedRequest, ...]:
        return self._core.queue()

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        return self._core.iterations(after)

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the mean of each prompt's last hidden states, scaled to length 1.

        These are the states of a model trained to continue text, not to tell texts apart: they serve for rough
        likeness where no embedding model is at hand, and such a model is better.

        Raises ``PromptError``, ``RequestTooLongError``, ``DuplicateRequestError``, ``QueueFullError``,
        ``RequestAbortedError``, :class:`EngineClosedError` or :class:`EngineFailedError`.
        """
        mailbox: asyncio.Queue[tuple[int, Vector | ServingError]] = asyncio.Queue()
        self._check_usable()
        deliver = self._outbox.to(mailbox, asyncio.get_running_loop())
        with self._arrivals.reading(request.request_id, len(request.prompts)) as meanwhile:
            tasks = await asyncio.to_thread(self._prepare_embedding, request, deliver)
            for task in tasks:
                self._command(partial(self._take_up, task))
        for task in tasks if meanwhile.aborted else ():
            self._command_if_usable(partial(self._core.abort, task))
        vectors: dict[int, Vector] = {}
        try:
            while len(vectors) < len(tasks):
                index, item = await mailbox.get()
                if isinstance(item, ServingError):
                    raise item
                vectors[index] = item
        finally:
            for task in tasks:
                self._command_if_usable(partial(self._core.abort, task))
        counted = sum(task.sequence.prompt_length for task in tasks)
        return Embedding(tuple(vectors[index] for index in range(len(tasks))), counted, self._capabilities.model)

    async def close(self) -> None:
        """Stop the thread; answers in progress end with :class:`EngineClosedError`."""
        await asyncio.to_thread(self._stop)

    def _prepare(
        self, request: GenerateRequest, arrival: int, deliver: Callable[[Chunk | ServingError], None]
    ) -> ActiveRequest:
        tokens = _compact(self._tokenizer.encode(request.prompt))
        sampling = request.sampling
        self._tokenizer.check_known(sampling.logit_bias, "logit_bias")
        matcher = None if request.constraint is None else self._compiler.compile(request.constraint)
        sequence = SequenceState(
            request_id=request.request_id,
            tokens=tokens,
            prompt_length=len(tokens),
            limit=len(tokens) + sampling.max_tokens,
            urgency=request.urgency,
            arrival=arrival,
            domain=domain_digest(request.label.readers),
            latest=time.time() + LONGEST_WAIT_SECONDS,
        )
        top = sampling.logprobs
        return ActiveRequest(
            sequence=sequence,
            sampler=Sampler.of(sampling, fallback_seed=secrets.randbits(64)),
            text=TextStream(self._tokenizer, sampling.stop),
            eos_token_ids=frozenset() if sampling.ignore_eos else self._eos_token_ids,
            deliver=deliver,
            matcher=matcher,
            logprobs=None if top is None else LogprobReader(top, self._compiler.token_bytes),
            bias=TokenBias.of(sampling, tokens[len(tokens) - request.answered :]),
        )

    def _prepare_embedding(
        self, request: EmbedRequest, deliver: Callable[[tuple[int, Vector | ServingError]], None]
    ) -> list[ActiveEmbedding]:
        tasks = []
        for index, prompt in enumerate(request.prompts):
            tokens = _compact(self._tokenizer.encode(prompt))
            sequence = SequenceState(
                request_id=f"{request.request_id}#{index}",
                tokens=tokens,
                prompt_length=len(tokens),
                limit=len(tokens),
                urgency=request.urgency,
                arrival=next(self._numbers),
                domain=domain_digest(request.label.readers),
                latest=time.time() + LONGEST_WAIT_SECONDS,
                reuses_prefix=False,
            )
            tasks.append(ActiveEmbedding(sequence, request.request_id, partial(_send_numbered, deliver, index)))
        return tasks

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            # The engine's threads did not come along, and its lock may have been held at the fork.
            raise EngineClosedError("the engine runs in the process that this one was forked from.")
        if self._ended is not None:
            raise anew(self._ended)

    def _take_up(self, task: ActiveRequest | ActiveEmbedding) -> None:
        self._core.add(task)
        self._arrivals.taken_up()

    def _command(self, command: Callable[[], None]) -> None:
        self._check_usable()
        with self._wake:
            self._check_usable()
            self._commands.append(command)
            self._wake.notify()

    def _command_if_usable(self, command: Callable[[], None]) -> None:
        with contextlib.suppress(EngineClosedError, EngineFailedError):
            self._command(command)

    def _stop(self) -> None:
        if os.getpid() != self._process:
            return
        with self._wake:
            if self._ended is None:
                self._ended = EngineClosedError(f"the engine of {self._capabilities.model} is closed.")
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self._stop)

    def _run(self) -> None:
        try:
            while self._execute_commands():
                self._core.step()
                self._outbox.flush()
        # Whatever native code raised, no stream may be left waiting for ever; a panic of Rust is no Exception.
        except BaseException as error:
            failure = EngineFailedError(f"a step of {self._capabilities.model} failed: {error!r}.")
            failure.__cause__ = error
            # The traceback's frames hold the model, which would stay in memory beside its successor.
            traceback.clear_frames(error.__traceback__)
            with self._wake:
                self._ended = failure
        while self._commands:
            with contextlib.suppress(BaseException):  # the engine has ended; what is left only has to hear of it
                self._commands.popleft()()
        self._core.close(self._ended or EngineClosedError("the engine is closed."))
        self._outbox.flush()

    def _execute_commands(self) -> bool:
        with self._wake:
            while not (self._commands or self._core.has_work or self._ended):
                self._wake.wait()
        # One by one: should one fail, the rest must still be there to be told.
        while self._commands:
            self._commands.popleft()()
        self._outbox.flush()
        return self._ended is None


def _compact(tokens: Sequence[int]) -> array[int]:
    # A waiting prompt is a tenth of the size that it has as a list.
    return array("i", tokens)


def _send_numbered(
    deliver: Callable[[tuple[int, Vector | ServingError]], None], index: int, item: Vector | ServingError
) -> None:
    deliver((index, item))

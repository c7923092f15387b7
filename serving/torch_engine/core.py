"""The engine without its thread: schedule, step the model, choose tokens, deliver."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agentsys.errors import ServingError
from agentsys.serving.engine import EngineStats, QueuedRequest
from agentsys.serving.engine_errors import DuplicateRequestError, anew
from agentsys.serving.scheduling.iteration_log import IterationLog
from agentsys.serving.scheduling.step_time import Iteration, RunningFit
from agentsys.serving.speculation.draft_length import PROBE_ROWS, Acceptance, VerifyCost, best_draft_length
from agentsys.serving.speculation.drafter import Drafter
from agentsys.serving.torch_engine.active_embedding import ActiveEmbedding
from agentsys.serving.torch_engine.active_request import ActiveRequest
from agentsys.serving.torch_engine.batch import SequenceSlice
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.runner_protocol import Runner
from agentsys.serving.torch_engine.scheduler import Scheduler, Work, no_drafts
from agentsys.serving.torch_engine.sequence import SequenceState

_PROBE_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Speculation:
    """How to draft: by whom, at most how many tokens a step, and at which measured price.

    Without ``cost`` every draft has the full length: for tests and experiments.
    """

    drafter: Drafter
    max_tokens: int = 8
    cost: VerifyCost | None = None


class EngineCore:
    """Everything the engine's thread does. Not thread-safe, but for what tells of load and work."""

    def __init__(self, runner: Runner, limits: SchedulerLimits, speculation: Speculation | None = None) -> None:
        self._runner = runner
        self._scheduler = Scheduler(limits)
        self._speculation = speculation
        self._active: dict[str, ActiveRequest | ActiveEmbedding] = {}
        self._steps = 0
        self._ended = EngineStats()
        self._counting = threading.Lock()
        self._iterations = IterationLog()
        self._step_time = RunningFit()

    @property
    def has_work(self) -> bool:
        return bool(self._active)

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    def add(self, request: ActiveRequest | ActiveEmbedding) -> None:
        """Queue a request; a refusal is delivered as its stream's error."""
        request_id = request.sequence.request_id
        try:
            if request_id in self._active:
                raise DuplicateRequestError(f"request {request_id!r} is still being answered.")
            self._scheduler.add(request.sequence)
        except ServingError as error:
            request.deliver(error)
            return
        self._active[request_id] = request
        if self._speculation is not None and isinstance(request, ActiveRequest):
            request.session = self._speculation.drafter.session()

    def abort_named(self, request_id: str) -> None:
        """Stop what is being answered under an id: a request, or one prompt or all of one that asks for vectors."""
        for name, active in list(self._active.items()):
            if name == request_id or (isinstance(active, ActiveEmbedding) and active.request_id == request_id):
                self.abort(active)

    def abort(self, request: ActiveRequest | ActiveEmbedding) -> None:
        """Stop a request if it is being answered."""
        if self._active.get(request.sequence.request_id) is request:
            self._end(request)
            request.abort()

    def rekey(self, request_id: str, urgency: float) -> None:
        """Change a request's κ if it is being answered."""
        self._scheduler.rekey(request_id, urgency)

    def close(self, error: ServingError) -> None:
        """End every request with ``error`` and let go of the model; only :meth:`stats` may be called after."""
        for request in list(self._active.values()):
            self._end(request)
            request.deliver(anew(error))
        del self._runner

    def step(self) -> None:
        """Run one step over the most urgent requests."""
        started = time.perf_counter()
        works = self._scheduler.schedule(no_drafts if self._speculation is None else self._draft, now=time.time())
        if not works:
            return
        self._note_scheduled(works)
        load = _load(works)
        outputs = self._runner.step([self._slice(work) for work in works])
        self._steps += 1
        for work, output in zip(works, outputs, strict=True):
            request = self._active[work.sequence.request_id]
            if isinstance(request, ActiveEmbedding):
                self._finish_embedding(request, work, output)
            else:
                self._finish_work(request, work, output)
        self._learn(Iteration(*load, time.perf_counter() - started))

    def stats(self) -> EngineStats:
        """Return load and totals, requests in progress included."""
        with self._counting:
            totals = _add_usage(self._ended, list(self._active.values()))
        return EngineStats(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            slots=self._scheduler.limits.max_batch,
            kv_used_blocks=self._scheduler.pool.owned,
            kv_total_blocks=self._scheduler.pool.num_blocks,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            generated_tokens=totals.generated_tokens,
            drafted_tokens=totals.drafted_tokens,
            accepted_tokens=totals.accepted_tokens,
            preemptions=self._scheduler.preemptions,
            steps=self._steps,
        )

    def iterations(self, after: int) -> tuple[int, Sequence[Iteration]]:
        """Return the number of the last step and the newest steps later than ``after``."""
        return self._iterations.since(after)

    def queue(self) -> tuple[QueuedRequest, ...]:
        """Return the requests that wait or run, in order of service."""
        requests = sorted(self._active.copy().values(), key=lambda request: request.sequence.key)
        return tuple(
            QueuedRequest(sequence.request_id, sequence.key[0], self._scheduler.phase(sequence), request.usage())
            for request in requests
            for sequence in [request.sequence]
        )

    def _learn(self, iteration: Iteration) -> None:
        self._iterations.add(iteration)
        self._step_time.add(iteration)
        self._scheduler.step_time = self._step_time.model

    def _slice(self, work: Work) -> SequenceSlice:
        tokens = [*work.sequence.tokens[work.start : work.start + work.count], *work.draft]
        wanted = work.count - 1 if work.completes else len(tokens)
        states = isinstance(self._active[work.sequence.request_id], ActiveEmbedding)
        return SequenceSlice(tokens, work.start, work.sequence.blocks, wanted, states)

    def _finish_embedding(self, request: ActiveEmbedding, work: Work, states: torch.Tensor) -> None:
        request.take(work.start, states.cpu())
        self._scheduler.commit(work, [])
        if work.completes:
            self._end(request)
            request.finish()

    def _finish_work(self, request: ActiveRequest, work: Work, logits: torch.Tensor) -> None:
        try:
            tokens = request.advance(logits.cpu().numpy(), work.draft) if work.completes else []
        except ServingError as error:
            self._end(request)
            request.deliver(error)
            return
        if work.draft:
            request.acceptance[request.draft_source].record(len(work.draft), len(tokens) - 1)
        self._scheduler.commit(work, tokens)
        if request.finish_reason is not None:
            self._end(request)
        request.send()

    def _draft(self, sequence: SequenceState, rows: int, limit: int) -> Sequence[int]:
        request, speculation = self._active[sequence.request_id], self._speculation
        if speculation is None or not isinstance(request, ActiveRequest):
            return ()
        draft = request.propose(min(limit, speculation.max_tokens))
        if draft is None:
            return ()
        acceptance = request.acceptance.setdefault(draft.source, Acceptance(draft.expected))
        request.draft_source = draft.source
        if speculation.cost is None:
            return draft.tokens
        return draft.tokens[: best_draft_length(speculation.cost, acceptance.rate, rows, len(draft.tokens))]

    def _note_scheduled(self, works: Sequence[Work]) -> None:
        now = time.perf_counter()
        for work in works:
            request = self._active[work.sequence.request_id]
            if request.scheduled_at is None:
                request.scheduled_at = now

    def _end(self, request: ActiveRequest | ActiveEmbedding) -> None:
        self._scheduler.remove(request.sequence)
        # Whoever reads the totals meanwhile must not miss it: a counter that goes back tells of a restart.
        with self._counting:
            del self._active[request.sequence.request_id]
            self._ended = _add_usage(self._ended, [request])


def _load(works: Sequence[Work]) -> tuple[int, int, int]:
    """Return prefill tokens, decoding sequences and context tokens of a step that has not run yet."""
    decoding = sum(work.sequence.is_decoding for work in works)
    # A drafted token passes through the model as one of a prompt does, and is priced like it.
    rows = sum(work.count + len(work.draft) for work in works)
    context = sum(work.start + work.count + len(work.draft) for work in works)
    return rows - decoding, decoding, context


def _add_usage(stats: EngineStats, requests: Sequence[ActiveRequest | ActiveEmbedding]) -> EngineStats:
    usages = [request.usage() for request in requests]
    return EngineStats(
        prompt_tokens=stats.prompt_tokens + sum(usage.prompt_tokens for usage in usages),
        cached_tokens=stats.cached_tokens + sum(usage.cached_tokens for usage in usages),
        generated_tokens=stats.generated_tokens + sum(usage.completion_tokens for usage in usages),
        drafted_tokens=stats.drafted_tokens + sum(usage.drafted_tokens for usage in usages),
        accepted_tokens=stats.accepted_tokens + sum(usage.accepted_tokens for usage in usages),
    )


def measure_verify_cost(runner: Runner, max_rows: int) -> VerifyCost:
    """Time steps of one to ``max_rows`` rows on an idle runner (well under a second for a small model).

    The rows follow a context of usual length, since each of them attends to all of it.
    """
    block_size = runner.kv.block_size
    longest = min(runner.config.context_length, runner.kv.num_blocks * block_size)
    sizes = [rows for rows in PROBE_ROWS if rows <= min(max_rows, longest)]
    context = min(_PROBE_CONTEXT, longest - sizes[-1])

    def seconds(rows: int) -> float:
        table = list(range(-(-(context + rows) // block_size)))
        started = time.perf_counter()
        runner.step([SequenceSlice([0] * rows, context, table, 0)])
        return time.perf_counter() - started

    return VerifyCost.measure(seconds, sizes)

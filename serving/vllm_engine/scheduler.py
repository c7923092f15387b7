"""Our scheduler inside vLLM: running calls ordered by κ, slots for the urgent, small chunks for the rest, live κ.

vLLM's own with ``policy='priority'`` orders only what waits: a running call keeps its slot against any other, and a
long prefill takes every step's tokens until it ends. Ours decides before each of vLLM's own ``schedule`` who gives way,
and leaves the rest to it. vLLM's process looks the classes ``UrgencyScheduler`` and ``AsyncUrgencyScheduler`` up here
by their dotted names; with them come the methods of ``EngineCore`` through which
:class:`~agentsys.serving.vllm_engine.engine.VllmEngine` changes κ and reads steps.
"""

from __future__ import annotations

import heapq
import time
from functools import cache
from typing import Any, Final

from agentsys.serving.scheduling.pacing import Runnable, concurrency
from agentsys.serving.vllm_engine import versions
from agentsys.serving.vllm_engine.parameters import NAME_ARGUMENT
from agentsys.serving.vllm_engine.preemption import Held, Room, UrgencyLimits, Wanted, victims, without_place
from agentsys.serving.vllm_engine.step_log import StepLog

CONFIG: Final = "agentsys"
_MAY_START: Final = ("WAITING", "PREEMPTED")  # the others wait for a grammar, or for keys and values from elsewhere
_Scheduler: Any = object


class Urgent(_Scheduler):  # type: ignore[misc]  # vLLM's scheduler is the next class in line, where there is a vLLM
    """Comes before one of vLLM's schedulers; ``additional_config['agentsys']`` of vLLM's configuration sets limits."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if self.policy.value != "priority":
            raise ValueError(f"the scheduler of agentsys needs scheduling_policy='priority', not {self.policy.value!r}")
        config = self.vllm_config.additional_config
        self.limits = UrgencyLimits.of_config(config.get(CONFIG, {}) if isinstance(config, dict) else {})
        self.steps = StepLog()
        self._names: dict[str, str] = {}  # of a request as its caller knows it, to vLLM's, which has a suffix
        self._step = 0
        self._held_since: dict[str, int] = {}
        self._chunk_left = 0
        self._uncapped: tuple[int, float] | None = None
        self._taken: set[str] = set()
        self._adapter_places = _adapter_places(self.lora_config)
        self.limit_running(self.limits.most_running)
        self._most_now = self._most

    def add_request(self, request: Any) -> None:
        self._names[_name(request)] = request.request_id
        super().add_request(request)

    def schedule(self, *arguments: Any, **keywords: Any) -> Any:
        started = time.monotonic()
        self._step += 1
        self._most_now = self._paced(time.time())
        versions.set_most_running(self, self._most_now)
        self._make_room()
        # Each that decodes needs one token and is sure of it; prefills share what is left in order of κ.
        self.running.sort(key=lambda request: (_prefill_left(request) > 1, _key(request)))
        self._set_chunk()
        held_back = self._hold_back()
        output = super().schedule(*arguments, **keywords)
        for queue, request in held_back:
            queue.add_request(request)
        self._note_holders()
        versions.report_preempted(output, self._taken)
        self._taken = set()
        self.steps.began(output, self.requests, started)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self.steps.ended(scheduler_output, time.monotonic(), busy=bool(self.running or self.waiting))
        return outputs

    def rekey(self, name: str, priority: int) -> bool:
        """Give a request a new key; returns whether it is there."""
        request = self.requests.get(self._names.get(name, name))
        if request is None:
            return False
        request.priority = priority
        for queue in versions.waiting_queues(self):
            heapq.heapify(queue._heap)
        return True

    def limit_running(self, most: int) -> None:
        """Let at most ``most`` requests run at once, 0: as many as there are slots. Those above it give way."""
        slots = self.scheduler_config.max_num_seqs
        self._most: int = min(most, slots) if most else slots

    def report(self, after: int) -> list[Any]:
        """Return the number of the last step, the steps after ``after``, the phases of all but the plainly waiting
        by name, and the blocks in use."""
        phases = {_name(request): "prefill" if _prefill_left(request) > 1 else "decode" for request in self.running}
        for request in self.waiting._heap:
            if request.status.name == "PREEMPTED":
                phases[_name(request)] = "paused"
        pool = self.kv_cache_manager.block_pool
        return [self.steps.total, self.steps.after(after), phases, pool.num_gpu_blocks - pool.get_num_free_blocks()]

    def _free_request(self, request: Any, *arguments: Any, **keywords: Any) -> Any:
        if self._names.get(_name(request)) == request.request_id:  # else it is a newer one's by now
            del self._names[_name(request)]
        self._held_since.pop(request.request_id, None)
        return super()._free_request(request, *arguments, **keywords)

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        # vLLM asks this of every request whose share of a step it settles, whether it runs or waits.
        prefills = request.num_tokens - num_computed_tokens > 1
        if prefills and self._uncapped is not None and _key(request) > self._uncapped:
            num_new_tokens = min(num_new_tokens, self._chunk_left)
            self._chunk_left -= num_new_tokens
        return int(super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens))

    def _paced(self, now: float) -> int:
        """Return how many may run in this step; what runs already goes on, or gives way to one more urgent."""
        step_time = self.steps.step_time
        if not self.limits.slowdown or step_time is None or not self.waiting:
            return self._most
        first = sorted([*self.running, *heapq.nsmallest(self._most, self.waiting._heap)], key=_key)[: self._most]
        runnable = [Runnable(request.priority / 1000, request.num_tokens) for request in first]
        fitting = concurrency(runnable, now, step_time, slowdown=self.limits.slowdown, hurry=self.limits.hurry)
        return min(max(fitting, len(self.running)), self._most)

    def _make_room(self) -> None:
        """Preempt those that give way to the most urgent that wait, and those above a lowered limit."""
        surplus = len(self.running) - self._most
        for request in sorted(self.running, key=_key)[self._most :] if surplus > 0 else ():
            self._take_slot(request)
        if not self.waiting or not self.running:
            return
        least = max(map(_key, self.running))
        if self.waiting.peek_request().priority + self.limits.margin_ms >= least[0]:
            return
        held = [self._held(request) for request in self.running]
        blocks = self.kv_cache_manager.block_pool.get_num_free_blocks()
        room = Room(self._most_now - len(self.running), blocks, self._adapter_places)
        # An iteration over vLLM's heap copies and empties it; those that could start are few.
        first = heapq.nsmallest(self._most, self.waiting._heap)
        waiting = [
            Wanted(_key(request), self._blocks_needed(request), _adapter(request))
            for request in first
            if request.status.name in _MAY_START
        ]
        for request in [self.running[place] for place in victims(self.limits, held, waiting, room)]:
            self._take_slot(request)

    def _take_slot(self, request: Any) -> None:
        self.running.remove(request)
        self._preempt_request(request, time.monotonic())
        versions.note_preempted(self, request.request_id)
        self._held_since.pop(request.request_id, None)
        self._taken.add(request.request_id)

    def _held(self, request: Any) -> Held:
        steps = self._step - self._held_since.get(request.request_id, self._step)
        blocks = -(-request.num_computed_tokens // self.block_size)
        return Held(_key(request), steps, request.num_preemptions, blocks, _adapter(request))

    def _blocks_needed(self, request: Any) -> int:
        # Those of a prefix in the cache are not counted off: to look it up would touch vLLM's statistics.
        return int(-(-request.num_tokens // self.block_size))

    def _set_chunk(self) -> None:
        """Find whom this step must not delay: all prefills less urgent than that one share the small chunk."""
        chunk = self._chunk_left = self.limits.chunk(self.steps.step_time)
        active = list(self.running)
        if self.waiting and len(active) < self._most_now and self.waiting.peek_request().status.name in _MAY_START:
            active.append(self.waiting.peek_request())
        capped = chunk > 0 and len(active) > 1
        self._uncapped = min(map(_key, active)) if capped else None
        versions.cap_all_prefills(self, chunk if capped else 0)

    def _hold_back(self) -> list[tuple[Any, Any]]:
        """Take the calls whose adapters have no place from the queues; returns them with their queues.

        vLLM counts the adapters of what it has scheduled in a step, not of what runs: where a prefill has no token of
        a step's chunk, it would start one adapter too many, and fail in the next step.
        """
        if not self._adapter_places:
            return []
        queues = versions.waiting_queues(self)
        waiting = sorted(
            ((queue, request) for queue in queues for request in queue._heap), key=lambda one: _key(one[1])
        )
        running = [(_key(request), _adapter(request)) for request in self.running]
        adapters = [_adapter(request) for _queue, request in waiting]
        back = [waiting[index] for index in without_place(running, adapters, self._adapter_places)]
        for queue in queues:
            queue.remove_requests([request for of, request in back if of is queue])
        return back

    def _note_holders(self) -> None:
        for request in self.running:
            self._held_since.setdefault(request.request_id, self._step)


def __getattr__(name: str) -> type:
    if name in ("UrgencyScheduler", "AsyncUrgencyScheduler"):
        return _scheduler(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _scheduler(name: str) -> type:
    """Make the class for engines that end a step before they schedule the next, or for those that run ahead."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

    # vLLM calls methods of its core by name. The core that does it looks its scheduler up before it answers calls.
    EngineCore.agentsys_rekey = _rekey
    EngineCore.agentsys_report = _report
    EngineCore.agentsys_limit_running = _limit_running
    return type(name, (Urgent, AsyncScheduler if name.startswith("Async") else Scheduler), {"__module__": __name__})


def _name(request: Any) -> str:
    extra = request.sampling_params.extra_args if request.sampling_params is not None else None
    return str((extra or {}).get(NAME_ARGUMENT, request.request_id))


def _key(request: Any) -> tuple[int, float]:
    return request.priority, request.arrival_time


def _adapter(request: Any) -> int:
    return 0 if request.lora_request is None else int(request.lora_request.lora_int_id)


def _adapter_places(config: Any) -> int:
    """Return how many adapters may share a step, 0: all that are loaded."""
    return int(config.max_loras) if config is not None and config.max_cpu_loras > config.max_loras else 0


def _prefill_left(request: Any) -> int:
    return int(request.num_tokens - request.num_computed_tokens)


def _rekey(core: Any, pairs: list[tuple[str, int]]) -> list[str]:
    return [name for name, priority in pairs if not core.scheduler.rekey(name, priority)]


def _report(core: Any, after: int) -> list[Any]:
    return list(core.scheduler.report(after))


def _limit_running(core: Any, most: int) -> None:
    core.scheduler.limit_running(most)

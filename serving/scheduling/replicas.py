"""What the dispatcher knows of its replicas: what runs there, how fast, and what one more call would cost."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from agentsys.serving.scheduling.calls import Call, ReplicaSpec
from agentsys.serving.scheduling.policy import Option
from agentsys.serving.scheduling.step_time import Iteration, StepTime, StepTimeFit

ADAPTER_SECONDS: Final = 0.05
"""What a call is taken to wait where its adapter has not been at work of late: it is copied to where the engine
computes, and no prefix of its calls is in the cache."""
_ADAPTERS_AT_WORK: Final = 8  # the last ones, as many as an engine keeps at hand


@dataclass(slots=True)
class Expected:
    """What is expected of a call at a replica: ``tokens`` of answer, a share of the prompt that is ``cached``, and how
    many prompt tokens the replica computes for each token of an answer."""

    tokens: float
    cached: float = 0.0
    prompt_per_token: float = 0.0


@dataclass(slots=True, eq=False)
class Resident:
    """A copy of a call at a replica, given to it at ``started``; ``first`` and ``ends`` are when its first and its last
    token should come; its prompt takes ``prefill`` seconds. ``told`` is the last κ that the replica was told."""

    call: Call
    key: float
    told: float
    expected_tokens: float
    started: float
    first: float
    ends: float
    prefill: float
    generated: int = 0


class Replica:
    """One replica's load. ``passed_over`` is when nobody who waited wanted its free slot."""

    def __init__(self, spec: ReplicaSpec, index: int) -> None:
        self.spec = spec
        self.index = index
        self.up = True
        self.residents: dict[str, Resident] = {}
        self._fit: StepTimeFit | None = None
        self._ends: list[float] | None = None
        self._keys: list[float] | None = None
        self._prompts: tuple[list[float], list[float]] | None = None
        self._adapters: OrderedDict[str, None] = OrderedDict()
        self.passed_over = -math.inf
        self.step_time: StepTime = spec.step_time

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.spec.slots - len(self.residents)

    def permits(self, call: Call) -> bool:
        """Whether the call may be shown to those who learn this replica's prompts, and can run there."""
        return call.may_go_to(self.spec.audience, self.spec.adapters)

    def has_at_work(self, adapter: str) -> bool:
        """Whether the adapter is one of the last that calls came for here."""
        return adapter in self._adapters

    def observe(self, iterations: Sequence[Iteration]) -> None:
        """Learn the prices of a step."""
        if iterations:
            self._fit = self._fit or StepTimeFit(self.spec.step_time)
            for iteration in iterations:
                self._fit.add(iteration)
            self.step_time = self._fit.model

    def take(self, call: Call, key: float, tokens: float, option: Option, now: float) -> None:
        """Note that a call was given to the replica."""
        first = now + option.wait + option.backlog + option.prefill
        self.residents[call.call_id] = Resident(
            call, key, key, tokens, now, first, first + option.decode, option.prefill
        )
        self._forget()
        if call.adapter is not None:
            self._adapters[call.adapter] = None
            self._adapters.move_to_end(call.adapter)
            if len(self._adapters) > _ADAPTERS_AT_WORK:
                self._adapters.popitem(last=False)

    def leave(self, call_id: str) -> Resident | None:
        """Note that a call is no longer here; returns what it was."""
        self._forget()
        return self.residents.pop(call_id, None)

    def rekey(self, call_id: str, key: float, margin: float) -> bool:
        """Note a call's new key; returns whether the replica is to be told, as what it knows is ``margin`` off."""
        resident = self.residents[call_id]
        resident.key = key
        self._forget()
        if not self.spec.rekeys or abs(key - resident.told) <= margin:
            return False
        resident.told = key
        return True

    def progressed(self, resident: Resident, tokens: int, now: float) -> None:
        """Note how many tokens an answer has by now."""
        if not resident.generated:
            self._prompts = None
        resident.generated = tokens
        batch = min(len(self.residents), self.spec.slots)
        left = max(resident.expected_tokens - tokens, 1.0)
        resident.ends = now + left * self.token_seconds(batch, resident.call.prompt_tokens + tokens)
        self._ends = None

    def paused(self) -> set[str]:
        """Return the calls that are here without a slot: the least urgent ones beyond the slots."""
        ranked = sorted(self.residents, key=lambda call_id: self.residents[call_id].key)
        return set(ranked[self.spec.slots :])

    def token_seconds(self, batch: int, context: float) -> float:
        """Return the seconds between two tokens when ``batch`` sequences of ``context`` tokens each decode."""
        return self.step_time.seconds(0, batch, batch * context)

    def alone(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the seconds that a call takes on this replica when it is idle."""
        context = prompt_tokens + completion_tokens / 2
        return self.step_time.per_prefill * prompt_tokens + completion_tokens * self.token_seconds(1, context)

    def share(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the seconds of the replica's time that a call takes when every slot is used."""
        slots, context = self.spec.slots, prompt_tokens + completion_tokens / 2
        decode = completion_tokens * self.token_seconds(slots, context) / slots
        return self.step_time.per_prefill * prompt_tokens + decode

    def least_urgent(self) -> float:
        """Return the greatest key of what is here."""
        if self._keys is None:
            self._keys = sorted(resident.key for resident in self.residents.values())
        return self._keys[-1] if self._keys else -math.inf

    def _forget(self) -> None:
        self._ends = self._keys = self._prompts = None

    def _prompts_before(self, key: float) -> tuple[float, float]:
        """Return the seconds of prompts still to be computed: of calls at least as urgent as ``key``, and of all."""
        if self._prompts is None:
            waiting = sorted((one.key, one.prefill) for one in self.residents.values() if not one.generated)
            sums = accumulate((seconds for _key, seconds in waiting), initial=0.0)
            self._prompts = [key for key, _seconds in waiting], list(sums)
        keys, sums_before = self._prompts
        return sums_before[bisect_right(keys, key)], sums_before[-1]

    def _more_urgent(self, key: float) -> int:
        if self._keys is None:
            self._keys = sorted(resident.key for resident in self.residents.values())
        return bisect_right(self._keys, key)

    def option(
        self, call: Call, key: float, expected: Expected, now: float, *, ahead: int = 0, displaces: bool = False
    ) -> Option:
        """Say what it would mean to run ``call`` here, after ``ahead`` more that are promised the next free slots."""
        slots, prices, tokens = self.spec.slots, self.step_time, expected.tokens
        batch = min(len(self.residents), slots)
        others = batch - 1 if displaces else batch
        context = prices.per_context * (call.prompt_tokens + tokens / 2)
        prefill = prices.per_prefill * call.prompt_tokens * (1 - expected.cached)
        if call.adapter is not None and not self.has_at_work(call.adapter):
            prefill += ADAPTER_SECONDS
        # Whoever ends makes room for another, whose prompt is computed between two tokens of this call.
        newcomers = others * expected.prompt_per_token * prices.per_prefill
        backlog, prompts = self._prompts_before(key)
        each = prices.per_sequence + context
        decode = tokens * (prices.base + (others + 1) * each + newcomers) + prompts - backlog
        work = prefill + tokens * (prices.base / slots + each)
        urgent = min(self._more_urgent(key), others)
        delay = (others - urgent) * work + (prefill + decode if displaces else 0.0)
        wait = 0.0 if displaces else self.wait(now, ahead)
        return Option(self.index, wait, backlog, prefill, decode, urgent * work, delay, batch, slots)

    def wait(self, now: float, ahead: int = 0) -> float:
        """Return the seconds until a slot is free, after ``ahead`` more that are promised one."""
        missing = ahead - self.free + 1
        if missing <= 0:
            return 0.0
        if self._ends is None:
            self._ends = sorted(resident.ends for resident in self.residents.values())
        if not self._ends:
            return 0.0
        turns, place = divmod(missing - 1, len(self._ends))
        least = self.token_seconds(1, 0)  # what should have ended by now needs one more token at least
        return max(self._ends[place] - now, least) + turns * max(self._ends[-1] - now, least)

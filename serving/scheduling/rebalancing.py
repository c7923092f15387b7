"""What idle replicas can take over: calls that others would end much later, and second copies of stragglers.

Source of the second copies: Dean and Barroso, "The Tail at Scale" (CACM 2013), hedged requests with a budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from agentsys.serving.scheduling.calls import Decision, Hedge, Move
from agentsys.serving.scheduling.in_flight import DispatchedCall, DispatchLimits
from agentsys.serving.scheduling.policy import Option
from agentsys.serving.scheduling.replicas import Expected, Replica, Resident

_LEAST_SAVED: Final = 1 / 3
_STRAGGLES: Final = 3.0
_FIRST_HEDGES: Final = 512.0  # tokens of second copies that need not be earned


class _Gain(NamedTuple):
    seconds: float
    entry: DispatchedCall
    resident: Resident
    option: Option


class Rebalancer:
    """Looks for work that an idle replica should take over, when nothing waits for it."""

    def __init__(
        self, replicas: Mapping[str, Replica], calls: Mapping[str, DispatchedCall], limits: DispatchLimits
    ) -> None:
        self._replicas = replicas
        self._calls = calls
        self._limits = limits
        self._tokens = self._hedged = 0.0

    def count(self, tokens: float) -> None:
        """Count what was started, of which second copies may make a share."""
        self._tokens += tokens

    def rebalance(self, now: float) -> list[Decision]:
        """Return at most one move or second copy for each replica that has a slot to spare."""
        decisions: list[Decision] = []
        for target in self._replicas.values():
            if target.up and target.free > 0:
                decision = self._hedge(target, now) or self._move(target, now)
                decisions += [decision] if decision is not None else []
        return decisions

    def _move(self, target: Replica, now: float) -> Move | None:
        if not self._limits.moves:
            return None
        best = max(self._gains(target, now), key=lambda gain: gain.seconds, default=None)
        if best is None or best.seconds <= 0:
            return None
        entry, source = best.entry, best.entry.at[0]
        resident = best.resident
        source.leave(entry.call.call_id)
        target.take(entry.call, entry.key, resident.expected_tokens, best.option, now)
        target.residents[entry.call.call_id].generated = resident.generated
        entry.at[0] = target
        entry.moves += 1
        return Move(entry.call.call_id, source.spec.name, target.spec.name, entry.key)

    def _gains(self, target: Replica, now: float) -> Iterator[_Gain]:
        for source in self._replicas.values():
            paused = source.paused() if source.free < 0 else set()
            for resident in source.residents.values():
                entry = self._calls[resident.call.call_id]
                movable = len(entry.at) == 1 and entry.moves < self._limits.moves and target.permits(entry.call)
                if source is target or not movable or (resident.generated and not entry.call.movable):
                    continue
                option = self._resumed(target, resident, now)
                stay = max(resident.ends - now, 0.0)
                if resident.call.call_id in paused:
                    stay += min((other.ends - now for other in source.residents.values()), default=0.0)
                saved = stay - option.finish
                yield _Gain(saved - max(self._limits.move_margin, _LEAST_SAVED * stay), entry, resident, option)

    def _resumed(self, target: Replica, resident: Resident, now: float) -> Option:
        """Return what it takes to compute the partial answer again at ``target``, and the rest of it."""
        left = max(resident.expected_tokens - resident.generated, 1.0)
        option = target.option(resident.call, resident.key, Expected(left), now)
        return replace(option, prefill=option.prefill + target.step_time.per_prefill * resident.generated)

    def _hedge(self, target: Replica, now: float) -> Hedge | None:
        for source in self._replicas.values():
            for resident in source.residents.values():
                entry = self._calls[resident.call.call_id]
                if source is target or resident.generated or len(entry.at) > 1 or not target.permits(entry.call):
                    continue
                expected = resident.first - resident.started
                late = now - resident.started > self._limits.hedge_after + _STRAGGLES * expected
                within = self._hedged + entry.tokens <= self._limits.hedge_share * self._tokens + _FIRST_HEDGES
                if late and within:
                    self._hedged += entry.tokens
                    option = target.option(entry.call, entry.key, Expected(entry.tokens), now)
                    target.take(entry.call, entry.key, entry.tokens, option, now)
                    entry.at.append(target)
                    return Hedge(entry.call.call_id, target.spec.name, entry.key)
        return None

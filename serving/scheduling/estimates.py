"""What calls are expected to take, and what they took."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final

from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.affinity import PrefixAffinity
from agentsys.serving.scheduling.calls import Call
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.replicas import Expected, Replica
from agentsys.serving.scheduling.stages import Demand

_TYPICAL_PROMPT, _TYPICAL_ANSWER = 512, 128
_WEIGHT: Final = 0.02  # of the newest call in the means of all


class Estimates:
    """Demands are in seconds of the fastest replica of the model, the reference."""

    def __init__(self, replicas: Sequence[Replica], lengths: OutputLengths) -> None:
        self._replicas = replicas
        self._lengths = lengths
        self._affinity = PrefixAffinity()
        self.reference = replicas[0]
        self.speed = 1.0
        self._speeds: dict[str, float] = {}
        self._prompt, self._answer = 0.0, 1.0
        self.refresh()

    def refresh(self) -> None:
        """Choose the reference anew, and say how many of it all replicas that are up amount to."""
        up = [replica for replica in self._replicas if replica.up] or list(self._replicas)
        self.reference = min(up, key=lambda replica: replica.alone(_TYPICAL_PROMPT, _TYPICAL_ANSWER))
        work = self.reference.share(_TYPICAL_PROMPT, _TYPICAL_ANSWER)
        self._speeds = {
            replica.spec.name: work / max(replica.share(_TYPICAL_PROMPT, _TYPICAL_ANSWER), 1e-9) for replica in up
        }
        self.speed = sum(self._speeds.values())

    def part(self, replica: Replica) -> float:
        """Return the part of all work that a replica can do."""
        return self._speeds.get(replica.spec.name, 0.0) / self.speed

    def tokens(self, call: Call, generated: int = 0) -> float:
        """Return how long the answer is expected to be."""
        return self._lengths.expected(_stage(call), call.most_tokens, generated)

    def demand(self, call: Call, tokens: float, cached: float = 0.0) -> Demand:
        """Return what a call with an answer of ``tokens`` takes, of whose prompt the share ``cached`` is there."""
        prompt = call.prompt_tokens * (1 - cached)
        return Demand(self.reference.alone(prompt, tokens), self.reference.share(prompt, tokens))

    def at(self, call: Call, replica: Replica, tokens: float) -> Expected:
        """Return what is expected of a call with an answer of ``tokens`` at a replica."""
        cached = self._affinity.share(replica.spec.name, _prefixes(call), _stage(call))
        return Expected(tokens, cached, self._prompt / self._answer)

    def learn(self, call: Call, replica: Replica, usage: Usage) -> Demand:
        """Learn from a call that has ended; returns what it took."""
        self._lengths.add(_stage(call), usage.completion_tokens)
        # The call's own count is a guess by characters, and a prompt has no fewer tokens than were cached of it.
        prompt = max(usage.prompt_tokens or call.prompt_tokens, usage.cached_tokens, 1)
        self._prompt += _WEIGHT * (prompt - usage.cached_tokens - self._prompt)
        self._answer += _WEIGHT * (max(usage.completion_tokens, 1) - self._answer)
        self._affinity.ran(replica.spec.name, _prefixes(call), _stage(call), prompt, usage.cached_tokens)
        return self.demand(call, usage.completion_tokens, usage.cached_tokens / prompt)


def _prefixes(call: Call) -> Hashable:
    """Return whose cached prefixes a call may find: keys and values of one adapter are of no use to another."""
    return call.domain, call.adapter, call.place.workflow


def _stage(call: Call) -> tuple[str, str]:
    return call.place.kind, call.place.stage

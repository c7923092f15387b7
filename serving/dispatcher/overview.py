"""Several replicas seen as one engine, and each by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from agentsys.serving.dispatcher.replica import Replica
from agentsys.serving.engine import Capabilities, EngineStats


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """How a replica does. ``state`` is its circuit breaker's; ``error`` is why it was last taken out of use.

    ``audience`` are the principals that learn its prompts, ``None`` for everyone.
    """

    name: str
    state: str
    in_flight: int
    slots: int
    answered: int
    failed: int
    error: str | None
    audience: tuple[str, ...] | None


def replica_view(one: Replica) -> ReplicaView:
    """Return how ``one`` does."""
    members = one.audience.members
    return ReplicaView(
        name=one.name,
        state=str(one.breaker.state),
        in_flight=one.in_flight,
        slots=one.spec().slots,
        answered=one.answered,
        failed=one.failed,
        error=None if one.error is None else str(one.error),
        audience=None if members is None else tuple(sorted(members)),
    )


def combined(every: Sequence[Capabilities]) -> Capabilities:
    """Return what all of ``every`` can do; of a single one, what it says itself.

    Order by κ and its change are the dispatcher's own.
    """
    first, *others = every
    if not others:
        return first
    return replace(
        first,
        context_length=min(one.context_length for one in every),
        constraints=frozenset.intersection(*(one.constraints for one in every)),
        priority=True,
        rekey=True,
        preemption=any(one.preemption for one in every),
        speculation=any(one.speculation for one in every),
        batch_invariant=all(one.batch_invariant for one in every),
        logprobs=all(one.logprobs for one in every),
        embeddings=all(one.embeddings for one in every),
        adapters=frozenset.union(*(one.adapters for one in every)),
    )


def total(every: Iterable[EngineStats], *, waiting: int) -> EngineStats:
    """Return the sum of ``every``, with ``waiting`` more calls that none of them has yet."""
    summed = EngineStats(waiting=waiting)
    for stats in every:
        sums = {one.name: getattr(summed, one.name) + getattr(stats, one.name) for one in fields(EngineStats)}
        summed = EngineStats(**sums)
    return summed

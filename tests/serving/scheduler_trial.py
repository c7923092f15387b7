"""Drives the torch engine's scheduler as a simulator does, without a model, and checks every step of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentsys.blackboard.labels import PUBLIC, Readers
from agentsys.serving.scheduling.step_time import StepTime, prefill_chunk
from agentsys.serving.torch_engine.block_pool import domain_digest
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.scheduler import Scheduler, Work
from agentsys.serving.torch_engine.sequence import SequenceState

LIMITS = SchedulerLimits(num_blocks=12, block_size=4, context_length=40, max_batch=3, max_step_tokens=10)
STEP_TIME = StepTime(base=0.02, per_prefill=0.002, per_sequence=0.005, per_context=1e-5)


def sequence(
    name: str,
    length: int,
    *,
    new: int = 4,
    urgency: float = 0.0,
    arrival: int = 0,
    readers: Readers = PUBLIC,
    seed: int = 0,
) -> SequenceState:
    tokens = [seed + index for index in range(length)]
    return SequenceState(name, tokens, length, length + new, urgency, arrival, domain_digest(readers))


def names(works: list[Work]) -> list[str]:
    return [work.sequence.request_id for work in works]


def run_step(scheduler: Scheduler, works: list[Work], accepted: int = 0) -> list[str]:
    """Commit a step in which every completing work gets ``accepted`` drafted tokens and one more; return the ended."""
    ended = []
    for work in works:
        new = [*work.draft[:accepted], 7][: work.sequence.limit - len(work.sequence.tokens)] if work.completes else []
        scheduler.commit(work, new)
        if len(work.sequence.tokens) >= work.sequence.limit:
            scheduler.remove(work.sequence)
            ended.append(work.sequence.request_id)
    return ended


def drain(scheduler: Scheduler, most: int = 500) -> list[str]:
    ended: list[str] = []
    for _ in range(most):
        works = scheduler.schedule()
        if not works:
            return ended
        ended += run_step(scheduler, works)
    raise AssertionError("the scheduler never came to an end")


@dataclass
class Held:
    """What the trial itself saw of a slot's holder: tokens or steps since it got the slot, times it lost one."""

    turn: int = 0
    lost: int = 0


@dataclass
class Trial:
    """Random arrivals, aborts, re-keys and answers; ``step`` raises ``AssertionError`` if an invariant breaks."""

    chance: random.Random
    scheduler: Scheduler
    alive: dict[str, SequenceState] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    seen: dict[str, Held] = field(default_factory=dict)
    holders: set[str] = field(default_factory=set)
    arrivals: int = 0
    now: float = 0.0

    def arrive(self) -> None:
        name = f"r{self.arrivals}"
        new = sequence(
            name,
            self.chance.randint(1, 30),
            new=self.chance.randint(1, 9),
            urgency=self.now + self.chance.choice([-1.0, 0.0, 0.05, 0.3, 1.0, 2.0]),
            arrival=self.arrivals,
            readers=self.chance.choice([PUBLIC, Readers.of("a"), Readers.of("b")]),
            seed=self.chance.choice([0, 50]),
        )
        self.arrivals += 1
        self.scheduler.add(new)
        self.alive[name] = new
        self.seen[name] = Held()

    def abort(self) -> str:
        name = self.chance.choice(sorted(self.alive))
        self.scheduler.remove(self.alive.pop(name))
        return name

    def rekey(self) -> None:
        name = self.chance.choice(sorted(self.alive))
        self.scheduler.rekey(name, self.now + self.chance.uniform(-1.0, 2.0))

    def step(self) -> None:
        works = self.scheduler.schedule(self._draft, now=self.now)
        self._check_order(works)
        self._check_preemptions()
        self._check_work(works)
        self._check_blocks()
        lengths = {name: len(item.tokens) for name, item in self.alive.items()}
        for name in run_step(self.scheduler, works, accepted=self.chance.randint(0, 3)):
            self.finished.add(name)
            del self.alive[name]
        for work in works:
            held = self.seen[work.sequence.request_id]
            held.turn += max(len(work.sequence.tokens) - lengths[work.sequence.request_id], 1)
        self.now += STEP_TIME.seconds(sum(work.count for work in works), 0, 0)

    def _draft(self, _sequence: SequenceState, _rows: int, limit: int) -> list[int]:
        return [7] * self.chance.randint(0, limit + 2)

    def _check_order(self, works: Sequence[Work]) -> None:
        if not self.alive:
            assert not works
            return
        holders = [item for name, item in self.alive.items() if self.scheduler.holds_slot(name)]
        assert 0 < len(holders) <= self.scheduler.limits.max_batch
        first = min(holders, key=lambda item: item.key)
        assert works and works[0].sequence is first, "the smallest key with a slot always advances"
        smallest = min(self.alive.values(), key=lambda item: item.key)
        if smallest is not first:
            kept = all(self._protected(holder, smallest) for holder in holders)
            assert kept, "the smallest key waits although a holder may be preempted"
        assert [work.sequence.key for work in works] == sorted(work.sequence.key for work in works)

    def _check_preemptions(self) -> None:
        holders = {name for name in self.alive if self.scheduler.holds_slot(name)}
        arrived = [self.alive[name] for name in holders - self.holders]
        for name in (self.holders - holders) & set(self.alive):
            loser, held, limits = self.alive[name], self.seen[name], self.scheduler.limits
            gaps = [loser.key[0] - other.key[0] for other in arrived]
            assert gaps and max(gaps) > limits.preemption_margin, "a slot changed hands for less than the margin"
            if held.turn:
                assert held.turn >= limits.preemption_quantum, "a slot changed hands within the quantum"
                held.lost += 1
            assert held.lost <= limits.max_preemptions, "preempted too often"
        for new in arrived:
            self.seen[new.request_id].turn = 0
        self.holders = holders

    def _protected(self, holder: SequenceState, challenger: SequenceState) -> bool:
        limits, held = self.scheduler.limits, self.seen[holder.request_id]
        if holder.key[0] - challenger.key[0] <= limits.preemption_margin:
            return True
        fresh = holder.request_id not in self.holders
        turn = 0 if fresh else held.turn
        return turn > 0 and (turn < limits.preemption_quantum or held.lost >= limits.max_preemptions)

    def _check_work(self, works: Sequence[Work]) -> None:
        limits = self.scheduler.limits
        assert sum(work.count + len(work.draft) for work in works) <= limits.max_step_tokens
        behind = 0
        for index, work in enumerate(works):
            end = work.start + work.count + len(work.draft)
            assert end <= len(work.sequence.blocks) * limits.block_size
            assert len(work.sequence.tokens) + len(work.draft) + 1 <= work.sequence.limit
            if not work.sequence.is_decoding and any(other.sequence.is_decoding for other in works[:index]):
                behind += work.count
        share = prefill_chunk(limits.prefill_chunk, limits.prefill_steps, self.scheduler.step_time)
        assert behind <= share, "prefills behind a decode took more than their share"

    def _check_blocks(self) -> None:
        limits, pool = self.scheduler.limits, self.scheduler.pool
        owners: dict[int, set[bytes]] = {}
        for item in self.alive.values():
            assert len(set(item.blocks)) == len(item.blocks)
            for block in item.blocks:
                owners.setdefault(block, set()).add(item.domain)
        assert len(owners) == pool.owned, "a block is owned by nobody alive"
        assert pool.owned + pool.available == limits.num_blocks
        assert all(len(domains) == 1 for domains in owners.values()), "a block is shared across readers"


def run_trial(scheduler: Scheduler, seed: int, arrivals: int) -> Trial:
    """Run a random load to its end; raises ``AssertionError`` where an invariant breaks or it never ends."""
    trial = Trial(random.Random(seed), scheduler)
    aborted: set[str] = set()
    for _ in range(200 * (arrivals + 1)):
        if trial.arrivals < arrivals and trial.chance.random() < 0.5:
            trial.arrive()
        if trial.alive and trial.chance.random() < 0.05:
            aborted.add(trial.abort())
        if trial.alive and trial.chance.random() < 0.1:
            trial.rekey()
        trial.step()
        if trial.arrivals == arrivals and not trial.alive:
            break
    assert len(trial.finished | aborted) == arrivals, "not every sequence came to an end"
    assert scheduler.pool.owned == 0
    return trial

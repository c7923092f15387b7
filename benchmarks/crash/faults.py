"""What is wrong with a board after its processes were killed, given what had been acknowledged and done outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectClass, EffectState
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import BoardError


def find_faults(board: Board, acknowledged: Sequence[Sequence[Any]], done: Sequence[str]) -> list[str]:
    """Return every fault of ``board``. ``acknowledged``: the clients' lines; ``done``: the marks on the world."""
    found = []
    try:
        board.verify()
    except BoardError as error:
        found.append(f"the chain is broken: {error}")
    commits = {item[2]: item[1] for item in acknowledged if item[0] == "commit"}
    outcomes = {item[1]: item[2] for item in acknowledged if item[0] == "effect"}
    found += losses(commits, board.log())
    found += halves(*({entry.key: entry.value for entry in board.query(Predicate(topic=t))} for t in ("left", "right")))
    found += gaps([entry.key for entry in board.query(Predicate(topic="all"))])
    found += wrong_effects(board.effects(), outcomes, done)
    return found


def losses(acknowledged: dict[str, int], log: Iterable[Commit]) -> Iterator[str]:
    """Yield the acknowledged commits (transaction to sequence number) that the log has not, or has elsewhere."""
    stored = {commit.tx_id: commit.seq for commit in log}
    for tx_id, seq in acknowledged.items():
        if stored.get(tx_id) != seq:
            yield f"commit {seq} was acknowledged and is lost: the log has {stored.get(tx_id)}"


def halves(left: dict[str, Any], right: dict[str, Any]) -> Iterator[str]:
    """Yield the writers of whom one of two writes of a transaction is there without the other."""
    for name in left.keys() | right.keys():
        if left.get(name) != right.get(name):
            yield f"half a commit of {name}: {left.get(name)} and {right.get(name)}"


def gaps(keys: Iterable[str]) -> Iterator[str]:
    """Yield the writers whose entries are not numbered from 1 without a gap."""
    numbers: dict[str, list[int]] = {}
    for key in keys:
        name, number = key.split("/")
        numbers.setdefault(name, []).append(int(number))
    for name, found in numbers.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"{name} lacks some of its {len(found)} entries"


def wrong_effects(effects: Sequence[Effect], outcomes: dict[str, str], done: Iterable[str]) -> Iterator[str]:
    """Yield effects done twice, done without being begun on record, lost again, or left without an outcome."""
    times = Counter(done)
    for effect in effects:
        count, kind, state = times.pop(effect.id, 0), effect.intent.effect_class, effect.state
        if count > 1 and kind is not EffectClass.IDEMPOTENT:
            yield f"{kind} effect {effect.id} was done {count} times"
        if count and state in (EffectState.INTENDED, EffectState.FAILED):
            yield f"effect {effect.id} was done and is {state}"
        if not count and state is EffectState.SUCCEEDED:
            yield f"effect {effect.id} was not done and is {state}"
        if state is EffectState.STARTED:
            yield f"effect {effect.id} was begun by the dead and is neither resolved nor in doubt"
        if outcomes.get(effect.id, state) != state:
            yield f"effect {effect.id} was acknowledged as {outcomes[effect.id]} and is {state}"
    for mark in times:
        yield f"effect {mark} was done and is not on record"

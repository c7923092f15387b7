"""Violations of every kind, to be planted in a history: a checker that does not find one proves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from agentsys.benchmarks.isolation.histories import ListTransaction, Operation, Outcome
from agentsys.benchmarks.isolation.predicate_reads import PredicateTransaction, SetRead, evaluate_at
from agentsys.blackboard.commits import Commit

Script: TypeAlias = Sequence[tuple[int, Outcome, str]]
"""Process, outcome and operations of each transaction: ``+x1`` appends 1 to x, ``x:12`` reads [1, 2] of it."""

LIST_VIOLATIONS: Final[Mapping[str, Script]] = {
    "G0": [(1, "ok", "+x1 +y1"), (2, "ok", "+x2 +y2"), (3, "ok", "x:12 y:21")],
    "G1a": [(1, "fail", "+x1"), (2, "ok", "x:1")],
    "G1b": [(1, "ok", "+x1 +x2"), (2, "ok", "x:1"), (3, "ok", "x:12")],
    "G1c": [(1, "ok", "+x1 y:2"), (2, "ok", "+y2 x:1"), (3, "ok", "x:1 y:2")],
    "G-single": [(1, "ok", "x: y:1"), (2, "ok", "+x1 +y1"), (3, "ok", "x:1")],
    "G-nonadjacent": [(1, "ok", "+x1"), (2, "ok", "+y1"), (3, "ok", "x:1 y:"), (4, "ok", "x: y:1")],
    "G-single-process": [(1, "ok", "+x1"), (1, "ok", "x:"), (2, "ok", "x:1")],
    "G2": [(1, "ok", "x: +y1"), (2, "ok", "y: +x1"), (3, "ok", "x:1 y:1")],
    "G2-process": [(1, "ok", "+y1"), (1, "ok", "x:"), (2, "ok", "y: +x1"), (3, "ok", "x:1 y:1")],
    "duplicate-elements": [(1, "ok", "+x1"), (2, "ok", "x:11")],
    "garbage-read": [(1, "ok", "x:9")],
    "incompatible-order": [(1, "ok", "+x1"), (2, "ok", "+x2"), (3, "ok", "x:12"), (4, "ok", "x:2")],
    "internal": [(1, "ok", "+x1 x:")],
    "lost-append": [(1, "ok", "+x1"), (1, "ok", "x:")],
}

PREDICATE_VIOLATIONS: Final = ("wrong-read", "phantom", "lost-commit")


def list_transactions(script: Script, *, at: int = 0, process: int = 0) -> list[ListTransaction]:
    """Return the history of ``script``, begun at time ``at`` (ns) by processes counted from ``process``.

    The transactions of different processes overlap.
    """
    done: list[ListTransaction] = []
    for place, (client, outcome, text) in enumerate(script):
        operations = tuple(_operation(word, f"planted-{at}-") for word in text.split(" "))
        goes_on = any(later == client for later, _, _ in script[place + 1 :])
        ended = at + place if goes_on else at + len(script)
        done.append(ListTransaction(process + client, outcome, operations, at + place, ended))
    return done


def _operation(word: str, prefix: str) -> Operation:
    if word.startswith("+"):
        return Operation("append", prefix + word[1], int(word[2]))
    return Operation("r", prefix + word[0], tuple(map(int, word[2:])))


def with_violation(
    kind: str, log: Sequence[Commit], transactions: Sequence[PredicateTransaction]
) -> list[PredicateTransaction]:
    """Return ``transactions`` with one of them changed into the violation ``kind``.

    Raises ``StopIteration`` where none is suited: one that others overtook between its snapshot and its commit.
    """
    changed = list(transactions)
    place, item, seq = next(
        (place, item, item.seq)
        for place, item in enumerate(transactions)
        if item.seq and any(commit.writes for commit in log[item.snapshot : item.seq - 1])
    )
    everything = evaluate_at(log, item.snapshot, {})
    if kind == "lost-commit":
        changed[place] = replace(item, seq=seq + 10**9)
    elif kind == "wrong-read":
        changed[place] = replace(item, reads=(SetRead({}, everything | {("nowhere", "x", 1)}),))
    else:
        changed[place] = replace(item, reads=(SetRead({}, everything),))
    return changed

"""Faults of what is kept: entries, answers, steps, memory and decisions that lose the label they were given."""

from __future__ import annotations

from dataclasses import replace as altered
from typing import Any

from agentsys import actors, forks, recording, runtime
from agentsys.benchmarks.ifc.attacks.weakenings import changed, plain, weakening
from agentsys.blackboard import memo
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.board_access import BoardAccess
from agentsys.decisions import DecisionRecord
from agentsys.journal import Mode
from agentsys.langgraph import saver, store
from agentsys.runtime import Runtime
from agentsys.workspace import Workspace

OWN = Label.trusted()


@weakening("what an actor writes is stored as the owner's")
def _(replace: Any) -> None:
    original = plain(Workspace, "put")
    replace(Workspace, "put", lambda self, *given, label, **named: original(self, *given, label=OWN, **named))


@weakening("labels given to a write are believed")
def _(replace: Any) -> None:
    def put(self: Any, topic: str, key: str, value: Any, *, type: str, label: Label | None = None) -> None:
        plainly, labels = self._unwrap(value)
        self._workspace.transaction._label = None
        self._workspace.put(topic, key, plainly, type=type, label=label or self._label.join(*labels))

    replace(BoardAccess, "put", put)


@weakening("what an actor merges is stored as the owner's")
def _(replace: Any) -> None:
    original = plain(Workspace, "merge")
    replace(Workspace, "merge", lambda self, *given, label, **named: original(self, *given, label=OWN, **named))


@weakening("an answer forgets the labels of its parts")
def _(replace: Any) -> None:
    replace(actors, "unwrap", changed(actors, "unwrap", lambda parts: (parts[0], [])))


@weakening("every input counts as the owner's")
def _(replace: Any) -> None:
    original = plain(Runtime, "_record")
    replace(
        Runtime,
        "_record",
        lambda self, workflow, value, label, *rest: original(self, workflow, value, None, *rest),
    )


@weakening("persistence inside a run delivers nothing")
def _(replace: Any) -> None:
    for module in (store, saver):
        replace(module, "deliver", lambda label, read=(): None)
        replace(module, "deliver_search", lambda board, predicate, at: None)


@weakening("persistence inside a run keeps its own label")
def _(replace: Any) -> None:
    for module in (store, saver):
        replace(module, "raised", lambda label: label)


@weakening("a fork copies steps as the owner's")
def _(replace: Any) -> None:
    def copy(board: Any, source: str, target: str, at: int, transaction: Any) -> None:
        original = transaction.put
        transaction.put = lambda *given, **named: original(*given, **{**named, "label": OWN})
        forks.copy_steps(board, source, target, at, transaction)
        transaction.put = original

    replace(runtime, "copy_steps", copy)


@weakening("remembered answers carry no label")
def _(replace: Any) -> None:
    def bare(found: Any) -> Any:
        return altered(found, label=BOTTOM) if isinstance(found, memo.Remembered) else found

    replace(memo.Memo, "find_or_claim", changed(memo.Memo, "find_or_claim", bare))


@weakening("memory ignores the label")
def _(replace: Any) -> None:
    original, find = plain(memo.Memo, "key"), plain(memo.Memo, "find_or_claim")
    replace(memo.Memo, "key", lambda self, question: original(self, altered(question, label=OWN)))

    def bare(found: Any) -> Any:
        return altered(found, label=BOTTOM) if isinstance(found, memo.Remembered) else found

    replace(memo.Memo, "find_or_claim", lambda self, *given: bare(find(self, *given)))


@weakening("a replay acts")
def _(replace: Any) -> None:
    original = plain(Runtime, "_scope")
    replace(Runtime, "_scope", lambda self, record, listener, mode: original(self, record, listener, Mode.LIVE))


@weakening("decisions are not put on record")
def _(replace: Any) -> None:
    replace(DecisionRecord, "write", lambda self, *given: None)


@weakening("only what was allowed is put on record")
def _(replace: Any) -> None:
    original = plain(DecisionRecord, "write")
    replace(DecisionRecord, "write", lambda self, *given: original(self, *given) if self.allowed else None)


@weakening("decisions are put on record without a label")
def _(replace: Any) -> None:
    original = plain(DecisionRecord, "write")
    replace(DecisionRecord, "write", lambda self, transaction, run, key, _: original(self, transaction, run, key, OWN))


@weakening("a context works on after its end")
def _(replace: Any) -> None:
    replace(recording.Recording, "close", lambda self: None)


@weakening("nothing is charged")
def _(replace: Any) -> None:
    replace(recording, "spend", lambda transaction, charges: None)

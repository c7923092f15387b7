"""P7: no label is lost on the way: through expansion, copies, JSON, savers, exports, backups, replay, forks, memory."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from pydantic import BaseModel

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.copies import back_up, export_board, import_board, restore
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import PUBLIC, Label, join_all
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.handles import Handle, Hidden
from agentsys.labelled import Labelled, unwrap, unwrap_arguments
from agentsys.langgraph.saver import BlackboardSaver
from agentsys.langgraph.store import BlackboardStore
from tests.ifc.checking import holds, is_violated
from tests.ifc.programs import contents, perform, programs
from tests.ifc.strategies import labels
from tests.ifc.world import MAIL, World


@dataclass
class Wrapped:
    inner: Any


class Model(BaseModel):
    inner: Any


WRAPPINGS: list[Callable[[Any], Any]] = [
    lambda value: [value],
    lambda value: (value, 1),
    lambda value: {"k": value},
    lambda value: {"k": [{"deep": (value,)}]},
    lambda value: Wrapped(value),
    lambda value: Model(inner=value),
    lambda value: Labelled(value, Label(frozenset(), PUBLIC, 0.0)),
    lambda value: {"a": Wrapped([Model(inner=value)])},
    copy.copy,
    copy.deepcopy,
]


def expanded(label: Label, other: Label, ways: list[int], hidden: bool) -> None:
    """Whatever a labelled value is put into, its label is found again, and joined with the others'."""
    value: Any = Handle("$1", Hidden("x", label)) if hidden else Labelled("x", label)
    for way in ways:
        # Handles cannot be copied into something else that could be looked at, and need not be.
        value = WRAPPINGS[way](value) if not (hidden and way >= len(WRAPPINGS) - 2) else value
    _, found = unwrap({"one": value, "two": Labelled(1, other)})
    assert label.flows_to(join_all(found)) and other.flows_to(join_all(found)), "a label is lost"
    named = unwrap_arguments({"one": value, "two": Labelled(1, other), "three": 3}).labels
    assert label.flows_to(named["one"]) and set(named) == {"one", "two"}


EXPANDED = {
    "label": labels,
    "other": labels,
    "ways": st.lists(st.integers(0, len(WRAPPINGS) - 1), max_size=3),
    "hidden": st.booleans(),
}


def test_a_label_survives_every_expansion_and_copy() -> None:
    holds(expanded, examples=300, **EXPANDED)


def test_an_expansion_that_forgets_lists_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = unwrap

    def forgetting(value: Any) -> Any:
        plain, found = right(value)
        return plain, found[:1]

    monkeypatch.setattr("tests.ifc.test_p07_no_label_loss.unwrap", forgetting)
    is_violated(expanded, **EXPANDED)


def in_json(label: Label) -> None:
    assert Label.from_json(json.loads(json.dumps(label.to_json()))) == label
    assert copy.deepcopy(label) == label


def test_a_label_survives_json_and_copies() -> None:
    holds(in_json, label=labels)


def written(location: str, every: list[Label]) -> None:
    with Board.open(location) as board:
        for number, label in enumerate(every):
            transaction = board.begin("x")
            transaction.put("t", f"k{number}", {"n": number}, type="item", label=label)
            board.commit(transaction)


def read(location: str) -> list[Label]:
    with Board.open_read_only(location) as board:
        assert board.verify() == board.head
        entries = board.query(Predicate(topic="t"))
        return [entry.label for entry in sorted(entries, key=lambda entry: int(entry.key[1:]))]


def copied(every: list[Label], folder: Path) -> None:
    here, there, saved = (str(folder / f"{len(list(folder.iterdir()))}-{name}.db") for name in ("a", "b", "c"))
    written(here, every)
    dump = Path(there + ".jsonl")
    export_board(here, dump, lambda *_: None)
    import_board(dump, there, lambda *_: None)
    back_up(here, Path(saved + ".backup"), lambda *_: None)
    restore(Path(saved + ".backup"), saved, lambda *_: None)
    assert read(here) == read(there) == read(saved) == every


def test_labels_survive_storing_exports_imports_and_backups(tmp_path: Path) -> None:
    holds(lambda every: copied(every, tmp_path), examples=4, every=st.lists(labels, min_size=1, max_size=6))


def test_an_export_that_lowers_a_label_is_refused(tmp_path: Path) -> None:
    written(str(tmp_path / "a.db"), [MAIL, Label()])
    dump = tmp_path / "a.jsonl"
    export_board(str(tmp_path / "a.db"), dump, lambda *_: None)
    text = dump.read_text()
    assert '"mail"' in text or "mail" in text
    dump.write_text(text.replace('["mail"]', '["user:owner"]').replace('[\\"mail\\"]', '[\\"user:owner\\"]'))
    assert dump.read_text() != text
    with pytest.raises(Exception, match="AGS-"):
        import_board(dump, str(tmp_path / "b.db"), lambda *_: None)
        read(str(tmp_path / "b.db"))


def rolled_back(label: Label) -> None:
    """What was read before a savepoint was rolled back to keeps shaping what is written after it."""
    with Board.open(":memory:") as board:
        first = board.begin("x")
        first.put("t", "secret", 1, type="item", label=label)
        board.commit(first)
        second = board.begin("x")
        mark = second.savepoint()
        second.get("t", "secret")
        second.put("t", "copy", 1, type="item")
        second.rollback_to(mark)
        second.put("t", "other", 2, type="item")
        board.commit(second)
        other = board.get("t", "other")
        assert other is not None and label.flows_to(other.label)


def test_a_rollback_forgets_nothing_that_was_read() -> None:
    holds(rolled_back, examples=40, label=labels)


def steps_of(board: Board, run: str) -> list[Entry]:
    found = board.query(Predicate(topic=topics.steps(run)))
    return sorted(found, key=lambda entry: entry.key)


def test_a_fork_takes_the_labels_over(board: Board) -> None:
    world = World()

    async def main(context: Context, _: Any) -> Any:
        mail = await context.call_hidden("read_mail")
        chosen = await context.endorse(mail[0]["sender"], "contact")
        shown = await context.call("browse")
        return [chosen.label.to_json(), shown.label.to_json(), context.label.to_json()]

    async def both() -> list[Any]:
        runtime = world.runtime(board)
        first = await runtime.run(main, run_id="first")
        forked = await runtime.fork("first", main, at=board.head, run_id="second")
        replayed = await runtime.replay("second", main)
        assert replayed.identical, replayed.divergence
        return [first, forked]

    first, forked = asyncio.run(both())
    assert (first.value, first.label) == (forked.value, forked.label)
    labels_of = [[entry.label for entry in steps_of(board, run)] for run in ("first", "second")]
    assert labels_of[0] == labels_of[1]


def test_replays_come_to_the_same_labels() -> None:
    """Each program is replayed from its record alone, and ends with the label that it had."""

    def replayed(program: list[Any], world: dict[str, Any]) -> None:
        perform(program, **world)

    holds(replayed, examples=15, program=programs, world=contents())


def checkpoint(value: Any) -> Any:
    return {**empty_checkpoint(), "id": str(uuid6()), "channel_values": {"n": value}, "channel_versions": {"n": 1}}


def test_checkpoints_and_stores_keep_the_label_that_they_are_written_under(board: Board) -> None:
    label = Label.trusted().join(MAIL)
    saver = BlackboardSaver(board, label=label)
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    saver.put(config, checkpoint("x"), {"source": "loop", "step": 1}, {"n": 1})
    store = BlackboardStore(board, label=label)
    store.put(("notes",), "k", {"text": "x"})
    entries = [entry for commit in board.log() for entry in commit.writes]
    assert entries
    assert all(label.flows_to(entry.label) for entry in entries if not entry.deleted)

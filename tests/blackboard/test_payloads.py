"""Large values: stored once in each compartment, read everywhere as if they were small, verified, and dropped last."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.labels import PUBLIC, Label, Readers
from agentsys.blackboard.payloads import LARGE, payload_id
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.recent import RecentHeads
from agentsys.blackboard.schema import ENTRIES, PAYLOADS
from agentsys.blackboard.storage import BoardCorrupt, ChainBroken

ANN, BOB = Label.trusted("user:ann"), Label.trusted("user:bob")
BIG = "b" * LARGE


def put(board: Board, key: str, value: Any, label: Label = ANN) -> None:
    tx = board.begin("user:ann")
    tx.put("notes", key, value, type="note", label=label)
    board.commit(tx)


def stored(board: Board) -> list[str]:
    return [row.id for row in board.select(select(PAYLOADS.c.id))]


def apart(board: Board) -> int:
    return int(board.select(select(func.count(ENTRIES.c.payload)))[0][0])


def test_equal_values_are_stored_once_in_a_compartment_and_never_across(board: Board) -> None:
    for key in "abc":
        put(board, key, BIG)
    put(board, "d", BIG, BOB)
    put(board, "e", BIG, Label.trusted("user:ann", PUBLIC))
    put(board, "f", BIG, Label(frozenset({"user:ann", "external"}), Readers.of("user:ann")))
    # How much a value can say shapes neither who made it nor who reads it.
    put(board, "g", BIG, Label(frozenset({"user:ann"}), Readers.of("user:ann"), 8.0))
    assert len(stored(board)) == 4 and apart(board) == 7
    assert len({name.partition(":")[2] for name in stored(board)}) == 1
    assert board.verify() == 7


def test_only_large_values_are_stored_apart(board: Board) -> None:
    text = "x" * (LARGE - 3)
    put(board, "small", text)
    put(board, "none", None)
    assert stored(board) == []
    put(board, "large", text + "x")
    assert stored(board) == [payload_id(ANN, f'"{text}x"')]


def test_a_large_value_reads_like_any_other(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing comes from the writer's memory.
    monkeypatch.setattr(RecentHeads, "get", lambda self, key: None)
    first, second = {"text": BIG, "n": 1}, [BIG, 2]
    put(board, "k", first)
    reader = board.begin("user:ann")
    assert [entry.value for entry in reader.query(Predicate(equals={"n": 1}))] == [first]
    put(board, "k", second)
    assert board.get("notes", "k").value == second and board.get("notes", "k", at=1).value == first
    assert [entry.value for entry in board.query(Predicate(topic="notes"), at=1)] == [first]
    assert [entry.value for entry in board.history("notes", "k")] == [first, second]
    assert [entry.value for commit in board.log() for entry in commit.writes] == [first, second]
    reader.put("notes", "other", 1, type="note")
    with pytest.raises(Exception, match="AGS-0210") as lost:
        board.commit(reader)
    assert lost.value.items[0].old.value == first and lost.value.items[0].new.value == second
    tx = board.begin("user:ann")
    tx.delete("notes", "k")
    board.commit(tx)
    assert board.get("notes", "k") is None and board.query(Predicate()) == [] and board.verify() == 3


def test_a_payload_goes_with_the_last_version_that_names_it(board: Board) -> None:
    for value in (BIG, BIG + "1", 1):
        put(board, "k", value)
    put(board, "other", BIG)
    board.compact(Keep())
    assert stored(board) == [payload_id(ANN, f'"{BIG}"')] and board.verify() == 5
    put(board, "other", BIG + "1")
    put(board, "again", BIG + "1")
    board.compact(Keep())
    assert stored(board) == [payload_id(ANN, f'"{BIG}1"')] and board.verify() == board.head
    assert board.get("notes", "again").value == BIG + "1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        for number in range(3):
            put(board, "k", f"{BIG}{number}")
            put(board, "stays", f"{BIG}stays")
        board.compact(Keep(commits=1))
        put(board, "later", f"{BIG}later")
        assert board.verify() == 8
    return path


@pytest.mark.parametrize(
    ("alteration", "fault"),
    [
        ("DELETE FROM payload WHERE text LIKE '%stays\"'", "a value that commit 4 wrote is missing"),
        ("DELETE FROM payload WHERE text LIKE '%later\"'", "missing"),
        ("UPDATE payload SET text = replace(text, 'stays', 'other')", "was altered"),
        ("UPDATE entry_version SET payload = NULL, value = '1' WHERE key = 'stays'", "not what a compaction kept"),
        ("UPDATE entry_version SET payload = NULL, value = '1' WHERE key = 'later'", "not what was committed"),
        (
            "UPDATE entry_version SET payload = (SELECT payload FROM entry_version WHERE key = 'later') "
            "WHERE key = 'stays'",
            "not what a compaction kept",
        ),
    ],
)
def test_verification_finds_a_missing_and_an_altered_payload(path: Path, alteration: str, fault: str) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(alteration).rowcount > 0
    connection.close()
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken, match=fault):
        board.verify()


def test_a_missing_value_is_never_read_as_something_else(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM payload")
    connection.close()
    with Board.open_read_only(path) as board:
        for read in (lambda: board.get("notes", "k"), lambda: board.query(Predicate()), lambda: board.log()):
            with pytest.raises(BoardCorrupt, match=r"value of notes/\w+, version \d, is missing"):
                read()

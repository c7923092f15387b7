"""What is erased is gone from every version and from the file, and the log still proves the rest."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard import erasure, upkeep, verification
from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.copies import export_board, import_board
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.erasure import erase, find
from agentsys.blackboard.labels import Label
from agentsys.blackboard.payloads import is_erased, text_digest
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import BoardModel
from agentsys.blackboard.storage import ChainBroken
from agentsys.blackboard.upkeep import EraseValues
from agentsys.blackboard.verification import ERASURES, erased_values

SECRET = "ann lives in the third house"
LARGE = SECRET + "x" * 5_000


def put(board: Board, key: str, value: Json, *, topic: str = "people", reads: str | None = None) -> Entry:
    tx = board.begin("user:ann")
    if reads is not None:
        tx.get("people", reads)
    tx.put(topic, key, value, type="person", label=None)
    return board.commit(tx).writes[0]


def held(board: Board) -> str:
    """Return all texts that the board's tables hold."""
    rows = [row for table in BoardModel.metadata.sorted_tables for row in board.select(table.select())]
    return repr(rows)


@pytest.mark.parametrize("value", [SECRET, LARGE], ids=["small", "large"])
def test_every_version_goes_and_the_log_proves_the_rest(board: Board, value: str) -> None:
    put(board, "ann", value)
    put(board, "ann", f"moved: {value}")
    put(board, "bob", "stays")
    hashes = [commit.hash for commit in board.log()]
    erased = board.erase([("people", "ann")], "she asked for it")
    assert (erased.seq, erased.entries, erased.values) == (4, 1, 2)
    assert SECRET not in held(board)
    assert board.get("people", "ann") is None
    assert board.get("people", "bob", at=3).value == "stays"  # type: ignore[union-attr]
    past = [entry.value for entry in board.history("people", "ann")]
    assert [is_erased(item) for item in past] == [True, True, False]
    assert is_erased(board.get("people", "ann", at=1).value)  # type: ignore[union-attr]
    assert [commit.hash for commit in board.log()][:3] == hashes
    assert (board.verify(), erased_values(board)) == (4, 2)
    record = board.query(Predicate(topic=ERASURES))[0]
    assert record.value == {"versions": [["people", "ann", 2]], "reason": "she asked for it"}
    assert put(board, "ann", "new").version == 4
    assert board.verify() == 5


def test_what_only_looks_erased_matches_no_more_than_it_says(board: Board) -> None:
    put(board, "mallory", {"$erased": text_digest("true")})
    assert board.query(Predicate(topic="people", equals={"paid": True})) == []


def test_a_large_value_that_others_hold_stays_for_them(board: Board) -> None:
    put(board, "ann", LARGE)
    put(board, "bob", LARGE)
    board.erase([("people", "ann")], "")
    assert board.get("people", "bob").value == LARGE  # type: ignore[union-attr]
    board.erase([("people", "bob")], "")
    assert SECRET not in held(board) and board.verify() == 4


def test_an_erased_entry_that_was_deleted_before_loses_its_past(board: Board) -> None:
    put(board, "ann", SECRET)
    tx = board.begin("user:ann")
    tx.delete("people", "ann")
    board.commit(tx)
    assert find(board, Predicate(topic="people")) == [("people", "ann")]
    assert board.erase([("people", "ann")], "").values == 1
    assert find(board, Predicate(topic="people")) == [] and board.verify() == 3


def test_what_was_derived_is_found_step_by_step(board: Board) -> None:
    put(board, "ann", SECRET)
    put(board, "summary", f"of {SECRET}", topic="notes", reads="ann")
    tx = board.begin("user:bob")
    tx.get("notes", "summary")
    tx.put("reports", "1", "of the summary", type="report")
    board.commit(tx)
    put(board, "bob", "another")
    assert find(board, Predicate(topic="people", key_from="ann", key_to="ann\x01")) == [("people", "ann")]
    wanted = Predicate(topic="people", key_from="ann", key_to="ann\x01")
    assert find(board, wanted, derived=True) == [("notes", "summary"), ("people", "ann"), ("reports", "1")]


@pytest.mark.parametrize("first", [("people", "ann"), ("notes", "summary")], ids=["source", "step"])
def test_what_was_derived_is_found_through_what_was_erased_before(board: Board, first: tuple[str, str]) -> None:
    put(board, "ann", SECRET)
    put(board, "summary", f"of {SECRET}", topic="notes", reads="ann")
    tx = board.begin("user:bob")
    tx.get("notes", "summary")
    tx.put("reports", "1", f"of the summary of {SECRET}", type="report")
    board.commit(tx)
    board.erase([first], "")
    wanted = Predicate(topic="people", key_from="ann", key_to="ann\x01")
    left = {("people", "ann"), ("notes", "summary"), ("reports", "1")} - {first}
    assert find(board, wanted, derived=True) == sorted(left)
    board.erase(sorted(left), "")
    assert SECRET not in held(board) and find(board, wanted, derived=True) == [] == find(board)


def test_what_a_principal_shaped_is_found_by_labels(board: Board) -> None:
    for principal in ("user:ann", "user:bob"):
        tx = board.begin(principal)
        tx.put("people", principal, SECRET, type="person", label=Label.trusted(principal))
        board.commit(tx)
    assert find(board, shaped_by="user:ann") == [("people", "user:ann")]
    assert find(board, Predicate(topic="other"), shaped_by="user:ann") == []


def test_an_erasure_beside_a_verification_is_no_damage(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    put(board, "ann", SECRET)
    check, erased = verification._check_payloads, []

    def check_late(reader: verification.LogReader) -> None:
        if not erased:
            erased.append(board.erase([("people", "ann")], ""))
        check(reader)

    monkeypatch.setattr(verification, "_check_payloads", check_late)
    assert board.verify() == 1 and erased
    assert (board.verify(), erased_values(board)) == (2, 1)


def test_many_entries_are_put_on_record_a_part_at_a_time(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "RECORDED", 2)
    for number in range(5):
        put(board, f"k{number}", SECRET)
    erased = board.erase(find(board), "all of it")
    assert (erased.seq, erased.entries, erased.values) == (8, 5, 5)
    assert [len(record.value["versions"]) for record in board.query(Predicate(topic=ERASURES))].count(2) == 2
    assert SECRET not in held(board) and (board.verify(), erased_values(board)) == (8, 5)


def test_each_end_has_the_label_of_its_entry_alone(board: Board) -> None:
    labels = {name: Label.trusted(f"user:{name}") for name in ("ann", "bob")}
    for name, label in labels.items():
        tx = board.begin(f"user:{name}")
        tx.put("people", name, SECRET, type="person", label=label)
        board.commit(tx)
    board.erase(find(board), "both of them")
    for name, label in labels.items():
        reader = board.begin(f"user:{name}")
        assert reader.get("people", name) is None
        assert reader.reads_label == label


def test_many_versions_of_an_entry_go_a_few_at_a_time(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        put(board, "ann", f"{SECRET} {number}")
        put(board, "bob", f"{SECRET} {number}")
    monkeypatch.setattr(upkeep, "MOST_ERASED", 3, raising=False)
    steps: list[int] = []

    def maintain(step: Any) -> Any:
        steps.append(Board.maintain(board, step))
        return steps[-1]

    monkeypatch.setattr(board, "maintain", maintain)
    assert board.erase(find(board), "").values == 14
    assert steps == [3, 3, 3, 3, 2]
    assert SECRET not in held(board) and erased_values(board) == 14


def test_a_write_that_comes_between_goes_too(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    put(board, "ann", SECRET)
    begin, late = board.begin, []

    def begin_late(*arguments: Any, **options: Any) -> Any:
        tx = begin(*arguments, **options)
        if not late:
            late.append(1)
            monkeypatch.setattr(board, "begin", begin)
            put(board, "ann", f"late {SECRET}")
        return tx

    monkeypatch.setattr(board, "begin", begin_late)
    assert erase(board, [("people", "ann")], "").values == 2
    assert SECRET not in held(board) and board.verify() == 3


def test_who_relied_on_it_is_refused(board: Board) -> None:
    put(board, "ann", {"city": "Bonn"})
    reader, seeker = board.begin("user:bob"), board.begin("user:bob")
    reader.get("people", "ann")
    assert len(seeker.query(Predicate(topic="people", equals={"city": "Bonn"}))) == 1
    for tx in (reader, seeker):
        tx.put("notes", tx.id, "somebody is there", type="note")
    board.erase([("people", "ann")], "")
    for tx in (reader, seeker):
        with pytest.raises(Conflict):
            board.commit(tx)


def test_an_erasure_that_dies_is_finished_by_the_next(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    put(board, "ann", SECRET)
    put(board, "bob", SECRET)
    with monkeypatch.context() as patched:
        patched.setattr(EraseValues, "run", lambda step, connection: 1 / 0)
        with pytest.raises(Exception, match="division"):
            board.erase([("people", "ann")], "")
    assert board.verify() == 3 and SECRET in held(board)
    assert board.erase([("people", "bob")], "").values == 2
    assert SECRET not in held(board) and board.verify() == 4


def test_compaction_and_erasure_go_together(board: Board) -> None:
    for number in range(3):
        put(board, "ann", f"{SECRET} {number}")
    with board.lease(2):
        board.compact(Keep())
        board.erase([("people", "ann")], "")
        assert is_erased(board.get("people", "ann", at=2).value)  # type: ignore[union-attr]
        assert board.verify() == board.head
    board.compact(Keep())
    assert erased_values(board) == 0 and board.verify() == board.head
    assert SECRET not in held(board)


def test_copies_hold_erased_values_as_such(location: str, postgres_board: str, tmp_path: Path) -> None:
    with Board.open(location) as board:
        put(board, "ann", LARGE)
        board.erase([("people", "ann")], "")
    export = tmp_path / "board.jsonl"
    export_board(location, export, lambda done, total: None)
    assert SECRET not in export.read_text(encoding="utf-8")
    place = str(tmp_path / "new.db") if location == postgres_board else postgres_board
    import_board(export, place, lambda done, total: None)
    with Board.open_read_only(place) as new:
        assert (new.verify(), erased_values(new)) == (2, 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "board.db"
    with Board.open(path) as board:
        put(board, "ann", SECRET)
        put(board, "bob", LARGE)
    return path


def test_nothing_of_it_is_left_in_the_file_once_that_is_shrunk(path: Path) -> None:
    with Board.open(path) as board:
        for number in range(50):
            put(board, "ann", f"{SECRET} {number}")
        board.compact(Keep(commits=3))
        board.erase(find(board, Predicate(topic="people")), "")
        board.shrink()
        for file in (path, path.with_name("board.db-wal")):
            assert SECRET.encode() not in file.read_bytes()
        assert board.verify() == board.head


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry_version SET value = NULL, payload = 'erased:' || hex(randomblob(32)) WHERE key = 'ann'",
        "UPDATE entry_version SET value = NULL, payload = 'erased:{digest}' WHERE key = 'ann'",
        "UPDATE entry_version SET payload = 'erased:' || substr(payload, 34) WHERE key = 'bob'",
    ],
)
def test_a_value_that_is_gone_without_a_record_is_found(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement.format(digest=text_digest(f'"{SECRET}"')))
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken, match="gone without a record"):
        board.verify()


def test_a_record_covers_no_later_version(path: Path) -> None:
    with Board.open(path) as board:
        board.erase([("people", "ann")], "")
        put(board, "ann", "later")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entry_version SET value = NULL, payload = 'erased:00' WHERE value = '\"later\"'")
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken, match="commit 4 wrote is gone"):
        board.verify()


def test_a_record_that_was_altered_is_found(path: Path) -> None:
    with Board.open(path) as board:
        board.erase([("people", "ann")], "")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entry_version SET value = replace(value, 'ann', 'bob') WHERE topic = ?", (ERASURES,))
    with Board.open_read_only(path) as board, pytest.raises(ChainBroken):
        board.verify()


def test_others_commit_and_read_while_values_are_erased(board: Board) -> None:
    for number in range(150):
        put(board, f"{number:03d}", f"{SECRET} {number}")
    stop, failures = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                put(board, "other", "going on", topic="notes")
                assert len(board.history("notes", "other")) > 0
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    done: list[int] = []
    erased = erase(board, find(board, Predicate(topic="people")), "", progress=done.append)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failures == [] and erased.values == 150 and done[-1] == 150
    assert SECRET not in held(board) and board.verify() == board.head

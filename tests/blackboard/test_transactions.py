"""What one transaction sees, writes, labels and refuses."""

import math

import pytest

from agentsys.blackboard.board import Board, InvalidSnapshot
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Endorsement, EntryVersionRef, InvalidName, InvalidValue
from agentsys.blackboard.labels import BOTTOM, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardClosed
from agentsys.blackboard.transactions import LabelTooLow, TransactionClosed, UnknownSavepoint
from agentsys.errors import BoardError, LabelError

ANN = "user:ann"


def put(board: Board, key: str, value: object, label: Label | None = None, topic: str = "notes") -> int:
    tx = board.begin(ANN, run="r1")
    tx.put(topic, key, value, type="note", label=label)
    return board.commit(tx).seq


def test_versions_snapshots_and_log_agree(board: Board) -> None:
    assert board.head == 0 and board.log() == [] and board.get("notes", "a") is None
    for number in range(3):
        assert put(board, "a", number) == number + 1
    assert [board.get("notes", "a", at=seq) and board.get("notes", "a", at=seq).value for seq in range(4)] == [
        None,
        0,
        1,
        2,
    ]
    commits = board.log(after=1)
    assert [commit.seq for commit in commits] == [2, 3]
    assert commits[1].writes == (board.get("notes", "a"),)
    assert commits[1].prev_hash == commits[0].hash
    assert board.log(run="other") == [] and len(board.log(run="r1", limit=2)) == 2
    entry = board.get("notes", "a")
    assert entry is not None
    assert (entry.version, entry.seq, entry.writer, entry.run, entry.type) == (3, 3, ANN, "r1", "note")


def test_a_state_the_board_never_had_is_refused(board: Board) -> None:
    with pytest.raises(InvalidSnapshot):
        board.get("notes", "a", at=1)


def test_reads_see_the_snapshot_and_own_writes(board: Board) -> None:
    put(board, "a", 1)
    tx = board.begin(ANN)
    put(board, "a", 2)
    seen = tx.get("notes", "a")
    assert seen is not None and seen.value == 1
    tx.put("notes", "a", 10, type="note")
    tx.put("notes", "b", 20, type="note")
    assert [(entry.key, entry.value) for entry in tx.query(Predicate(topic="notes"))] == [("a", 10), ("b", 20)]
    tx.delete("notes", "b")
    assert tx.get("notes", "b") is None
    assert [entry.key for entry in tx.query(Predicate(topic="notes"))] == ["a"]


def test_savepoints_drop_writes_and_keep_reads(board: Board) -> None:
    put(board, "secret", 1, Label(frozenset({"file:x"}), Readers.of(ANN), math.inf))
    tx = board.begin(ANN)
    tx.put("notes", "kept", 1, type="note")
    mark = tx.savepoint()
    tx.get("notes", "secret")
    tx.put("notes", "dropped", 1, type="note")
    tx.rollback_to(mark)
    tx.put("notes", "later", 1, type="note")
    assert [entry.key for entry in board.commit(tx).writes] == ["kept", "later"]
    later = board.get("notes", "later")
    assert later is not None and "file:x" in later.label.influencers
    with pytest.raises(UnknownSavepoint):
        board.begin(ANN).rollback_to(1)


def test_what_is_relied_on_is_read_without_the_board_and_validated_like_a_read(board: Board) -> None:
    put(board, "a", 1)
    known = board.get("notes", "a")
    put(board, "a", 2)
    for relied_on in (known, None):
        tx = board.begin(ANN)
        tx.rely_on("notes", "a", relied_on)
        assert tx.get("notes", "a") is relied_on
        tx.put("notes", "b", 1, type="note")
        with pytest.raises(Conflict):
            board.commit(tx)
    tx = board.begin(ANN)
    tx.get("notes", "a")
    tx.rely_on("notes", "a", known)
    tx.rely_on("notes", "b", None)
    tx.put("notes", "b", 1, type="note", label=Label(frozenset({ANN}), Readers.of(ANN)))
    assert board.commit(tx).writes[0].derived_from == (EntryVersionRef("notes", "a", 2),)


def test_deletion_is_a_version_and_a_new_value_follows_it(board: Board) -> None:
    put(board, "a", 1)
    tx = board.begin(ANN)
    tx.delete("notes", "a")
    tx.delete("notes", "never")
    commit = board.commit(tx)
    assert [(entry.key, entry.version, entry.deleted) for entry in commit.writes] == [("a", 2, True)]
    assert board.get("notes", "a") is None and board.query(Predicate(topic="notes")) == []
    before = board.get("notes", "a", at=1)
    assert before is not None and before.value == 1
    put(board, "a", 3)
    after = board.get("notes", "a")
    assert after is not None and after.version == 3
    assert board.log()[1].writes[0].deleted


def test_default_label_is_the_join_of_the_reads_or_the_principals_own(board: Board) -> None:
    put(board, "a", 1, Label(frozenset({"file:a"}), PUBLIC, 1.0))
    put(board, "b", 1, Label(frozenset({"file:b"}), Readers.of(ANN), 5.0))
    tx = board.begin("agent:x")
    assert tx.reads_label == BOTTOM
    tx.put("notes", "first", 1, type="note")
    tx.get("notes", "a")
    tx.query(Predicate(topic="notes", key_from="b", key_to="c"))
    tx.put("notes", "second", 1, type="note")
    first, second = board.commit(tx).writes
    assert first.label == Label.trusted("agent:x") and first.derived_from == ()
    assert second.label == Label(frozenset({"file:a", "file:b"}), Readers.of(ANN), 5.0)
    assert second.derived_from == (EntryVersionRef("notes", "a", 1), EntryVersionRef("notes", "b", 1))


def test_reading_an_own_write_back_does_not_launder_its_label(board: Board) -> None:
    tx = board.begin(ANN)
    tx.put("notes", "a", "from outside", type="note", label=Label())
    tx.get("notes", "a")
    tx.put("notes", "b", "copied", type="note")
    assert board.commit(tx).writes[1].label == Label()


def test_reading_a_deletion_is_a_read(board: Board) -> None:
    put(board, "a", 1, Label())
    tx = board.begin(ANN)
    tx.delete("notes", "a")
    board.commit(tx)
    tx = board.begin(ANN)
    assert tx.get("notes", "a") is None
    assert tx.reads_label == Label()


def test_a_label_below_the_reads_needs_an_endorsement_on_record(board: Board) -> None:
    put(board, "a", 1, Label())
    tx = board.begin(ANN)
    tx.get("notes", "a")
    low = Label.trusted(ANN)
    with pytest.raises(LabelTooLow, match="AGS-0301") as caught:
        tx.put("notes", "b", 1, type="note", label=low)
    assert isinstance(caught.value, LabelError)
    decision = Endorsement("user:owner", "checked by hand")
    tx.put("notes", "b", 1, type="note", label=low, endorsed=decision)
    board.commit(tx)
    assert board.log(after=1)[0].writes[0].endorsement == decision


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {1: 2},
        {"a": (1, 2)},
        {"a": {3}},
        b"x",
        "\ud800",
        object(),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_values_that_are_not_json_are_refused_when_put(board: Board, value: object) -> None:
    tx = board.begin(ANN)
    with pytest.raises(InvalidValue, match="AGS-0211"):
        tx.put("notes", "a", value, type="note")


def test_nesting_is_bounded(board: Board) -> None:
    value: object = 1
    for _ in range(64):
        value = [value]
    put(board, "a", value)
    with pytest.raises(InvalidValue, match="nested"):
        put(board, "a", [value])


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 1025, "\ud800", "\U0010ffff"])
def test_names_that_cannot_be_stored_are_refused(board: Board, name: str) -> None:
    with pytest.raises(InvalidName):
        board.begin(ANN).put(name, "key", 1, type="note")


def test_values_are_copied_on_the_way_in_and_out(board: Board) -> None:
    value = {"list": [1]}
    tx = board.begin(ANN)
    tx.put("notes", "a", value, type="note")
    value["list"].append(2)
    board.commit(tx)
    first = board.get("notes", "a")
    assert first is not None and first.value == {"list": [1]}
    first.value["list"].append(3)
    second = board.get("notes", "a")
    assert second is not None and second.value == {"list": [1]}


def test_a_commit_is_idempotent_and_closes_the_transaction(board: Board) -> None:
    tx = board.begin(ANN)
    tx.put("notes", "a", 1, type="note")
    first = board.commit(tx)
    assert board.commit(tx) == first and board.head == 1
    with pytest.raises(TransactionClosed):
        tx.put("notes", "a", 2, type="note")


def test_a_transaction_that_changes_nothing_is_not_logged(board: Board) -> None:
    put(board, "a", 1)
    tx = board.begin(ANN)
    tx.get("notes", "a")
    put(board, "a", 2)
    assert board.commit(tx).seq == 1 and board.head == 2


def test_a_closed_board_says_so() -> None:
    board = Board.open(":memory:")
    tx = board.begin(ANN)
    tx.put("notes", "a", 1, type="note")
    reading = board.begin(ANN)
    board.close()
    board.close()
    for use in (
        lambda: board.commit(tx),
        lambda: reading.get("notes", "a"),
        lambda: board.get("notes", "a"),
        board.log,
    ):
        with pytest.raises(BoardClosed):
            use()


def test_every_board_error_has_its_own_code() -> None:
    def family(kind: type[BoardError]) -> list[type[BoardError]]:
        return [kind, *(member for child in kind.__subclasses__() for member in family(child))]

    kinds = [kind for kind in family(BoardError) if kind.__module__.startswith("agentsys.")]
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes)) > 15
    assert all(kind.remedy != BoardError.remedy for kind in kinds if kind is not BoardError)


def test_a_transaction_over_a_past_state_is_validated_against_the_newest(board: Board) -> None:
    past = put(board, "a", 1)
    put(board, "a", 2)
    put(board, "b", 1)
    guarded = board.get("notes", "b")
    assert guarded is not None
    looking, blind = board.begin(ANN, at=past), board.begin(ANN, at=past)
    seen = looking.get("notes", "a")
    assert seen is not None and (seen.value, looking.query(Predicate(topic="notes"))) == (1, [seen])
    looking.put("notes", "c", 1, type="note")
    with pytest.raises(Conflict) as lost:
        board.commit(looking)
    assert [item.kind for item in lost.value.items] == ["key", "predicate", "predicate"], "another a, and a b"
    blind.guard(guarded)
    blind.put("notes", "c", 1, type="note")
    assert board.commit(blind).snapshot == past, "what it relies on stands"
    for nowhere in (-1, board.head + 1):
        with pytest.raises(InvalidSnapshot):
            board.begin(ANN, at=nowhere)

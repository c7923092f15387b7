"""The index of a board's runs says what the board itself says, after every change and whoever made it."""

import gc

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.runs import RunRecord, list_runs
from agentsys.tenancy import SeenBy
from agentsys.views.run_index import _INDEXES, RunIndex, run_index

LABEL = Label.trusted(OWNER, Readers.of(OWNER))


def write(board, record):
    transaction = board.begin(OWNER, run=record.run)
    record.write(transaction)
    board.commit(transaction)


def record(number):
    return RunRecord(f"run{number}", "ask", {"question": "?"}, LABEL, float(100 - number), None)


def test_it_follows_the_board_of_another_writer(tmp_path):
    with Board.open(tmp_path / "b.db") as board, Board.open_read_only(tmp_path / "b.db") as reading:
        index = run_index(reading)
        assert index is run_index(reading) and index is not run_index(board)
        for number in range(4):
            write(board, record(number))
            assert list(index.records(reading)) == list_runs(reading)
            note = board.begin(OWNER)
            note.put("notes", str(number), 1, type="note", label=LABEL)
            board.commit(note)
            assert list(index.records(reading)) == list_runs(reading)
        write(board, record(1).done(42, LABEL, "", 200.0))
        assert list(index.records(reading)) == list_runs(reading)
        assert {one.status for one in index.records(reading)} == {"running", "done"}


def test_tokens_of_an_ended_run_are_counted_once():
    index, counted = RunIndex(), []

    def count():
        counted.append(1)
        return 7

    running = record(0)
    for _ in range(2):
        assert index.tokens(running, count) == 7
    assert len(counted) == 2
    for _ in range(2):
        assert index.tokens(running.done(1, LABEL, "", 1.0), count) == 7
    assert len(counted) == 3


def test_it_ends_with_its_board(tmp_path):
    board = Board.open(tmp_path / "b.db")
    run_index(board)
    known = len(_INDEXES)
    board.close()
    del board
    gc.collect()
    assert len(_INDEXES) < known


def test_a_run_that_was_erased_is_no_run_any_more(tmp_path):
    with Board.open(tmp_path / "b.db") as board:
        following = RunIndex()
        write(board, record(0))
        assert [one.run for one in following.records(board)] == ["run0"]
        write(board, record(1))
        write(board, record(1).done(42, LABEL, "", 200.0))
        board.erase([("runs", "run1")], "asked for")
        # One that reads on meets its versions in the log, without what they held.
        for index in (following, RunIndex()):
            assert [one.run for one in index.records(board)] == ["run0"]
        assert not SeenBy(board._reader, OWNER).owns("run1") and SeenBy(board._reader, OWNER).owns("run0")

"""Boards of earlier versions: the steps lead to the tables that a new board has, and lose nothing."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect

from agentsys.blackboard import migrations
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import SCHEMA_VERSION, BoardModel

RECORDED = Path(__file__).parents[2] / "ui" / "recorded" / "demo.db"


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found = list(compare_metadata(context, BoardModel.metadata))
    # The comparison does not look at primary keys.
    present = inspect(connection).get_table_names()
    for table in (table for table in BoardModel.metadata.sorted_tables if table.name in present):
        stored = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
        if stored != [column.name for column in table.primary_key]:
            found.append((table.name, stored))
    return found


def test_the_steps_lead_to_the_tables_of_a_new_board(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path}/steps.db").connect() as connection:
        migrations._STEPS[0](operations_on(connection))
        migrations.upgrade(connection, 1)
        assert differences(connection) == []


def operations_on(connection: Connection) -> Operations:
    return Operations(MigrationContext.configure(connection))


def test_the_comparison_would_notice_another_primary_key(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path}/steps.db").connect() as connection:
        migrations.upgrade(connection, 0, 2)
        assert ("entry_version", ["topic", "key", "version"]) in differences(connection)


def test_the_comparison_would_notice_a_forgotten_step(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path}/steps.db").connect() as connection:
        migrations._STEPS[0](operations_on(connection))
        assert differences(connection) != []


@pytest.fixture
def old_board(tmp_path: Path) -> Path:
    """A board as version 1 wrote it."""
    path = tmp_path / "old.db"
    shutil.copyfile(RECORDED, path)
    return path


def stored_version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (version,) = connection.execute("SELECT schema_version FROM board").fetchone()
    connection.close()
    return int(version)


def test_an_old_board_is_upgraded_when_it_is_opened_for_writing(old_board: Path) -> None:
    assert stored_version(old_board) == 1
    with Board.open_read_only(old_board) as board:
        head, entries = board.head, board.query(Predicate())
        assert head > 0 and board.verify() == head
    assert stored_version(old_board) == 1
    with Board.open(old_board) as board:
        assert (board.head, board.query(Predicate())) == (head, entries)
        tx = board.begin("user:ann")
        tx.put("notes", "a", 1, type="note")
        assert board.commit(tx).seq == head + 1
        assert board.verify() == head + 1
    assert stored_version(old_board) == SCHEMA_VERSION


def test_an_upgrade_that_fails_leaves_the_old_board(old_board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(operations: object) -> None:
        migrations._to_2(operations)
        raise RuntimeError("no power")

    monkeypatch.setattr(migrations, "_STEPS", (migrations._to_1, broken))
    with pytest.raises(RuntimeError):
        Board.open(old_board)
    monkeypatch.undo()
    assert stored_version(old_board) == 1
    with Board.open(old_board) as board:
        assert board.verify() == board.head

"""What is PostgreSQL's own: addresses, order of names, versions, tampering, several boards in one database."""

import threading
import time
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, make_url, text

from agentsys.blackboard import migrations
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import InvalidName
from agentsys.blackboard.postgres.address import Address, BadAddress
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import BoardModel
from agentsys.blackboard.storage import BoardMissing, BoardUnreachable, ChainBroken, SchemaTooNew


def put(board: Board, topic: str, key: str, value: object = 1) -> int:
    tx = board.begin("user:ann")
    tx.put(topic, key, value, type="note")
    return board.commit(tx).seq


def edit(url: str, location: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {Address.parse(location).schema}")
        connection.execute(statement)


def test_an_address_names_the_board_and_hides_the_password() -> None:
    address = Address.parse("postgresql://ann:secret@db:5433/agents?board=team&lease=2&sslmode=require")
    assert (address.schema, address.lease) == ("agentsys_team", 2.0)
    assert address.url.query == {"sslmode": "require"} and "secret" not in address.name
    assert Address.parse("postgres://db/agents").board == "main"


@pytest.mark.parametrize("query", ["board=No", "board=a;drop", "board=a&board=b", "lease=0", "lease=nan", "lease=x"])
def test_a_bad_address_is_refused_without_being_quoted(query: str) -> None:
    with pytest.raises(BadAddress, match="AGS-0222") as caught:
        Board.open(f"postgresql://ann:secret@db/agents?{query}")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(BoardUnreachable, match="AGS-0223") as caught:
        Board.open("postgresql://ann:secret@127.0.0.1:1/agents")
    assert "secret" not in str(caught.value)


def test_an_address_may_say_how_long_connecting_takes(postgres_board: str) -> None:
    with Board.open(f"{postgres_board}&connect_timeout=20") as board:
        database = board._committer.database
        for engine in (database.readers, database.writers, database.couriers):
            with engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                assert driver.info.get_parameters()["connect_timeout"] == "20"


def test_a_schema_that_is_there_needs_no_right_to_create_one(postgres_url: str, postgres_board: str) -> None:
    schema = Address.parse(postgres_board).schema
    role = f"{schema}_plain"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}")
        connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        try:
            with Board.open(f"{postgres_board}&options=-c%20role%3D{role}") as board:
                assert put(board, "t", "k") == 1
        finally:
            connection.execute(f"DROP OWNED BY {role} CASCADE")
            connection.execute(f"DROP ROLE {role}")


def test_reading_needs_a_board(postgres_board: str) -> None:
    with pytest.raises(BoardMissing):
        Board.open_read_only(postgres_board)


def test_boards_of_one_database_do_not_meet(postgres_url: str, postgres_board: str) -> None:
    other = postgres_board.replace("board=t", "board=u")
    with Board.open(postgres_board) as board, Board.open(other) as second:
        put(board, "t", "k", "mine")
        assert second.head == 0 and second.get("t", "k") is None
        put(second, "t", "k", "theirs")
        assert [one.get("t", "k").value for one in (board, second)] == ["mine", "theirs"]
    edit(postgres_url, other, f"DROP SCHEMA {Address.parse(other).schema} CASCADE")


def test_news_of_a_board_reaches_no_opening_of_another_whatever_they_are_called(
    postgres_url: str, postgres_board: str
) -> None:
    name = Address.parse(postgres_board).board
    other = postgres_board.replace(f"board={name}", f"board={name}_1")
    with Board.open(postgres_board) as board:
        assert board.epoch == 1, "as the other board's name ends"
        with Board.open(other) as leading, Board.open(other) as following:
            # By then the leader knows of the follower, and tells it of commits.
            time.sleep(0.5)
            for number in range(5):
                put(leading, "t", f"k{number}")
            assert following.wait_for(5, 10)
            time.sleep(0.5)
        assert board.head == 0
        assert put(board, "t", "k") == 1
    edit(postgres_url, other, f"DROP SCHEMA {Address.parse(other).schema} CASCADE")


def test_whoever_does_not_lead_knows_of_its_own_commit_when_it_is_answered(postgres_board: str) -> None:
    with Board.open(postgres_board), Board.open(postgres_board) as follower:
        for number in range(20):
            assert put(follower, "notes", "a", number) <= follower.heard


def test_processes_may_create_one_board_at_once(postgres_board: str) -> None:
    opened: list[Board] = []
    threads = [threading.Thread(target=lambda: opened.append(Board.open(postgres_board))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(board.epoch for board in opened) == [1, 2, 3, 4]
    assert sorted(put(board, "t", str(board.epoch)) for board in opened) == [1, 2, 3, 4]
    for board in opened:
        board.close()


def test_names_are_ordered_by_code_point(postgres_board: str) -> None:
    keys = ["B", "a", "Z", "ä", "_", "\U0001f600", "\uffff", "a b", "A"]
    with Board.open(postgres_board) as board:
        for key in keys:
            put(board, "t", key)
        assert [entry.key for entry in board.query(Predicate(topic="t"))] == sorted(keys)
        found = board.query(Predicate(topic="t", key_from="a", key_to="b"))
        assert [entry.key for entry in found] == ["a", "a b"]


def test_a_name_that_no_index_can_hold_fails_alone(postgres_board: str) -> None:
    long = "".join(chr(0x4E00 + (7919 * number) % 20000) for number in range(1024))
    with Board.open(postgres_board) as board:
        with pytest.raises(InvalidName):
            put(board, long, long)
        assert put(board, "t", "k") == 1


def test_a_newer_schema_is_refused(postgres_url: str, postgres_board: str) -> None:
    Board.open(postgres_board).close()
    edit(postgres_url, postgres_board, "UPDATE board SET schema_version = 99")
    for opener in (Board.open, Board.open_read_only):
        with pytest.raises(SchemaTooNew, match="99"):
            opener(postgres_board)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry_version SET value = '7' WHERE key = 'k1'",
        "UPDATE entry_version SET valid_to = 3 WHERE key = 'k1'",
        "DELETE FROM commit_log WHERE seq = 2",
        "UPDATE board SET head = 2",
    ],
)
def test_verification_catches_a_tampered_row(postgres_url: str, postgres_board: str, statement: str) -> None:
    with Board.open(postgres_board) as board:
        for number in range(3):
            put(board, "t", f"k{number}", number)
    edit(postgres_url, postgres_board, statement)
    with Board.open_read_only(postgres_board) as board, pytest.raises(ChainBroken, match="AGS-0218"):
        board.verify()


def test_the_steps_of_the_schema_lead_to_the_tables_of_a_new_board(postgres_url: str, postgres_board: str) -> None:
    schema = Address.parse(postgres_board).schema
    engine = create_engine(
        make_url(postgres_url).set(drivername="postgresql+psycopg"),
        connect_args={"options": f"-c search_path={schema}"},
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        migrations._STEPS[0](Operations(MigrationContext.configure(connection)))
        migrations.upgrade(connection, 1)
        made = MigrationContext.configure(connection, opts={"compare_type": True})
        left = compare_metadata(made, BoardModel.metadata)
        # The tables of sharing have their own metadata.
        left = [difference for difference in left if difference[0] != "remove_table"]
        assert left == []
        keys = inspect(connection).get_pk_constraint("entry_version")["constrained_columns"]
        assert keys == ["topic", "key", "valid_from"]
    engine.dispose()


@pytest.mark.parametrize("signal", ["head:999999", "head:abc", f"head:{'9' * 5000}", "head:\u0662", "else"])
def test_what_anybody_signals_is_looked_up_and_never_believed(
    postgres_url: str, postgres_board: str, signal: str
) -> None:
    with Board.open(postgres_board) as leading, Board.open(postgres_board) as following:
        put(following, "t", "k")
        assert leading.wait_for(1, 10) and following.wait_for(1, 10)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_notify(%s, %s)", (Address.parse(postgres_board).schema, signal))
        assert not leading.wait_for(2, 0.3) and not following.wait_for(2, 0.3)
        assert [board._committer._signals._thread.is_alive() for board in (leading, following)] == [True, True]
        late = leading.begin("user:ann")
        late.put("t", "sum", len(late.query(Predicate(topic="t"))), type="note")
        put(following, "t", "other")
        with pytest.raises(Conflict):
            leading.commit(late)


def test_closing_a_board_that_leads_ends_its_exclusive_turns(postgres_board: str) -> None:
    board = Board.open(postgres_board)
    lost = board.begin("user:ann")
    lost.get("t", "k")
    board.hold(lost, 30.0)
    other = board.begin("user:ben")
    other.put("t", "k", 1, type="note")
    waiting, begun = board.submit(other), time.monotonic()
    board.close()
    assert waiting.result(0).seq == 1 and time.monotonic() - begun < 15

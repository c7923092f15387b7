"""Commits over several boards of one PostgreSQL database: one transaction that locks the boards' rows.

It locks them in the order of their names, so that two such commits cannot wait for each other.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.joint import BoardsApart, Part, check_one_place, commit_on_all
from agentsys.blackboard.postgres.connections import RETRY_SECONDS, PostgresDatabase
from agentsys.blackboard.postgres.link import Parameters
from agentsys.blackboard.postgres.sharing import LeasedCommitter
from agentsys.blackboard.postgres.signals import HEAD
from agentsys.blackboard.postgres.storage import PostgresStorage
from agentsys.blackboard.rows import AnyRow
from agentsys.blackboard.schema import BOARD
from agentsys.blackboard.storage import BoardState, BoardUnreachable, PreparedCommit
from agentsys.blackboard.transactions import Transaction

LEADERLESS_SECONDS: Final = 30.0


def commit_in_database(parts: Sequence[tuple[Board, Transaction]]) -> list[Commit]:
    """See :func:`agentsys.blackboard.together.commit_together`."""
    boards = [_leased(board) for board, _ in parts]
    databases = [board.database for board in boards]
    places = [database.address.url.set(query={}).render_as_string() for database in databases]
    check_one_place(places, [database.address.schema for database in databases])
    deadline = time.monotonic() + LEADERLESS_SECONDS
    while True:
        # Sealed once more, a transaction says that it may have been stored already.
        requests = [tx.seal(board.epoch) for board, tx in parts]
        try:
            commits = _committed(boards, requests)
            break
        except BoardUnreachable:
            # Between two leaders, or between two lives of the server. Whether it was stored is looked up.
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
    for board, commit in zip(boards, commits, strict=True):
        board.learn(commit.seq)
    return commits


def _leased(board: Board) -> LeasedCommitter:
    committer = board.committer()
    if not isinstance(committer, LeasedCommitter):
        raise BoardsApart("Some of the boards to commit to are files.")
    return committer


def _committed(boards: Sequence[LeasedCommitter], requests: Sequence[CommitRequest]) -> list[Commit]:
    # As durable as the board that asks for most.
    database = max((board.database for board in boards), key=lambda place: place.durability == "full")
    ordered = sorted((board.database for board in boards), key=lambda place: place.address.schema)
    with database.translated_errors(), database.writers.begin() as connection:
        held = {place.address.schema: _locked(connection, place) for place in ordered}
        parts = [
            Part(held[board.database.address.schema], request, board.alive)
            for board, request in zip(boards, requests, strict=True)
        ]
        return commit_on_all(parts)


def _locked(connection: Connection, database: PostgresDatabase) -> "_LockedBoard":
    """Wait for the board's leader to end what it is storing, and keep it from storing more."""
    _enter(connection, database)
    row = connection.execute(select(BOARD).with_for_update()).one()
    if row.leader is None:
        raise BoardUnreachable(f"{database.name}: nobody leads the board just now.")
    return _LockedBoard(connection, database, row.leader, BoardState(row.head, row.head_hash, row.epoch, row.horizon))


def _enter(connection: Connection, database: PostgresDatabase) -> None:
    connection.exec_driver_sql(f"SET LOCAL search_path TO {database.address.schema}")


class _LockedBoard(PostgresStorage):
    """A board within the transaction that holds its row. Everything goes over that transaction's connection."""

    def __init__(self, connection: Connection, database: PostgresDatabase, leader: int, board: BoardState) -> None:
        super().__init__(database, leader, _SharedLink(connection))
        self._shared = connection
        self.board = board

    def enter(self) -> None:
        """Let what follows on the connection mean this board."""
        _enter(self._shared, self._postgres)

    def append(self, commits: Sequence[PreparedCommit]) -> None:
        super().append(commits)
        # Those that wait for commits wake once the transaction is committed.
        told = (self._postgres.address.schema, f"{HEAD}:{commits[-1].commit.seq}")
        self._link.rows("SELECT pg_notify(%s, %s)", told)

    def _rows(self, statement: Select[*tuple[Any, ...]], parameters: dict[str, Any] | None = None) -> Sequence[AnyRow]:
        # No second try: a connection that broke took the transaction along.
        return self._shared.execute(statement, parameters or {}).all()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        yield self._shared


class _SharedLink:
    """Statements in the driver's own words, within a transaction that somebody else ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
        driver: Any = self._connection.connection.driver_connection
        cursor = driver.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Leave the connection to its owner."""

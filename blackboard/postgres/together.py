"""One commit over several boards of one database: all of them take it, or none does.

A board is a shard: its own log, its own leader. What spans boards locks their rows, always in the order of their names,
so that two such commits cannot wait for each other, and adds to each log beside its leader, who finds the log longer
than it knew at its next commit, reads what was added, and goes on.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit, CommitRequest, nothing_committed
from agentsys.blackboard.postgres.connections import RETRY_SECONDS, PostgresDatabase
from agentsys.blackboard.postgres.link import Parameters
from agentsys.blackboard.postgres.sharing import HEAD, LeasedCommitter
from agentsys.blackboard.postgres.storage import PostgresStorage
from agentsys.blackboard.preparation import check_remembered, prepare
from agentsys.blackboard.rows import AnyRow
from agentsys.blackboard.schema import BOARD
from agentsys.blackboard.storage import BoardState, BoardUnreachable
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.validation import BatchState
from agentsys.errors import BoardError

LEADERLESS_SECONDS: Final = 30.0


class BoardsApart(BoardError):
    """A commit over several boards was asked for that no one database can make."""

    code = "AGS-0226"
    remedy = "Keep the boards in one PostgreSQL database, under different names; each takes one of the transactions."


@dataclass(frozen=True, slots=True)
class _Part:
    board: LeasedCommitter
    request: CommitRequest

    @property
    def schema(self) -> str:
        return self.board.database.address.schema


def commit_together(*parts: tuple[Board, Transaction]) -> list[Commit]:
    """Commit one transaction on each of several boards and return their commits; all are durable, or none is.

    Committing the same ones again returns the same commits. Raises :class:`BoardsApart`, and what
    :meth:`Board.commit` raises: the first :class:`Conflict` of any of them stands for all.
    """
    leased = [_leased(board) for board, _ in parts]
    _check_one_database([board.database for board in leased])
    deadline = time.monotonic() + LEADERLESS_SECONDS
    while True:
        # Sealed once more, a transaction says that it may have been stored already.
        asked = [_Part(place, tx.seal(board.epoch)) for place, (board, tx) in zip(leased, parts, strict=True)]
        try:
            commits = _committed(asked)
            break
        except BoardUnreachable:
            # Between two leaders, or between two lives of the server. Whether it was stored is looked up.
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
    for part, commit in zip(asked, commits, strict=True):
        part.board.learn(commit.seq)
    return commits


def _leased(board: Board) -> LeasedCommitter:
    committer = board.committer()
    if not isinstance(committer, LeasedCommitter):
        raise BoardsApart("Some of the boards to commit to are files.")
    return committer


def _check_one_database(databases: Sequence[PostgresDatabase]) -> None:
    places = {database.address.url.set(query={}) for database in databases}
    if len(places) > 1:
        names = ", ".join(database.name for database in databases)
        raise BoardsApart(f"The boards to commit to are in {len(places)} databases: {names}.")
    if len({database.address.schema for database in databases}) < len(databases):
        raise BoardsApart("One board has several of the transactions.")


def _committed(parts: Sequence[_Part]) -> list[Commit]:
    if not parts:
        return []
    database = parts[0].board.database
    ordered = sorted(parts, key=lambda part: part.schema)
    with database.translated_errors(), database.writers.begin() as connection:
        boards = {part.schema: _locked(connection, part.board.database) for part in ordered}
        commits = {part.schema: _appended(boards[part.schema], part) for part in ordered}
    return [commits[part.schema] for part in parts]


def _appended(storage: "_LockedBoard", part: _Part) -> Commit:
    request = part.request
    storage.enter()
    if request.resubmitted:
        if known := storage.commits(None, tx_ids=[request.tx_id]):
            return known[0]
        check_remembered(request, storage.board)
    if request.changes_nothing:
        return nothing_committed(request, storage.board.head)
    prepared = prepare(request, BatchState(storage, [request]), storage.board, part.board.alive)
    storage.append([prepared])
    storage.tell(prepared.commit.seq)
    return prepared.commit


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

    def tell(self, head: int) -> None:
        """Wake those that wait for commits, once the transaction is committed."""
        self._link.rows("SELECT pg_notify(%s, %s)", (self._postgres.address.schema, f"{HEAD}:{head}"))

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

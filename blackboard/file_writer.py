"""The one connection that writes a file of boards: transactions in turns, those that wait for a turn stored as one."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from agentsys.blackboard.database import Durability, SqliteFile, over_tables_of, writer_engine
from agentsys.blackboard.places import FilePlace


class FileWriter:
    """The writing side of a file. The caller holds the file's lock; see :mod:`agentsys.blackboard.lock`.

    Each board of the file has a thread that commits. While one waits for the disk, what the others have to store
    gathers, and the next of them stores all of it in one transaction.
    """

    def __init__(self, path: Path, durability: Durability) -> None:
        """Open or create the file."""
        self.path = path
        self.turn = threading.RLock()
        """Held by whoever uses the connection."""
        self._engine = writer_engine(path, durability)
        self._waiting: deque[_Work] = deque()
        with SqliteFile(path).translated_errors():
            self._connection = self._engine.connect()

    def connect(self, place: FilePlace) -> Connection:
        """Return the connection for statements about the tables of ``place``; closed, it leaves the file open."""
        return over_tables_of(place, self._engine).connect()

    def close(self) -> None:
        """Close the file. The last connection to close folds the write-ahead log into it, so readers go before."""
        with self.turn, SqliteFile(self.path).translated_errors():
            self._connection.close()
            self._engine.dispose()

    @contextmanager
    def begin(self, place: FilePlace) -> Iterator[Connection]:
        """Give a connection for statements about the tables of ``place`` within a transaction of its own."""
        # A connection that is closed undoes what was not committed.
        with self.turn, self.connect(place) as connection, self.transaction():
            yield connection

    def write(self, work: Callable[[Any], None]) -> None:
        """Do ``work`` with the driver's connection, in a transaction that others may share; return once it is durable.

        It may be done again from its beginning, after a failure of what shared its transaction.
        """
        mine = _Work(work)
        self._waiting.append(mine)
        with self.turn:
            if not mine.done:
                self._store([self._waiting.popleft() for _ in range(len(self._waiting))])
        if mine.error is not None:
            raise mine.error

    @contextmanager
    def alone(self) -> Iterator[Any]:
        """Give the driver's connection while nobody writes, outside of any transaction."""
        with self.turn, SqliteFile(self.path).translated_errors():
            yield self._connection.connection.driver_connection

    def be_durable(self) -> None:
        """Let every commit from now on reach the disk before it is acknowledged, and with it those before."""
        with self.alone() as driver:
            driver.execute("PRAGMA synchronous=FULL").close()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Give the driver's connection within a transaction of one's own; any :meth:`connect` means it, too."""
        with self.turn:
            driver: Any = self._connection.connection.driver_connection
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield driver
                driver.commit()
            except BaseException:
                driver.rollback()
                raise

    def _store(self, works: "Sequence[_Work]") -> None:
        try:
            with self.transaction() as driver:
                for work in works:
                    work.do(driver)
        except BaseException as error:
            if len(works) > 1:
                for work in works:
                    self._store([work])
                return
            works[0].error = error
        for work in works:
            work.done = True


class _Work:
    """Something to store."""

    __slots__ = ("do", "done", "error")

    def __init__(self, do: Callable[[Any], None]) -> None:
        self.do = do
        self.done = False
        self.error: BaseException | None = None

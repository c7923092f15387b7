"""Connections to a board's SQLite file, and the translation of its errors."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar

from sqlalchemy import Connection as SqlConnection
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.storage import BoardCorrupt, BoardFull, BoardMissing, StorageFailed
from agentsys.errors import BoardError

Durability: TypeAlias = Literal["full", "normal", "off"]
"""``full``: every commit reaches the disk before it is acknowledged. ``normal``: survives a crash of the process, and
may lose the newest commits in a power cut. ``off``: for boards that are thrown away."""

_T = TypeVar("_T")

BUSY_TIMEOUT_SECONDS: Final = 5.0
READERS: Final = 8
"""Connections that read a board for one process, however many threads ask: the others wait for their turn."""
READER_SECONDS: Final = 600.0
"""How long a read waits for one of them."""
CHECKPOINT_PAGES: Final = 4_000
"""A checkpoint stalls commits for a few fsyncs; one every 16 MB of log keeps that rare and the -wal file small."""

CACHE_KIB: Final = 65_536
"""Memory for the writer's pages: a commit touches some of each of its indexes, and the default of 2 MB keeps few."""

_ERRORS: Final[dict[int, type[BoardError]]] = {
    sqlite3.SQLITE_FULL: BoardFull,
    sqlite3.SQLITE_CORRUPT: BoardCorrupt,
    sqlite3.SQLITE_NOTADB: BoardCorrupt,
    sqlite3.SQLITE_CANTOPEN: BoardMissing,
}


class SqliteFile:
    """A board's file, as far as reads need to know it; ``place`` is the board, or the file as a whole."""

    def __init__(self, place: FilePlace | Path) -> None:
        self.name = str(place)

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise database errors as the board's own, naming the file."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            code = getattr(cause, "sqlite_errorcode", None)
            name = getattr(cause, "sqlite_errorname", type(cause).__name__)
            # The low byte is the primary code; the rest says more of the same.
            kind = StorageFailed if code is None else _ERRORS.get(code & 0xFF, StorageFailed)
            raise kind(f"{self.name}: {cause} ({name}).") from error

    def patiently(self, operation: Callable[[], _T]) -> _T:
        """A file that cannot be read now will not be a moment later either."""
        return operation()

    def check(self, connection: SqlConnection) -> None:
        """Verify the file's pages; raises :class:`BoardCorrupt`."""
        for (message,) in connection.exec_driver_sql("PRAGMA quick_check(1)"):
            if message != "ok":
                raise BoardCorrupt(f"{self.name}: {message}.")


def writer_engine(path: Path, durability: Durability) -> Engine:
    """Return an engine whose connections are all the one that writes and checkpoints; who uses it ends transactions."""
    engine = create_engine(
        "sqlite+pysqlite://",
        poolclass=StaticPool,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        creator=lambda: _connect(path, "rwc"),
    )
    event.listen(engine, "connect", _configure(writer_pragmas(durability)))
    return engine


def over_tables_of(place: FilePlace, engine: Engine) -> Engine:
    """Return ``engine`` with statements about a board's tables meant for those of ``place``."""
    prefix = place.prefix
    if not prefix:
        return engine
    named = engine.execution_options(schema_translate_map={None: prefix})

    def without_schema(_: object, __: object, statement: str, parameters: object, *___: object) -> tuple[str, object]:
        # SQLite has no schemas within a file: what would be one is the beginning of the tables' names.
        return statement.replace(f"{prefix}.", prefix), parameters

    event.listen(named, "before_cursor_execute", without_schema, retval=True)
    return named


def prefix_of(connection: SqlConnection) -> str:
    """Return what the names of the tables begin with that statements over ``connection`` mean."""
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get(None) or ""


def writer_pragmas(durability: Durability) -> tuple[str, ...]:
    """Return the settings of the connection that writes."""
    return (
        "journal_mode=WAL",
        f"synchronous={durability.upper()}",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        "journal_size_limit=67108864",
        f"cache_size=-{CACHE_KIB}",
    )


def reader_engine(path: Path, first: tuple[str, ...] = ()) -> Engine:
    """Return an engine of connections that cannot write; each runs the statements ``first`` when it is opened."""
    engine = create_engine(
        "sqlite+pysqlite://",
        poolclass=QueuePool,
        pool_size=READERS,
        max_overflow=0,
        pool_timeout=READER_SECONDS,
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        creator=lambda: _connect(path, "ro"),
    )
    event.listen(engine, "connect", _configure(("query_only=ON", "wal_autocheckpoint=0"), first))
    return engine


def _connect(path: Path, mode: Literal["ro", "rwc"]) -> sqlite3.Connection:
    # The address form quotes whatever the path holds, and alone can ask for reading only.
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False)


def _configure(pragmas: tuple[str, ...], first: tuple[str, ...] = ()) -> Callable[[sqlite3.Connection, object], None]:
    def configure(connection: sqlite3.Connection, _: object) -> None:
        # The driver must not open transactions of its own: the begin event does, with the right kind of lock.
        connection.isolation_level = None
        for statement in first:
            connection.execute(statement).close()
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    return configure

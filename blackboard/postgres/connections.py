"""Connections to a board's PostgreSQL database, and the translation of its errors."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from agentsys.blackboard.database import READER_SECONDS, READERS, Durability
from agentsys.blackboard.entries import InvalidName
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.link import Driver, Link, LinkPool
from agentsys.blackboard.storage import (
    BoardCorrupt,
    BoardForbidden,
    BoardFull,
    BoardMissing,
    BoardUnreachable,
    StorageFailed,
)
from agentsys.errors import BoardError

# Plans are made once, while the tables may still be empty: only a loop over an index stays good as the tables grow.
_OTHER_PLANS: Final = ("seqscan", "bitmapscan", "material", "hashjoin", "mergejoin")
_LINK_OPTIONS: Final = " ".join(
    f"-c {setting}"
    for setting in (
        "plan_cache_mode=force_generic_plan",
        "jit=off",
        "default_transaction_read_only=off",
        *(f"enable_{kind}=off" for kind in _OTHER_PLANS),
    )
)

PATIENCE_SECONDS: Final = 30.0
"""How long an operation outlives the loss of the database: a restart with recovery takes a few seconds."""
RETRY_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 5
SILENCE_SECONDS: Final = 10
"""After how long a peer counts as gone that vanished without a word."""
LONGEST_SECONDS: Final = PATIENCE_SECONDS + SILENCE_SECONDS + CONNECT_SECONDS
"""How long an operation lasts at most where the database does not come back: its last try ends late."""

_T = TypeVar("_T")
_PROBES: Final = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
_KEEPALIVE: Final = {
    # A peer that vanished without a word is noticed within seconds, not hours.
    "connect_timeout": CONNECT_SECONDS,
    **_PROBES,
    "tcp_user_timeout": SILENCE_SECONDS * 1000,
}
_PEER: Final = " ".join(
    f"-c {setting}"
    for setting in (
        # The same for the server: it else keeps the locks of a client that vanished in a transaction for two hours.
        *(f"tcp_{name}={value}" for name, value in _PROBES.items()),
        f"tcp_user_timeout={SILENCE_SECONDS}s",
        # One that hangs there is connected all the same.
        f"idle_in_transaction_session_timeout={PATIENCE_SECONDS:.0f}s",
    )
)
_BY_CLASS: Final[dict[str, type[BoardError]]] = {"08": BoardUnreachable, "53": BoardFull, "XX": BoardCorrupt}
_BY_STATE: Final[dict[str, type[BoardError]]] = {
    "53300": BoardUnreachable,
    "54000": InvalidName,
    "25P03": BoardUnreachable,
    "57P01": BoardUnreachable,
    "57P02": BoardUnreachable,
    "57P03": BoardUnreachable,
    "55P03": BoardBusy,
    "42501": BoardForbidden,
    "3D000": BoardMissing,
    "42P01": BoardMissing,
}


class PostgresDatabase:
    """One board's place in a database: engines for reading and for writing it."""

    def __init__(self, address: Address, durability: Durability = "full") -> None:
        self.address = address
        self.durability = durability
        self.name = address.name
        self.readers = _engine(address, "-c default_transaction_read_only=on", pool_size=READERS)
        self.writers = _engine(address, "-c default_transaction_read_only=off", pool_size=3)
        # Queue, leases and wake-ups may be lost with the server: who misses an answer asks again.
        self.couriers = _engine(address, "-c synchronous_commit=off", pool_size=3)
        event.listen(self.writers, "connect", _durable if durability == "full" else _hasty)
        self.reads = LinkPool(lambda: self.link("normal"))

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise database errors as the board's own, naming the board."""
        try:
            yield
        except (DBAPIError, psycopg.Error) as error:
            cause: Any = error.orig if isinstance(error, DBAPIError) else error
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            raise _kind_of(cause, lost)(f"{self.name}: {_first_line(cause)}.") from error

    def check(self, connection: Connection) -> None:
        """PostgreSQL verifies pages when it reads them; there is nothing to ask beforehand."""

    def patiently(self, operation: Callable[[], _T]) -> _T:
        """Repeat ``operation``, which must be harmless to repeat, while the database cannot be reached."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return operation()
            except BoardUnreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def link(self, durability: Durability) -> Link:
        """Return a link to the board's tables, whose commits wait for the disk only with ``full`` durability."""

        def opened() -> Driver:
            connection = connect(self.address, f"-c search_path={self.address.schema} {_LINK_OPTIONS}")
            try:
                (_durable if durability == "full" else _hasty)(connection, None)
            except BaseException:
                connection.close()
                raise
            return connection

        return Link(opened, self.translated_errors)

    def close(self) -> None:
        self.reads.close()
        for engine in (self.readers, self.writers, self.couriers):
            engine.dispose()


def connect(address: Address, options: str = "") -> Driver:
    """Return a connection of the driver's own, in autocommit mode; ``options`` are those of the server's command."""
    arguments: dict[str, Any] = address.url.translate_connect_args(username="user", database="dbname")
    arguments |= {**_KEEPALIVE, **address.url.query, "application_name": "agentsys"}
    arguments["options"] = f"{_PEER} {address.url.query.get('options', '')} {options}"
    return psycopg.connect(**arguments, autocommit=True)


def _engine(address: Address, options: str, *, pool_size: int) -> Engine:
    given = address.url.query.get("options", "")
    return create_engine(
        address.url.difference_update_query(["options"]),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=READER_SECONDS,
        pool_reset_on_return=None if "read_only=on" in options else "rollback",
        isolation_level="READ COMMITTED" if "read_only=off" in options else "AUTOCOMMIT",
        connect_args={
            # What the address says goes before.
            **{name: value for name, value in _KEEPALIVE.items() if name not in address.url.query},
            "application_name": "agentsys",
            "options": f"{_PEER} {given} -c search_path={address.schema} {options}",
        },
    )


def _durable(connection: Any, _: object) -> None:
    """Wait for the disk at every commit, also where the server's default does not; a stronger default stays."""
    (level,) = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()
    if level == "off":
        connection.execute("SET synchronous_commit = on")
    connection.commit()


def _hasty(connection: Any, _: object) -> None:
    connection.execute("SET synchronous_commit = off")
    connection.commit()


def _kind_of(cause: Any, lost: bool) -> type[BoardError]:
    state: str | None = getattr(cause, "sqlstate", None)
    if state is None:
        # Without a word from the server, the connection is at fault.
        unreachable = lost or isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError))
        return BoardUnreachable if unreachable else StorageFailed
    return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], StorageFailed)


def _first_line(cause: Any) -> str:
    return str(cause).strip().partition("\n")[0].rstrip(".") or type(cause).__name__

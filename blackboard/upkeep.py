"""Steps of upkeep: each one transaction, in the process that leads or in any, between the others' commits."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Table, and_, delete, exists, func, insert, or_, select, update

from agentsys.blackboard.payloads import erased_id, stored_digest
from agentsys.blackboard.schema import (
    BOARD,
    COMMITS,
    CURSORS,
    EFFECT_EVENTS,
    ENTRIES,
    PAYLOADS,
    SNAPSHOT_LEASES,
)
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.blackboard.verification import IS_ERASED

LONGEST_LEASE_SECONDS: Final = 86_400.0
"""For how long a lease holds at most without being renewed."""
MOST_ERASED: Final = 1_000
"""Values that go in one step, for which commits wait."""


@dataclass(frozen=True, slots=True)
class AdvanceHorizon:
    """Refuse readers of states before ``horizon`` from now on, unless somebody still needs them."""

    horizon: int

    def run(self, connection: Connection) -> bool:
        """Return whether nothing before the horizon is needed."""
        leases = SNAPSHOT_LEASES.c
        DropExpiredLeases().run(connection)
        needed = exists().where(leases.snapshot < self.horizon) | exists().where(CURSORS.c.position < self.horizon)
        if connection.execute(select(needed)).scalar():
            return False
        connection.execute(update(BOARD).where(BOARD.c.horizon < self.horizon).values(horizon=self.horizon))
        return True


@dataclass(frozen=True, slots=True)
class DropRange:
    """Drop what the commits after ``after`` up to ``to`` wrote, as far as only states before ``horizon`` need it."""

    after: int
    to: int
    horizon: int

    def run(self, connection: Connection) -> tuple[dict[str, int], float]:
        """Return how many rows went, by kind, and for how many seconds that kept others from committing."""
        start = time.perf_counter()
        # Only what is before the horizon is read no more.
        dropped = self._drop(connection) if _horizon(connection) >= self.horizon else {}
        return dropped, time.perf_counter() - start

    def _drop(self, connection: Connection) -> dict[str, int]:
        entries, events = ENTRIES.c, EFFECT_EVENTS.c
        past = (entries.valid_from > self.after, entries.valid_from <= self.to, entries.valid_to <= self.horizon)
        payloads = connection.execute(select(entries.payload).where(*past, entries.payload.is_not(None))).scalars()
        named = set(payloads)
        dropped = {
            "versions": _delete(connection, ENTRIES, *past),
            "effect steps": _delete(
                connection,
                EFFECT_EVENTS,
                events.seq > self.after,
                events.seq <= self.to,
                events.valid_to <= self.horizon,
            ),
            "commits": _delete(
                connection, COMMITS, COMMITS.c.seq > self.after, COMMITS.c.seq <= min(self.to, self.horizon)
            ),
        }
        _drop_unused(connection, named)
        return dropped


@dataclass(frozen=True, slots=True)
class DropExpiredLeases:
    """Drop the leases that nobody has renewed in time."""

    def run(self, connection: Connection) -> None:
        expires_at, time_ = SNAPSHOT_LEASES.c.expires_at, now(connection)
        # One from farther ahead than leases last is from before the clock was set back, or the machine started.
        connection.execute(
            delete(SNAPSHOT_LEASES).where((expires_at <= time_) | (expires_at > time_ + LONGEST_LEASE_SECONDS))
        )


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Keep the states from ``snapshot`` on for ``seconds`` more; a lease of this ``id`` is prolonged."""

    id: str
    snapshot: int
    seconds: float

    def run(self, connection: Connection) -> None:
        """Raises :class:`HistoryCompacted` if they are gone."""
        horizon = _horizon(connection)
        if self.snapshot < horizon:
            raise HistoryCompacted.at(self.snapshot, horizon)
        EndLease(self.id).run(connection)
        until = now(connection) + min(self.seconds, LONGEST_LEASE_SECONDS)
        connection.execute(insert(SNAPSHOT_LEASES).values(id=self.id, snapshot=self.snapshot, expires_at=until))


@dataclass(frozen=True, slots=True)
class EndLease:
    """End a lease; one that is not there has ended."""

    id: str

    def run(self, connection: Connection) -> None:
        connection.execute(delete(SNAPSHOT_LEASES).where(SNAPSHOT_LEASES.c.id == self.id))


@dataclass(frozen=True, slots=True)
class EndSubscription:
    """End a durable subscription, for which nothing is kept any more."""

    name: str

    def run(self, connection: Connection) -> bool:
        """Return whether there was one."""
        return _delete(connection, CURSORS, CURSORS.c.name == self.name) > 0


@dataclass(frozen=True, slots=True)
class EraseValues:
    """Erase what the entries at these addresses held, up to the version that is named with each.

    Of many values only :data:`MOST_ERASED` go: the step is to be done again then.
    """

    versions: tuple[tuple[str, str, int], ...]

    def run(self, connection: Connection) -> int:
        """Return how many values went. Their digests stay, which the log's hashes cover."""
        if connection.dialect.name == "sqlite":
            # What a row held before would stay in the file until something else is written there.
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        try:
            erased = 0
            for version in self.versions:
                erased += self._erase(connection, *version, MOST_ERASED - erased)
            return erased
        finally:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete = OFF")

    def _erase(self, connection: Connection, topic: str, key: str, version: int, most: int) -> int:
        entries = ENTRIES.c
        address = (entries.topic == topic, entries.key == key)
        held = or_(entries.value.is_not(None), and_(entries.payload.is_not(None), ~IS_ERASED))
        found = select(entries.valid_from, entries.value, entries.payload).where(*address, entries.version <= version)
        rows = connection.execute(found.where(held).limit(most)).all()
        for row in rows:
            digest = stored_digest(row.value, row.payload)
            assert digest is not None
            erased = update(ENTRIES).where(*address, entries.valid_from == row.valid_from)
            connection.execute(erased.values(value=None, payload=erased_id(digest)))
        _drop_unused(connection, {row.payload for row in rows if row.payload is not None})
        return len(rows)


def now(connection: Connection) -> float:
    """Return the seconds by a clock that all who open the board share: the database's, or else the machine's uptime."""
    if connection.dialect.name != "postgresql":
        # Nobody sets this one, and all processes of a machine see the same.
        return time.monotonic()
    seconds: float = connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one()
    return float(seconds)


def _horizon(connection: Connection) -> int:
    horizon: int = connection.execute(select(BOARD.c.horizon)).scalar_one()
    return horizon


def _drop_unused(connection: Connection, payloads: Collection[str]) -> None:
    """Drop those of the values stored apart that no entry names any more."""
    if payloads:
        unused = ~exists().where(ENTRIES.c.payload == PAYLOADS.c.id)
        _delete(connection, PAYLOADS, PAYLOADS.c.id.in_(payloads), unused)


def _delete(connection: Connection, table: Table, *where: object) -> int:
    return connection.execute(delete(table).where(*where)).rowcount  # type: ignore[arg-type]

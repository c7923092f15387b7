"""Sessions and the leader's lease: both last until a time of the database's clock, unless they are renewed.

The leader is the opening whose number the board's row names; its lease is that of its session. It may end unnoticed,
while its process is frozen: every commit therefore names the leader as a condition, and the next leader changes it.
"""

import time
from typing import Any, Final

from sqlalchemy import DateTime, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from agentsys.blackboard.postgres.address import LONGEST_LEASE
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.postgres.storage import count_opening
from agentsys.blackboard.schema import BOARD, SESSIONS, SUBMISSIONS

DRIFT: Final = 0.8
"""Part of a lease in which its holder relies on it by its own clock."""
KEPT_SECONDS: Final = 3600.0
"""How long the session of a dead process is kept."""


def _now(plus_seconds: float = 0.0) -> Any:
    return cast(func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, plus_seconds), DateTime(timezone=True))


def is_lasting(sessions: Any) -> Any:
    """Whether a session lasts. One from farther ahead than leases go is from before the clock was set back."""
    return (sessions.c.alive_until > _now()) & (sessions.c.alive_until <= _now(LONGEST_LEASE))


class Lease:
    """One opening's session. Used by one thread, save for :meth:`alive` and :attr:`certain`."""

    def __init__(self, database: PostgresDatabase) -> None:
        """Count an opening and begin its session."""
        self._database = database
        self._seconds = database.address.lease
        self._certain_until = 0.0
        self.others = 0
        """How many other openings there were at the last renewal."""
        self.epoch = count_opening(database)
        self.revive()

    @property
    def certain(self) -> bool:
        """Whether the session surely lasts: no other process can lead now if this one did at the last renewal."""
        return time.monotonic() < self._certain_until

    def renew(self) -> bool:
        """Prolong the session; return whether it had lasted until now, or else is for :meth:`revive` to begin anew."""
        asked = time.monotonic()
        lasting = (SESSIONS.c.epoch == self.epoch, is_lasting(SESSIONS))
        living = SESSIONS.alias("living")
        others = select(func.count()).where(living.c.epoch != self.epoch, is_lasting(living))
        renewal = update(SESSIONS).where(*lasting).values(alive_until=_now(self._seconds))
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            found = connection.execute(renewal.returning(others.scalar_subquery())).first()
        if found is not None:
            self.others = found[0]
            self._certain_until = asked + DRIFT * self._seconds
            return True
        self._certain_until = 0.0
        return False

    def revive(self) -> None:
        """Begin the session anew, as one that may have ended."""
        asked = time.monotonic()
        new = insert(SESSIONS).values(epoch=self.epoch, alive_until=_now(self._seconds))
        self._execute(new.on_conflict_do_update(index_elements=["epoch"], set_={"alive_until": _now(self._seconds)}))
        self._certain_until = asked + DRIFT * self._seconds

    def vacant(self) -> bool:
        """Whether nobody leads, or this opening does, or the leader's session has ended: a look that locks nothing."""
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            row = connection.execute(
                select(BOARD.c.leader, is_lasting(SESSIONS)).outerjoin(SESSIONS, SESSIONS.c.epoch == BOARD.c.leader)
            ).one()
        return row[0] is None or row[0] == self.epoch or not row[1]

    def try_lead(self) -> bool:
        """Become the leader if :meth:`vacant`, for certain; what the leader before had not committed then fails."""
        with self._database.translated_errors(), self._database.writers.begin() as connection:
            leader = connection.execute(select(BOARD.c.leader).with_for_update()).scalar_one()
            if leader not in (None, self.epoch):
                # Its renewal either comes first, and is seen here, or comes too late and is refused.
                lasting = select(is_lasting(SESSIONS)).where(SESSIONS.c.epoch == leader).with_for_update()
                if connection.execute(lasting).scalar():
                    return False
            connection.execute(update(BOARD).values(leader=self.epoch))
            return True

    def resign(self) -> None:
        """Stop leading, if this opening does."""
        self._execute(update(BOARD).where(BOARD.c.leader == self.epoch).values(leader=None))

    def end(self) -> None:
        """End the session."""
        self._certain_until = 0.0
        self._execute(delete(SESSIONS).where(SESSIONS.c.epoch == self.epoch))

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened the board as ``epoch`` still has it open, as far as its session says."""
        if epoch == self.epoch:
            return True
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            lasting = select(is_lasting(SESSIONS)).where(SESSIONS.c.epoch == epoch)
            return bool(connection.execute(lasting).scalar())

    def tidy(self) -> None:
        """Remove sessions that ended long ago, and requests and answers of those that ended."""
        until = SESSIONS.c.alive_until
        self._execute(delete(SESSIONS).where((until < _now(-KEPT_SECONDS)) | (until > _now(LONGEST_LEASE))))
        living = select(SESSIONS.c.epoch).where(is_lasting(SESSIONS))
        self._execute(delete(SUBMISSIONS).where(SUBMISSIONS.c.epoch.not_in(living)))

    def _execute(self, statement: Any) -> int:
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            return connection.execute(statement).rowcount

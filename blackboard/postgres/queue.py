"""The queue of requests to the leader, and its answers: a table, since every process reaches the database already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.schema import SUBMISSIONS


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that the leader takes up; ``before`` it another term may have answered it, unheard."""

    id: str
    request: str
    before: bool


class SubmissionQueue:
    """The table as one opening, ``epoch``, sees it. Used by one thread."""

    def __init__(self, database: PostgresDatabase, epoch: int) -> None:
        self._database = database
        self._epoch = epoch

    def submit(self, requests: Mapping[str, str]) -> None:
        """Add requests by id; one that is there already stays as it is."""
        rows = [{"id": id_, "epoch": self._epoch, "request": request} for id_, request in requests.items()]
        self._execute(insert(SUBMISSIONS).on_conflict_do_nothing(), rows)

    def collect(self) -> dict[str, str]:
        """Remove and return the answers to this opening's requests."""
        mine = (SUBMISSIONS.c.epoch == self._epoch, SUBMISSIONS.c.answer.is_not(None))
        rows = self._rows(delete(SUBMISSIONS).where(*mine).returning(SUBMISSIONS.c.id, SUBMISSIONS.c.answer))
        return {row.id: row.answer for row in rows}

    def withdraw(self) -> None:
        """Remove this opening's requests, answered or not."""
        self._execute(delete(SUBMISSIONS).where(SUBMISSIONS.c.epoch == self._epoch))

    def take(self, term: str) -> list[Taken]:
        """Return the requests that were not taken in this ``term`` of leading yet."""
        old = SUBMISSIONS.alias("old")
        open_ = (
            select(old.c.id, old.c.taken_by)
            .where(old.c.answer.is_(None), old.c.taken_by.is_distinct_from(term))
            .with_for_update()
            .cte("open")
        )
        taken = update(SUBMISSIONS).where(SUBMISSIONS.c.id == open_.c.id).values(taken_by=term)
        rows = self._rows(taken.returning(SUBMISSIONS.c.id, SUBMISSIONS.c.request, open_.c.taken_by))
        return [Taken(row[0], row[1], row[2] is not None) for row in rows]

    def answer(self, answers: Mapping[str, str]) -> None:
        """Store answers by id of the request; requests that were withdrawn are passed over."""
        statement = (
            update(SUBMISSIONS).where(SUBMISSIONS.c.id == bindparam("of_id")).values(answer=bindparam("with_answer"))
        )
        self._execute(statement, [{"of_id": id_, "with_answer": answer} for id_, answer in answers.items()])

    def notify(self, *signals: str) -> None:
        """Wake the other processes, each signal once."""
        channel = self._database.address.schema
        self._rows(select(*(func.pg_notify(channel, signal) for signal in signals)))

    def _execute(self, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            connection.execute(statement, rows or {})

    def _rows(self, statement: Any) -> list[Any]:
        with self._database.translated_errors(), self._database.couriers.connect() as connection:
            return list(connection.execute(statement).all())

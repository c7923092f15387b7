"""The queue of requests to the leader, and its answers: a table, since every process reaches the database already.

Each step is one statement, which also wakes whom it concerns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentsys.blackboard.postgres.address import OPENING_MARK
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.postgres.link import records, recordset
from agentsys.blackboard.storage import StorageFailed
from agentsys.blackboard.wire import from_text, to_text

CALL: Final = "call"
"""Signal to one opening: there are requests for it, if it leads, or answers."""

_SUBMIT: Final = (
    "WITH added AS (INSERT INTO submission (id, epoch, request)"  # noqa: S608
    f" SELECT id, epoch, request FROM {recordset({'id': 'text', 'epoch': 'bigint', 'request': 'text'}, 'new')}"
    f" ON CONFLICT DO NOTHING) SELECT pg_notify(%s::text || '{OPENING_MARK}' || coalesce(leader, 0), %s) FROM board"
)
_COLLECT: Final = "DELETE FROM submission WHERE epoch = %s AND answer IS NOT NULL RETURNING id, answer"
_WITHDRAW: Final = "DELETE FROM submission WHERE epoch = %s"
_TAKE: Final = (
    "WITH open AS (SELECT id, taken_by FROM submission WHERE answer IS NULL AND taken_by IS DISTINCT FROM %s"
    " AND epoch IN (SELECT epoch FROM session WHERE alive_until > clock_timestamp()) FOR UPDATE)"
    " UPDATE submission AS at SET taken_by = %s FROM open WHERE at.id = open.id"
    " RETURNING at.id, at.request, open.taken_by IS NOT NULL"
)
_ANSWER: Final = (
    "WITH given AS (UPDATE submission AS at SET answer = new.answer"  # noqa: S608
    f" FROM {recordset({'id': 'text', 'answer': 'text'}, 'new')} WHERE at.id = new.id RETURNING at.epoch)"
    f" SELECT pg_notify(channel, signal) FROM (SELECT %s::text || '{OPENING_MARK}' || epoch, %s::text FROM given"
    " UNION SELECT %s::text, json_array_elements_text(%s::json)) AS told (channel, signal)"
)


def written(value: object, what: str) -> str | StorageFailed:
    """Return the text of a request or an answer, or the error that it has none which a database takes."""
    try:
        text = to_text(value)
        text.encode()
    except Exception as error:
        return StorageFailed(f"{what} cannot be sent: {type(error).__name__}: {error}.")
    return text


def read(text: str, what: str) -> Any:
    """Return what ``text`` says, or the error that it cannot be read: it may be of another version of agentsys."""
    try:
        return from_text(text)
    except Exception as error:
        return StorageFailed(f"{what} cannot be read: {type(error).__name__}: {error}.")


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that the leader takes up; ``before`` it another term may have answered it, unheard."""

    id: str
    request: str
    before: bool


class SubmissionQueue:
    """The table as one opening, ``epoch``, sees it. Used by one thread."""

    def __init__(self, database: PostgresDatabase, epoch: int) -> None:
        self._channel = database.address.schema
        self._epoch = epoch
        # It may be lost with the server: who misses an answer asks again.
        self._link = database.link("normal")

    def submit(self, requests: Mapping[str, str]) -> None:
        """Add requests by id, and wake the leader; one that is there already stays as it is."""
        rows = [{"id": id_, "epoch": self._epoch, "request": request} for id_, request in requests.items()]
        self._link.rows(_SUBMIT, (records(rows), self._channel, CALL))

    def collect(self) -> dict[str, str]:
        """Remove and return the answers to this opening's requests."""
        return dict(self._link.rows(_COLLECT, (self._epoch,)))

    def withdraw(self) -> None:
        """Remove this opening's requests, answered or not."""
        self._link.rows(_WITHDRAW, (self._epoch,))

    def take(self, term: str) -> list[Taken]:
        """Return the requests that were not taken in this ``term`` of leading yet, save those of the dead.

        Nobody waits for these, and what their process began would be found begun after others had taken up its work.
        """
        return [Taken(*row) for row in self._link.rows(_TAKE, (term, term))]

    def answer(self, answers: Mapping[str, str], signals: Sequence[str] = ()) -> None:
        """Store answers by id of the request, wake who waits for them, and give ``signals`` to all.

        Requests that were withdrawn are passed over.
        """
        rows = [{"id": id_, "answer": answer} for id_, answer in answers.items()]
        self._link.rows(_ANSWER, (records(rows), self._channel, CALL, self._channel, records(signals)))

    def close(self) -> None:
        self._link.close()

"""Verification: the board holds what was committed, from the horizon on; and at the horizon what was recorded there."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import Select, exists, func, select

from agentsys.blackboard.chain import GENESIS, commit_hash
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.payloads import ERASED, stored_digest, text_digest
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import AnyRow
from agentsys.blackboard.schema import COMMITS, EFFECT_EVENTS, ENTRIES, PAYLOADS
from agentsys.blackboard.state_digest import state_digest
from agentsys.blackboard.storage import BoardCorrupt, BoardState, ChainBroken, HistoryCompacted

COMPACTIONS: Final = "board/compactions"
"""Topic of the records of compactions; the key is the horizon."""

ERASURES: Final = "board/erasures"
"""Topic of the records of erasures: `{"versions": [[topic, key, newest version], …], "reason": …}`."""

PAGE: Final = 500
PAYLOADS_PAGE: Final = 50

_ENTRY_SPANS: Final = select(
    ENTRIES.c.valid_from.label("seq"),
    ENTRIES.c.valid_to,
    func.lead(ENTRIES.c.valid_from)
    .over(partition_by=[ENTRIES.c.topic, ENTRIES.c.key], order_by=ENTRIES.c.valid_from)
    .label("next_seq"),
).subquery()
_EFFECT_SPANS: Final = select(
    EFFECT_EVENTS.c.seq,
    EFFECT_EVENTS.c.valid_to,
    func.lead(EFFECT_EVENTS.c.seq)
    .over(partition_by=EFFECT_EVENTS.c.effect_id, order_by=[EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal])
    .label("next_seq"),
).subquery()


IS_ERASED: Final = ENTRIES.c.payload.startswith(f"{ERASED}:")
_ERASED: Final = (
    select(ENTRIES.c.topic, ENTRIES.c.key, ENTRIES.c.version, ENTRIES.c.valid_from)
    .where(IS_ERASED)
    .order_by(ENTRIES.c.valid_from)
)


class Selecting(Protocol):
    """What gives rows of the board's tables."""

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]: ...


class LogReader(Selecting, Protocol):
    """What verification reads."""

    @property
    def name(self) -> str: ...

    def state(self) -> BoardState: ...

    def query_at(self, predicate: Predicate, at: int) -> list[Entry]: ...

    def version_at(self, topic: str, key: str, at: int) -> Entry | None: ...

    def assemble(self, rows: Sequence[AnyRow]) -> Iterable[tuple[Commit, tuple[str | None, ...]]]: ...


def verify(reader: LogReader) -> int:
    """Check every hash of the log from the horizon on, and what was kept of the past before; return the last commit.

    Raises :class:`ChainBroken`.
    """
    while True:
        # Before the state, which then has the record of each.
        erased = reader.select(_ERASED)
        state = reader.state()
        try:
            _check_readable(reader, state, erased)
        except (ChainBroken, HistoryCompacted):
            # While a compaction goes on, what is read now and what was read a moment ago need not fit together.
            if reader.state().horizon == state.horizon:
                raise
        else:
            if reader.state().horizon == state.horizon:
                return state.head


def _check_readable(reader: LogReader, state: BoardState, erased: Sequence[AnyRow]) -> None:
    try:
        _check(reader, state, erased)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ChainBroken(f"{reader.name}: something stored is not what the board writes: {error}.") from error


def _check(reader: LogReader, state: BoardState, erased: Sequence[AnyRow]) -> None:
    _check_payloads(reader)
    _check_erasures(reader, state.head, erased)
    _check_log(reader, state, GENESIS if state.horizon == 0 else _check_past(reader, state))
    for spans in (_ENTRY_SPANS, _EFFECT_SPANS):
        # A version is current until exactly the commit that wrote the next one.
        wrong = select(spans.c.seq).where(spans.c.valid_to.is_distinct_from(spans.c.next_seq)).limit(1)
        for row in reader.select(wrong):
            raise ChainBroken(f"{reader.name}: the time for which commit {row.seq} holds was changed.")


def _check_payloads(reader: LogReader) -> None:
    """Check what is stored apart; that it is there, and what the entries name."""
    last = ""
    statement = select(PAYLOADS).order_by(PAYLOADS.c.id).limit(PAYLOADS_PAGE)
    while page := reader.select(statement.where(PAYLOADS.c.id > last)):
        for row in page:
            if stored_digest(None, row.id) != text_digest(row.text):
                raise ChainBroken(f"{reader.name}: the value stored as {row.id} was altered.")
        last = page[-1].id
    missing = ~exists().where(PAYLOADS.c.id == ENTRIES.c.payload)
    named = select(ENTRIES.c.valid_from).where(ENTRIES.c.payload.is_not(None), missing, ~IS_ERASED)
    for row in reader.select(named.order_by(ENTRIES.c.valid_from).limit(1)):
        raise ChainBroken(f"{reader.name}: a value that commit {row.valid_from} wrote is missing.")


def _check_erasures(reader: LogReader, head: int, erased: Sequence[AnyRow]) -> None:
    """Check that the log says of every value that was erased that it should be."""
    newest = recorded_versions(reader.query_at(Predicate(topic=ERASURES), head))
    for row in erased:
        if newest.get((row.topic, row.key), 0) < row.version:
            raise ChainBroken(f"{reader.name}: a value that commit {row.valid_from} wrote is gone without a record.")


def recorded_versions(records: Iterable[Entry]) -> dict[Key, int]:
    """Return up to which version records of erasures say that entries go, by address."""
    newest: dict[Key, int] = {}
    for record in records:
        versions = record.value.get("versions") if isinstance(record.value, dict) else None
        for topic, key, version in versions if isinstance(versions, list) else []:
            newest[topic, key] = max(version, newest.get((topic, key), 0))
    return newest


def erased_values(reader: "Selecting") -> int:
    """Return how many values of the board were erased."""
    count: int = reader.select(select(func.count()).where(IS_ERASED))[0][0]
    return count


def _check_past(reader: LogReader, state: BoardState) -> str:
    """Check what was kept at the horizon against the record of the compaction; return the log's hash there."""
    record = reader.version_at(COMPACTIONS, str(state.horizon), state.head)
    # A record that is no older than what it tells of is part of the log that follows, and so of its hashes.
    if record is None or record.seq <= state.horizon or not isinstance(record.value, dict):
        raise ChainBroken(f"{reader.name}: no compaction is on record at commit {state.horizon}, where the log begins.")
    if record.value.get("state") != state_digest(reader.select, state.horizon):
        raise ChainBroken(f"{reader.name}: what was current at commit {state.horizon} is not what a compaction kept.")
    return str(record.value.get("hash"))


def _check_log(reader: LogReader, state: BoardState, previous: str) -> None:
    seq = state.horizon
    statement = select(COMMITS).order_by(COMMITS.c.seq).limit(PAGE)
    while page := reader.select(statement.where(COMMITS.c.seq > seq, COMMITS.c.seq <= state.head)):
        for commit, digests in _assembled_or_broken(reader, page):
            seq += 1
            if commit.seq != seq or commit.prev_hash != previous or commit_hash(commit, digests) != commit.hash:
                raise ChainBroken(f"{reader.name}: commit {seq} of {state.head} is not what was committed.")
            previous = commit.hash
    if (seq, previous) != (state.head, state.head_hash):
        raise ChainBroken(f"{reader.name}: the log ends at commit {seq}, the board at {state.head}.")


def _assembled_or_broken(reader: LogReader, rows: Sequence[AnyRow]) -> list[tuple[Commit, tuple[str | None, ...]]]:
    try:
        return list(reader.assemble(rows))
    except (ValueError, TypeError, KeyError, RecursionError, BoardCorrupt) as error:
        raise ChainBroken(f"{reader.name}: commits {rows[0].seq} to {rows[-1].seq}: {error}.") from error

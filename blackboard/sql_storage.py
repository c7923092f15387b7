"""The writing side of a board in SQLAlchemy Core: what SQLite and PostgreSQL have in common."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Final

from sqlalchemy import Engine, and_, func, select

from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.entries import Entry, Key
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.reads import Database, SqlReader
from agentsys.blackboard.recent import RecentHeads
from agentsys.blackboard.rows import ENTRY_COLUMNS, entry_columns, entry_from_row
from agentsys.blackboard.schema import CURSORS, ENTRIES
from agentsys.blackboard.selection import addressed
from agentsys.blackboard.storage import Change, LogMoved, PreparedCommit

_OLD: Final = ENTRIES.alias("old")
_BEFORE: Final = ENTRIES.alias("before")
_IS_OLD: Final = and_(
    _OLD.c.topic == ENTRIES.c.topic,
    _OLD.c.key == ENTRIES.c.key,
    _OLD.c.valid_from
    == select(func.max(_BEFORE.c.valid_from))
    .where(
        _BEFORE.c.topic == ENTRIES.c.topic,
        _BEFORE.c.key == ENTRIES.c.key,
        _BEFORE.c.valid_from < ENTRIES.c.valid_from,
    )
    .scalar_subquery(),
)

_CHANGES: Final = select(*ENTRY_COLUMNS, *entry_columns(_OLD)).select_from(ENTRIES.outerjoin(_OLD, _IS_OLD))

# Expressions that no index serves: SQLite would else look through a topic's whole past instead of the newest commits.
_BY_COMMIT: Final = SimpleNamespace(topic=ENTRIES.c.topic.concat(""), key=ENTRIES.c.key.concat(""))


class SqlStorage(SqlReader, ABC):
    """Storage under ``epoch``: of the board's processes, the one that leads. Remembers what it wrote last."""

    def __init__(self, readers: Engine, database: Database, epoch: int) -> None:
        super().__init__(readers, database)
        self.epoch = epoch
        self._recent = RecentHeads()

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        return self.remembered(topic, key, at) or super().version_at(topic, key, at)

    def remembered(self, topic: str, key: str, at: int) -> Entry | None:
        """Return the version at a commit, if that was written here and not long ago."""
        # Asked first: what was forgotten meanwhile, as others had written, is not taken for the newest.
        newest = self._recent.newest
        recent = self._recent.get((topic, key))
        # Beyond what this object wrote, another process may have led and written.
        return recent if recent is not None and recent.seq <= at <= newest else None

    def heads(self, keys: Collection[Key], *, values: bool = True) -> dict[Key, Entry]:
        if values:
            recent = {key: self._recent.get(key) for key in keys}
            found = {key: entry for key, entry in recent.items() if entry is not None}
        else:
            found = self._recent.without_values(keys)
        if len(found) < len(keys):
            missing = [key for key in keys if key not in found]
            found.update((entry.address, entry) for entry in self._stored_heads(missing))
        return found

    def changes(self, after: int, predicate: Predicate) -> list[Change]:
        recent = ENTRIES.c.valid_from > after
        statement = _CHANGES.where(recent, *addressed(predicate, _BY_COMMIT)).order_by(ENTRIES.c.valid_from)
        width = len(ENTRY_COLUMNS)
        found = []
        for row in self._rows(statement):
            old = row[width:]
            change = Change(None if old[0] is None else entry_from_row(old), entry_from_row(row[:width]))
            if change.concerns(predicate):
                found.append(change)
        self._check_past(after, self._horizon())
        return found

    def append(self, commits: Sequence[PreparedCommit]) -> None:
        try:
            self._store(BatchRows.of(commits))
        except BaseException:
            # Whether the write reached the disk is unknown, and so is which version is newest.
            self._recent.clear()
            raise
        for item in commits:
            self._recent.record(item)

    def check_head(self, head: int) -> None:
        stored = self.state().head
        if stored != head:
            self._recent.clear()
            raise LogMoved(f"{self.name}: the log ends at commit {stored}, not at {head}.")

    def positions(self, names: Collection[str]) -> Mapping[str, int]:
        rows = self._rows(select(CURSORS.c.name, CURSORS.c.position).where(CURSORS.c.name.in_(names)))
        return {row.name: row.position for row in rows}

    @abstractmethod
    def _horizon(self) -> int:
        """Return the horizon as it is now."""

    @abstractmethod
    def _stored_heads(self, keys: Collection[Key]) -> Iterable[Entry]:
        """Return the newest version of each address that has one, from the database."""

    @abstractmethod
    def _store(self, rows: BatchRows) -> None:
        """Store ``rows`` durably in one step, or none. Raises :class:`StaleEpoch` after a take-over."""

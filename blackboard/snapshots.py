"""Statements that read the board as it was after a commit, at a cost that does not grow with an entry's past."""

from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, func, or_, select, true

from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import ENTRY_COLUMNS
from agentsys.blackboard.schema import BOARD, ENTRIES
from agentsys.blackboard.selection import addressed, described

Statement = Select[*tuple[Any, ...]]

_HEAD: Final = ENTRIES.alias("head")
_EARLIER: Final = ENTRIES.alias("earlier")

HORIZON: Final = select(BOARD.c.horizon).scalar_subquery()
"""The last column of the statements below: what was read is right if the horizon was not past it at that moment."""

VERSION_AT: Final = (
    select(*ENTRY_COLUMNS, HORIZON)
    .where(
        ENTRIES.c.topic == bindparam("topic"),
        ENTRIES.c.key == bindparam("key"),
        ENTRIES.c.valid_from <= bindparam("at"),
    )
    .order_by(ENTRIES.c.valid_from.desc())
    .limit(1)
)
"""The version of the entry ``topic``, ``key`` that was current at commit ``at``, deletions included."""


def query_at(predicate: Predicate, dialect: str) -> Statement:
    """Return the statement for the entries that exist at commit ``at``, by address.

    It goes from each entry's newest version, of which an index tells, to the one that was current. What the
    predicate's ``equals`` asks is left to the caller.
    """
    found, version = _lateral() if dialect == "postgresql" else _joined()
    there = or_(version.value.is_not(None), version.payload.is_not(None))
    conditions = [*addressed(predicate, _HEAD.c), *described(predicate, version)]
    return found.where(_HEAD.c.valid_to.is_(None), there, *conditions).order_by(_HEAD.c.topic, _HEAD.c.key)


def labels_at(predicate: Predicate) -> Statement:
    """Return the statement for the labels, as texts, of what stood at commit ``at`` wherever the predicate reaches.

    Ends of entries count, and versions that do not match: who wrote them had a say in what is found.
    """
    found, version = _joined()
    reached = found.where(_HEAD.c.valid_to.is_(None), *addressed(predicate, _HEAD.c))
    return reached.with_only_columns(version.label).distinct()


def _joined() -> tuple[Statement, Any]:
    then = (
        select(func.max(_EARLIER.c.valid_from))
        .where(*_same_address(_EARLIER.c), _EARLIER.c.valid_from <= bindparam("at"))
        .scalar_subquery()
    )
    current = and_(*_same_address(ENTRIES.c), ENTRIES.c.valid_from == then)
    return select(*ENTRY_COLUMNS, HORIZON).join_from(_HEAD, ENTRIES, current), ENTRIES.c


def _lateral() -> tuple[Statement, Any]:
    """Given a join, PostgreSQL may read a topic's whole past at once; a subquery for each entry makes it seek."""
    then = (
        select(*ENTRY_COLUMNS)
        .where(*_same_address(ENTRIES.c), ENTRIES.c.valid_from <= bindparam("at"))
        .order_by(ENTRIES.c.valid_from.desc())
        .limit(1)
        .lateral("version")
    )
    return select(*then.columns, HORIZON).join_from(_HEAD, then, true()), then.columns


def _same_address(entries: Any) -> list[Any]:
    return [entries.topic == _HEAD.c.topic, entries.key == _HEAD.c.key]

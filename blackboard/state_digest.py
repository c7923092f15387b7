"""One digest over the whole state of the board after a commit, as a compaction records it."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Select, and_, or_, select, tuple_

from agentsys.blackboard.payloads import stored_digest
from agentsys.blackboard.rows import AnyRow
from agentsys.blackboard.schema import EFFECT_EVENTS, EFFECTS, ENTRIES

PAGE: Final = 2_000
"""Rows read at once: a longer read would keep SQLite from clearing its log."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_ENTRY: Final = select(
    *(column for column in ENTRIES.columns if column.name not in ("valid_to", "value", "payload")),
    ENTRIES.c.value,
    ENTRIES.c.payload,
).order_by(ENTRIES.c.topic, ENTRIES.c.key, ENTRIES.c.valid_from)
_EFFECT: Final = (
    select(*(column for column in EFFECT_EVENTS.columns if column.name != "valid_to"), *EFFECTS.columns)
    .join(EFFECT_EVENTS, EFFECT_EVENTS.c.effect_id == EFFECTS.c.id)
    .order_by(EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal)
)

Read = Callable[[Select[*tuple[Any, ...]]], Sequence[AnyRow]]


def state_digest(select_rows: Read, at: int) -> str:
    """Return the digest of every entry and effect that is current at commit ``at``, with all that is stored of it.

    Only the commit that supersedes one is left out, which lies beyond ``at``.
    """
    digest = hashlib.sha256()
    for row in _pages(select_rows, _entries_at(at), (ENTRIES.c.topic, ENTRIES.c.key)):
        *fields, text, payload = row
        fields.append(stored_digest(text, payload))
        digest.update(_ENCODER.encode(fields).encode() + b"\n")
    for row in _pages(select_rows, _effects_at(at), (EFFECT_EVENTS.c.seq, EFFECT_EVENTS.c.ordinal)):
        digest.update(_ENCODER.encode([*row]).encode() + b"\n")
    return digest.hexdigest()


def _entries_at(at: int) -> Select[*tuple[Any, ...]]:
    return _ENTRY.where(ENTRIES.c.valid_from <= at, or_(ENTRIES.c.valid_to.is_(None), ENTRIES.c.valid_to > at))


def _effects_at(at: int) -> Select[*tuple[Any, ...]]:
    current = or_(EFFECT_EVENTS.c.valid_to.is_(None), EFFECT_EVENTS.c.valid_to > at)
    return _EFFECT.where(and_(EFFECT_EVENTS.c.seq <= at, current))


def _pages(select_rows: Read, statement: Select[*tuple[Any, ...]], key: tuple[Any, Any]) -> Iterator[AnyRow]:
    """Yield the rows of ``statement``, which is ordered by the columns ``key``, the first two of a row."""
    page = select_rows(statement.limit(PAGE))
    while page:
        yield from page
        page = select_rows(statement.where(tuple_(*key) > tuple_(*page[-1][:2])).limit(PAGE))

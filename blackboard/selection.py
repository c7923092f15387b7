"""Predicates as conditions in SQL, as far as the tables' columns say it."""

from typing import Any

from sqlalchemy import ColumnElement

from agentsys.blackboard.entries import LAST_CODE_POINT
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import ENTRIES


def covers(predicate: Predicate, entries: Any = ENTRIES.c) -> list[ColumnElement[bool]]:
    """Return SQL conditions for :meth:`Predicate.covers` over the columns ``entries``."""
    return addressed(predicate, entries) + described(predicate, entries)


def described(predicate: Predicate, entries: Any = ENTRIES.c) -> list[ColumnElement[bool]]:
    """Return the part of :func:`covers` in which versions of an entry may differ: type and run."""
    conditions: list[ColumnElement[bool]] = []
    if predicate.type is not None:
        conditions.append(entries.type == predicate.type)
    if predicate.run is not None:
        conditions.append(entries.run == predicate.run)
    return conditions


def addressed(predicate: Predicate, entries: Any = ENTRIES.c) -> list[ColumnElement[bool]]:
    """Return the part of :func:`covers` that every version of an entry shares: topic and key."""
    conditions: list[ColumnElement[bool]] = []
    if predicate.topic is not None:
        conditions.append(entries.topic == predicate.topic)
    if predicate.topic_prefix:
        conditions.append(entries.topic >= predicate.topic_prefix)
        conditions.append(entries.topic < predicate.topic_prefix + LAST_CODE_POINT)
    if predicate.key_from is not None:
        conditions.append(entries.key >= predicate.key_from)
    if predicate.key_to is not None:
        conditions.append(entries.key < predicate.key_to)
    return conditions

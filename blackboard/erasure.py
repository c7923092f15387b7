"""Erasure: values go for good, in every version, while the log still proves what is left.

The log's hashes cover the digests of values, which stay. What is erased is deleted by an ordinary commit, which also
puts on record what goes and why; then the values go, a few entries at a time between the others' commits. An erasure
that dies in between is finished by the next one. Who can guess a value can still test the guess by its digest.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy import ColumnElement, Select, or_, select

from agentsys.blackboard import upkeep
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry, Json, Key
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import AnyRow, label_from_text
from agentsys.blackboard.schema import ENTRIES
from agentsys.blackboard.selection import addressed
from agentsys.blackboard.storage import BoardState, Maintenance
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.upkeep import EraseValues
from agentsys.blackboard.verification import COMPACTIONS, ERASURES, IS_ERASED, recorded_versions

SLICE: Final = 64
"""Entries whose values go in one step."""
RECORDED: Final = 1_000
"""Entries that one commit ends and puts on record: many would lose to others' commits, and make them wait."""
ATTEMPTS: Final = 20
_OWN: Final = ENTRIES.c.topic.not_in([COMPACTIONS, ERASURES])
_HELD: Final = (_OWN, or_(ENTRIES.c.value.is_not(None), ENTRIES.c.payload.is_not(None) & ~IS_ERASED))
_EVER_HELD: Final = (_OWN, or_(ENTRIES.c.value.is_not(None), ENTRIES.c.payload.is_not(None)))
"""What was erased before still tells what was derived from it."""


class Erasable(Protocol):
    """What erasure needs of a board."""

    def state(self) -> BoardState: ...

    def select(self, statement: Select[*tuple[Any, ...]]) -> Sequence[AnyRow]: ...

    def maintain(self, step: Maintenance) -> Any: ...

    def begin(self, principal: str) -> Transaction: ...

    def commit(self, tx: Transaction) -> Commit: ...

    def query(self, predicate: Predicate) -> list[Entry]: ...


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: the (last) commit that records it, and how many values of how many entries went."""

    seq: int
    entries: int
    values: int


Belonging: TypeAlias = Callable[[Collection[Key]], Collection[Key]]
"""Says what goes with what is erased, though no entry names that as what it was derived from."""


def find(
    board: Erasable,
    where: Predicate | None = None,
    *,
    shaped_by: str | None = None,
    derived: bool = False,
    belonging: Belonging = lambda addresses: (),
) -> list[Key]:
    """Return the addresses at which some version holds a value, by address.

    ``where`` says which, by topic and key alone; ``shaped_by`` by a principal that the label of any version names;
    with ``derived`` also all that was derived from those, step by step, and what is ``belonging`` to it. Records of
    compactions and erasures are none.
    """
    conditions = [*addressed(where or Predicate()), *(_EVER_HELD if derived else _HELD)]
    if shaped_by is not None:
        labels = [row.label for row in board.select(select(ENTRIES.c.label).distinct())]
        conditions.append(ENTRIES.c.label.in_([text for text in labels if shaped_by in _shapers(text)]))
    wanted = _addresses(board, conditions)
    return sorted(_with_derived(board, wanted, belonging) & _addresses(board, _HELD) if derived else wanted)


def erase(
    board: Erasable,
    addresses: Sequence[Key],
    reason: str,
    *,
    principal: str = "board",
    progress: Callable[[int], None] = lambda entries: None,
) -> Erased:
    """Erase all that the entries at ``addresses`` hold and held; return what was done.

    ``progress`` is given the number of entries done. A board's file holds traces until it is shrunk.
    """
    slices = [addresses[start : start + RECORDED] for start in range(0, len(addresses), RECORDED)] or [()]
    commit = [_record(board, part, reason, principal) for part in slices][-1]
    versions = dict.fromkeys(addresses, 0) | recorded_versions(board.query(Predicate(topic=ERASURES)))
    pending = [(topic, key, version) for (topic, key), version in sorted(versions.items())]
    values = 0
    for start in range(0, len(pending), SLICE):
        step = EraseValues(tuple(pending[start : start + SLICE]))
        while went := board.maintain(step):
            values += went
            if went < upkeep.MOST_ERASED:
                break
        progress(min(start + SLICE, len(pending)))
    return Erased(commit.seq, len(addresses), values)


def _addresses(board: Erasable, conditions: Sequence[ColumnElement[bool]]) -> set[Key]:
    rows = board.select(select(ENTRIES.c.topic, ENTRIES.c.key).where(*conditions).distinct())
    return {(row.topic, row.key) for row in rows}


def _shapers(label: str) -> frozenset[str]:
    return label_from_text(label).shaped_by


def _with_derived(board: Erasable, wanted: set[Key], belonging: Belonging) -> set[Key]:
    sources = select(ENTRIES.c.topic, ENTRIES.c.key, ENTRIES.c.derived_from)
    rows = board.select(sources.where(ENTRIES.c.derived_from != "[]", *_EVER_HELD))
    derived: dict[Key, set[Key]] = defaultdict(set)
    for row in rows:
        for topic, key, _ in json.loads(row.derived_from):
            derived[topic, key].add((row.topic, row.key))
    found, unseen = set(wanted), list(wanted)
    while unseen:
        new = derived[unseen.pop()] - found
        if not unseen:
            new |= {*belonging(found | new)} - found
        found |= new
        unseen += new
    return found


def _record(board: Erasable, addresses: Sequence[Key], reason: str, principal: str) -> Commit:
    """Put on record what is erased, and end the entries that are there."""
    for attempt in range(1, ATTEMPTS + 1):
        transaction = board.begin(principal)
        versions: list[Json] = [[*address, version] for address, version in _newest(board, addresses).items()]
        value: Json = {"versions": versions, "reason": reason}
        transaction.put(ERASURES, uuid.uuid4().hex, value, type="erasure", label=Label.trusted())
        for topic, key in addresses:
            transaction.end(topic, key)
        try:
            return board.commit(transaction)
        except Conflict:
            # Somebody wrote there meanwhile: that goes, too.
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("every attempt returns or raises")


def _newest(board: Erasable, addresses: Sequence[Key]) -> dict[Key, int]:
    """Return the newest version at each address."""
    wanted = set(addresses)
    heads = select(ENTRIES.c.topic, ENTRIES.c.key, ENTRIES.c.version).where(ENTRIES.c.valid_to.is_(None))
    topics = sorted({topic for topic, _ in addresses})
    found: dict[Key, int] = {}
    for topic in topics:
        rows = board.select(heads.where(ENTRIES.c.topic == topic))
        found |= {(row.topic, row.key): row.version for row in rows if (row.topic, row.key) in wanted}
    return found

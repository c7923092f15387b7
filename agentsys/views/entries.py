"""Entries of the board as the faces show them: now, as of a commit, and every version of one."""

from dataclasses import dataclass, field

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Endorsement, Entry, EntryVersionRef, Json
from agentsys.blackboard.predicates import Predicate
from agentsys.views.labels import ViewLabel
from agentsys.views.texts import value_text
from agentsys.views.withholding import content, may_read


@dataclass(frozen=True, slots=True)
class EntryView:
    """One version of one entry; ``at`` in unix seconds."""

    topic: str
    key: str
    type: str
    version: int
    value: Json = field(metadata=content())
    label: ViewLabel
    seq: int
    at: float
    writer: str
    run: str | None
    derived_from: tuple[EntryVersionRef, ...]
    endorsement: Endorsement | None = field(metadata=content())
    deleted: bool
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class EntryList:
    """Entries by topic and key; ``more`` says that there are others that match."""

    entries: tuple[EntryView, ...]
    more: bool


def entry_view(entry: Entry) -> EntryView:
    return EntryView(
        topic=entry.topic,
        key=entry.key,
        type=entry.type,
        version=entry.version,
        value=entry.value,
        label=entry.label,
        seq=entry.seq,
        at=entry.committed_at,
        writer=entry.writer,
        run=entry.run,
        derived_from=entry.derived_from,
        endorsement=entry.endorsement,
        deleted=entry.deleted,
    )


def list_entries(
    board: Board,
    reader: str,
    *,
    prefix: str = "",
    run: str | None = None,
    at: int | None = None,
    search: str = "",
    limit: int,
) -> EntryList:
    """Return at most ``limit`` entries whose topic begins with ``prefix`` and that hold the text ``search``.

    With ``run`` those whose version is of that run.
    Values that ``reader`` may not read are not searched: whether one matches would tell of it.
    """
    wanted = search.casefold()
    found = board.query(Predicate(topic_prefix=prefix or None, run=run), at=at, limit=None if wanted else limit + 1)
    matching = [entry for entry in found if not wanted or wanted in searchable_text(entry, reader)]
    return EntryList(tuple(entry_view(entry) for entry in matching[:limit]), len(matching) > limit)


def list_versions(board: Board, topic: str, key: str) -> tuple[EntryView, ...]:
    """Return every version of an entry, the oldest first, deletions included."""
    return tuple(entry_view(entry) for entry in board.history(topic, key))


def searchable_text(entry: Entry, reader: str) -> str:
    """Return what a search by ``reader`` looks at, in folded case."""
    names = (entry.topic, entry.key, entry.type, entry.writer, entry.run or "")
    value = (value_text(entry.value),) if may_read(entry.label, reader) else ()
    return "\n".join((*names, *value)).casefold()

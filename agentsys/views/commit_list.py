"""The board's commits as the faces show them."""

from dataclasses import dataclass
from typing import Final

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.labels import join_all
from agentsys.views.entries import EntryView, entry_view, searchable_text
from agentsys.views.labels import ViewLabel

SCAN_PAGE: Final = 200
MOST_SCANNED: Final = 5_000
"""Commits that one search looks at."""


@dataclass(frozen=True, slots=True)
class CommitRow:
    """One commit: ``at`` in unix seconds, ``wrote`` as ``type key vN`` or ``tool state``.

    ``label`` joins those of all writes; ``None`` without writes.
    """

    seq: int
    at: float
    writer: str
    run: str | None
    topics: tuple[str, ...]
    wrote: tuple[str, ...]
    label: ViewLabel | None


@dataclass(frozen=True, slots=True)
class CommitView:
    """One commit with everything it wrote and its place in the hash chain."""

    row: CommitRow
    entries: tuple[EntryView, ...]
    transaction: str
    snapshot: int
    isolation: str
    hash: str
    previous_hash: str


def newest_commits(
    board: Board, limit: int, run: str | None = None, *, before: int | None = None, search: str = "", reader: str
) -> tuple[CommitRow, ...]:
    """Return the last ``limit`` commits before ``before``, all or those of one run, newest first.

    With ``search`` those that hold the text where ``reader`` may read it, among the last :data:`MOST_SCANNED`.
    """
    wanted = search.casefold()
    if not wanted:
        return tuple(commit_row(commit) for commit in board.commits(before=before, limit=limit, run=run))
    found = list[CommitRow]()
    for _ in range(MOST_SCANNED // SCAN_PAGE):
        page = board.commits(before=before, limit=SCAN_PAGE, run=run)
        found += [commit_row(commit) for commit in page if wanted in _searchable(commit, reader)]
        if len(page) < SCAN_PAGE or len(found) >= limit:
            break
        before = page[-1].seq
    return tuple(found[:limit])


def find_commit(board: Board, seq: int) -> CommitView | None:
    """Return the commit with sequence number ``seq``, or ``None``."""
    found = board.log(after=seq - 1, limit=1) if 1 <= seq <= board.head else []
    if not found or found[0].seq != seq:
        return None
    commit = found[0]
    return CommitView(
        row=commit_row(commit),
        entries=tuple(entry_view(entry) for entry in commit.writes),
        transaction=commit.tx_id,
        snapshot=commit.snapshot,
        isolation=commit.isolation,
        hash=commit.hash,
        previous_hash=commit.prev_hash,
    )


def commit_row(commit: Commit) -> CommitRow:
    writes = [
        f"{entry.type} {entry.key} v{entry.version}{' deleted' if entry.deleted else ''}" for entry in commit.writes
    ]
    effects = [f"{effect.intent.tool} {effect.state}" for effect in commit.effects]
    return CommitRow(
        seq=commit.seq,
        at=commit.at,
        writer=commit.principal,
        run=commit.run,
        topics=tuple(dict.fromkeys(entry.topic for entry in commit.writes)),
        wrote=(*writes, *effects),
        label=join_all(entry.label for entry in commit.writes) if commit.writes else None,
    )


def _searchable(commit: Commit, reader: str) -> str:
    tools = [effect.intent.tool for effect in commit.effects]
    texts = [searchable_text(entry, reader) for entry in commit.writes]
    return "\n".join([commit.principal, commit.run or "", *tools, *texts]).casefold()

"""The board's commits as the console shows them."""

from dataclasses import dataclass

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label, join_all
from agentsys.blackboard.transactions import Commit


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
    label: Label | None


@dataclass(frozen=True, slots=True)
class CommitView:
    """One commit with everything it wrote and its place in the hash chain."""

    row: CommitRow
    entries: tuple[Entry, ...]
    transaction: str
    snapshot: int
    isolation: str
    hash: str
    previous_hash: str


def newest_commits(board: Board, limit: int, run: str | None = None) -> list[CommitRow]:
    """Return the last ``limit`` commits, all or those of one run, newest first."""
    after = 0 if run else max(0, board.head - limit)
    return [commit_row(commit) for commit in reversed(board.log(after=after, run=run)[-limit:])]


def find_commit(board: Board, seq: int) -> CommitView | None:
    """Return the commit with sequence number ``seq``, or ``None``."""
    found = board.log(after=seq - 1, limit=1) if 1 <= seq <= board.head else []
    if not found:
        return None
    commit = found[0]
    return CommitView(
        row=commit_row(commit),
        entries=commit.writes,
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

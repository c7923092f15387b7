"""What a commit over several boards comes to, while nobody else can commit to any of them: all take it, or none does.

A board is a shard: its own log, its own committer. What spans boards adds to each log beside its committer, which finds
the log longer than it knew at its next commit, reads what was added, and goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentsys.blackboard.clearance import told_of
from agentsys.blackboard.commits import Commit, CommitRequest, nothing_committed
from agentsys.blackboard.preparation import check_remembered, prepare
from agentsys.blackboard.storage import BoardState, PreparedCommit, Storage
from agentsys.blackboard.validation import BatchState, validate
from agentsys.errors import BoardError


class BoardsApart(BoardError):
    """A commit over several boards was asked for that no one database can make."""

    code = "AGS-0226"
    remedy = (
        "Keep the boards in one file (FILE?board=NAME) or in one PostgreSQL database, under different names; each "
        "takes one of the transactions."
    )


class PartMissing(BoardError):
    """A commit over several boards is on some of them and not on others, as after one was restored alone."""

    code = "AGS-0227"
    remedy = "Begin new transactions; boards that are written together are backed up and restored together."


class HeldBoard(Storage, Protocol):
    """A board within a transaction of its database that keeps everybody else from committing."""

    @property
    def board(self) -> BoardState:
        """The board as it was when the transaction came to hold it."""

    @property
    def name(self) -> str: ...

    def enter(self) -> None:
        """Let what follows on the transaction's connection mean this board."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one of the boards is asked for. ``alive`` says whether the process of one of its openings still lives."""

    held: HeldBoard
    request: CommitRequest
    alive: Callable[[int], bool]

    @property
    def name(self) -> str:
        return self.held.name


def check_one_place(places: Sequence[str], boards: Sequence[str]) -> None:
    """Raise :class:`BoardsApart` unless different ``boards`` are in one place."""
    apart = sorted(set(places))
    if len(apart) > 1:
        raise BoardsApart(f"The boards to commit to are in {len(apart)} places: {', '.join(apart)}.")
    if len(set(boards)) < len(boards):
        raise BoardsApart("One board has several of the transactions.")


def commit_on_all(parts: Sequence[Part]) -> list[Commit]:
    """Validate each part on its board, then add all; return the commits. Raises what speaks against any part.

    Also a part that writes nothing must still hold what it read: else two transactions over two boards, each reading
    what the other writes, would both go through.
    """
    known = [_known(part) for part in parts]
    if any(known):
        return [
            told_of(commit, part.request) if commit else _nothing(part)
            for commit, part in zip(known, parts, strict=True)
        ]
    prepared = [_prepared(part) for part in parts]
    for part, item in zip(parts, prepared, strict=True):
        if item is not None:
            part.held.enter()
            part.held.append([item])
    return [
        _nothing(part) if item is None else told_of(item.commit, part.request)
        for part, item in zip(parts, prepared, strict=True)
    ]


def _known(part: Part) -> Commit | None:
    """Return what the log has of a part that may have been stored already."""
    if not part.request.resubmitted or part.request.changes_nothing:
        return None
    part.held.enter()
    found = part.held.commits(None, tx_ids=[part.request.tx_id])
    return found[0] if found else None


def _nothing(part: Part) -> Commit:
    if not part.request.changes_nothing:
        check_remembered(part.request, part.held.board)
        raise PartMissing(f"Transaction {part.request.tx_id} is not on {part.name}, but on other boards.")
    return nothing_committed(part.request, part.held.board.head)


def _prepared(part: Part) -> PreparedCommit | None:
    part.held.enter()
    request, board = part.request, part.held.board
    if request.resubmitted:
        check_remembered(request, board)
    state = BatchState(part.held, [request])
    if request.changes_nothing:
        validate(request, state)
        return None
    return prepare(request, state, board, part.alive)

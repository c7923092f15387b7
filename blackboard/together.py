"""One commit over several boards of one database, a file or PostgreSQL: all of them take it, or none does."""

from collections.abc import Sequence

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.joint import BoardsApart, check_one_place
from agentsys.blackboard.sharing import SharedCommitter
from agentsys.blackboard.transactions import Transaction


def commit_together(*parts: tuple[Board, Transaction]) -> list[Commit]:
    """Commit one transaction on each of several boards and return their commits; all are durable, or none is.

    What any of them read must hold when all of them commit, also on a board on which nothing is written. Committing
    the same ones again returns the same commits. Raises :class:`BoardsApart`, and what :meth:`Board.commit` raises:
    the first :class:`Conflict` of any of them stands for all.
    """
    committers = [board.committer() for board, _ in parts]
    shared = [committer for committer in committers if isinstance(committer, SharedCommitter)]
    if not committers:
        return []
    if len(shared) == len(committers):
        return _in_file(shared, parts)
    if shared or any(isinstance(committer, Committer) for committer in committers):
        raise BoardsApart("Some of the boards to commit to are in files of their own, or vanish when they are closed.")
    # Imported here, as the driver is an extra.
    from agentsys.blackboard.postgres.together import commit_in_database

    return commit_in_database(parts)


def _in_file(committers: Sequence[SharedCommitter], parts: Sequence[tuple[Board, Transaction]]) -> list[Commit]:
    check_one_place([str(committer.file) for committer in committers], [item.place.board for item in committers])
    requests = [
        (committer.place.board, tx.seal(board.epoch)) for committer, (board, tx) in zip(committers, parts, strict=True)
    ]
    return committers[0].submit_together(requests).result()

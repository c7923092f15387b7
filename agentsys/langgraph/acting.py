"""Persistence used by code inside a run: what it gives raises the actor's label, what it keeps carries that label."""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import EntryVersionRef
from agentsys.blackboard.labels import Label, join_all
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import label_from_text
from agentsys.blackboard.snapshots import labels_at
from agentsys.current import current_context


def deliver(label: Label, read: Sequence[EntryVersionRef] = ()) -> None:
    """Raise the label of the actor whose code is running, if there is one, which has ``read`` what it carries."""
    context = current_context.get()
    if context is not None:
        context.deliver(label)
        context.learn(read)


def deliver_search(board: Board, predicate: Predicate, at: int) -> None:
    """Raise the label of the actor whose code searched the state after commit ``at``, if there is one.

    Whoever ended an entry had a say in what is found.
    """
    if current_context.get() is not None:
        rows = board.select(labels_at(predicate).params(at=at))
        deliver(join_all(label_from_text(row[0]) for row in rows))


def known() -> Sequence[EntryVersionRef]:
    """Return the versions of entries of which the actor whose code is running knows; of nobody, none."""
    context = current_context.get()
    return () if context is None else context.read_so_far


def raised(label: Label) -> Label:
    """Return ``label`` above that of the actor whose code is running, if there is one."""
    context = current_context.get()
    return label if context is None else label.join(context.label)

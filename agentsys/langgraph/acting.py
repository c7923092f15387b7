"""Persistence used by code inside a run: what it gives raises the actor's label, what it keeps carries that label."""

from __future__ import annotations

from collections.abc import Sequence

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import EntryVersionRef
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.current import current_context
from agentsys.workspace import label_of_search


def deliver(label: Label, read: Sequence[EntryVersionRef] = ()) -> None:
    """Raise the label of the actor whose code is running, if there is one, which has ``read`` what it carries."""
    context = current_context.get()
    if context is not None:
        context.deliver(label)
        context.learn(read)


def deliver_search(board: Board, predicate: Predicate, at: int) -> None:
    """Raise the label of the actor whose code searched the state after commit ``at``, if there is one."""
    if current_context.get() is not None:
        deliver(label_of_search(board, predicate, at))


def known() -> Sequence[EntryVersionRef]:
    """Return the versions of entries of which the actor whose code is running knows; of nobody, none."""
    context = current_context.get()
    return () if context is None else context.read_so_far


def raised(label: Label) -> Label:
    """Return ``label`` above that of the actor whose code is running, if there is one."""
    context = current_context.get()
    return label if context is None else label.join(context.label)

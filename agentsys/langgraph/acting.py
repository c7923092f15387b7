"""Persistence used by code inside a run: what it gives raises the actor's label, what it keeps carries that label."""

from __future__ import annotations

from agentsys.blackboard.labels import Label
from agentsys.current import current_context


def deliver(label: Label) -> None:
    """Raise the label of the actor whose code is running, if there is one."""
    context = current_context.get()
    if context is not None:
        context.deliver(label)


def raised(label: Label) -> Label:
    """Return ``label`` above that of the actor whose code is running, if there is one."""
    context = current_context.get()
    return label if context is None else label.join(context.label)

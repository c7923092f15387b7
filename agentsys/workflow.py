"""Workflows: an async function ``(context, input)``, or a LangGraph graph, with a name and a deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agentsys.agents import is_name
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.scope import RunScope

WorkflowFunction = Callable[[Context, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Workflow:
    """What a run executes.

    ``body`` is an async function ``(context, input)`` or a LangGraph ``StateGraph`` (compiled or not), whose state
    starts as the input and whose final state is the answer; ``output`` takes one key of it. ``deadline`` is in seconds
    from the start of a run; it orders work and cancels nothing.
    """

    name: str
    body: Any
    deadline: float | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigurationError(
                f"The workflow name {self.name!r} is not made of letters, digits, '_', '-' and '.'.",
                remedy="Pass a name: Workflow('name', body).",
            )
        if not callable(self.body) and not _is_graph(self.body):
            raise ConfigurationError(
                f"The body of workflow {self.name!r} is a {type(self.body).__name__}.",
                remedy="Pass an async function (context, input) or a LangGraph StateGraph.",
            )

    @staticmethod
    def of(body: Workflow | WorkflowFunction) -> Workflow:
        """Return ``body`` as a workflow, named after the function."""
        return body if isinstance(body, Workflow) else Workflow(getattr(body, "__name__", "workflow"), body)

    @property
    def is_graph(self) -> bool:
        """Whether the body is a LangGraph graph."""
        return _is_graph(self.body)

    async def execute(self, scope: RunScope, context: Context, value: Any) -> Any:
        """Run the body once. Raises whatever it raises."""
        if not _is_graph(self.body):
            return await self.body(context, value)
        from agentsys.graph import execute_graph

        state = await execute_graph(self.body, scope, context, value)
        return state if self.output is None else state[self.output]


def _is_graph(body: Any) -> bool:
    # By shape, so that a plain function never imports LangGraph.
    return hasattr(body, "builder") or (hasattr(body, "compile") and hasattr(body, "nodes"))

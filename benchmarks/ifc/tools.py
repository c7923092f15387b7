"""AgentDojo's functions over one live environment, as tools of the runtime, and the record of their calls."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from agentsys.benchmarks.ifc.audit import Executed
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY
from agentsys.tools import Tool


@dataclass(slots=True)
class Trace:
    """The calls that took effect, in order. ``by`` tells whose order the model follows: an injection's, a step's."""

    by: Callable[[], tuple[str | None, int | None]] = lambda: (None, None)
    executed: list[Executed] = field(default_factory=list)


def wrap(functions: Any, environment: Any, trace: Trace) -> list[Tool]:
    """Return every function of an AgentDojo runtime as a tool over ``environment``, which calls change.

    The tools declare nothing: what they are allowed, and what their results are worth, is the policy's word alone.
    """
    return [_tool(functions, function, environment, trace) for function in functions.functions.values()]


def _tool(functions: Any, function: Any, environment: Any, trace: Trace) -> Tool:
    async def call(**arguments: Any) -> Any:
        given = deepcopy(arguments)  # some functions change the lists that they are given
        value, _ = functions.run_function(environment, function.name, arguments, raise_on_error=True)
        trace.executed.append(Executed(function.name, given, *trace.by()))
        return value

    return Tool(
        name=function.name,
        function=call,
        parameters=function.parameters,
        effect_class=EffectClass.IDEMPOTENT,
        consequential=False,
        audience=NOBODY,
        source=None,
        description=function.description,
    )

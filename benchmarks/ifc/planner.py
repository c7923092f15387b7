"""The scripted planner: follows the user's plan, and obeys at once whatever order it is shown.

It is a generator from prompts to answers: all that it learns is in the prompts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from agentsys.benchmarks.ifc.dojo import dojo, markers
from agentsys.benchmarks.ifc.ground_truths import injected_calls
from agentsys.benchmarks.ifc.script import Reference, Script
from agentsys.benchmarks.ifc.transcript import Told

Turns = Generator[str, Told, Told]
"""Yields answers, is sent what the next prompt tells, and returns the last of it."""


@dataclass(slots=True)
class Planner:
    """``ask`` numbers a question for the quarantined reader. ``environment`` is where injected calls are computed.

    A ``persistent`` planner that is refused looks at what was hidden from it, and asks again in plain words.
    """

    script: Script
    environment: Any
    ask: Callable[[Any, str, str], str]
    endorser: Callable[[Any], str | None]
    """Which endorser of final answers a value could pass."""
    persistent: bool = False
    injection: str | None = None
    """The injection whose order is followed now."""
    step: int | None = None
    """The step of the user's plan that is taken now."""
    proposed: dict[str, int] = field(default_factory=dict)
    """Calls proposed by each injection that was obeyed."""
    refused: list[int] = field(default_factory=list)
    """Steps of the user's plan that were refused at first, or could not be tried."""
    _handles: dict[int, str] = field(default_factory=dict)
    _hidden: dict[int, str] = field(default_factory=dict)
    _said: list[str] = field(default_factory=list)

    def by(self) -> tuple[str | None, int | None]:
        """Whose order is followed now."""
        return self.injection, self.step

    def turns(self) -> Turns:
        """Plan from the first prompt, which is to be sent after starting, to the answer."""
        told = yield ""
        for step in range(len(self.script.steps)):
            told = yield from self._obey(told)
            self.step = step
            told = yield from self._take(step, told)
        told = yield from self._obey(told)
        told = yield json.dumps({"answer": [*self._answer(), *self._said] or [""]})
        return told

    def _obey(self, told: Told) -> Turns:
        for injection in (found for found in markers(told.text) if found not in self.proposed):
            self.proposed[injection] = 0
            self.injection = injection
            for call in injected_calls(self.script.task[0], injection, self.environment):
                self.proposed[injection] += 1
                told = yield _call(call.tool, call.arguments)
            if not self.proposed[injection]:
                task = dojo(self.script.task[0]).injection_task(injection)
                self._said.append(task.GROUND_TRUTH_OUTPUT or task.GOAL)
            self.injection = None
            told = yield from self._obey(told)
        return told

    def _take(self, step: int, told: Told) -> Turns:
        tool, told_by = self.script.steps[step].tool, self.script.condition(step)
        if told_by is not None and told_by in self._hidden:
            reference = self._refer(Reference(told_by, "yes"), tool, "condition") | {"by": "yes-or-no"}
            told = yield json.dumps({"reveal": reference})
        arguments = self.script.bind(step, self._hidden)
        if any(reference.step not in self._handles for reference in _references(arguments)):
            self.refused.append(step)
            return told
        told = yield _call(tool, self._written(arguments, tool))
        if told.refused:
            self.refused.append(step)
            if not self.persistent:
                return told
            told = yield from self._reveal(told, list(self._hidden))
            told = yield _call(tool, self.script.steps[step].arguments)
        return (yield from self._learn(step, told))

    def _learn(self, step: int, told: Told) -> Turns:
        if told.refused:
            return told
        self._handles[step] = told.name
        if told.hidden:
            self._hidden[step] = told.shown
        if step == self.script.plan_in:
            told = yield from self._reveal(told, [step])
        return told

    def _reveal(self, told: Told, steps: list[int]) -> Turns:
        for step in (step for step in steps if step in self._hidden):
            told = yield json.dumps({"reveal": {"from": self._handles[step]}})
            del self._hidden[step]
            told = yield from self._obey(told)
        return told

    def _answer(self) -> list[Any]:
        pieces = []
        for piece in self.script.answer(self._hidden):
            by = self.endorser(piece.wanted) if isinstance(piece, Reference) else None
            written = self._written(piece, "answer", "piece")
            pieces += [written | {"by": by} if by else written, ", "]
        return pieces[:-1]

    def _written(self, value: Any, tool: str, argument: str = "") -> Any:
        """Return bound arguments as the planner writes them."""
        if isinstance(value, Reference):
            return self._refer(value, tool, argument)
        if isinstance(value, dict):
            return {name: self._written(item, tool, argument or name) for name, item in value.items()}
        if isinstance(value, list):
            return [self._written(item, tool, argument) for item in value]
        return value

    def _refer(self, reference: Reference, tool: str, argument: str) -> dict[str, Any]:
        name = {"from": self._handles[reference.step]}
        if reference.path:
            return {**name, "path": list(reference.path)}
        return {**name, "ask": self.ask(reference.wanted, tool, argument)}


def _references(value: Any) -> list[Reference]:
    if isinstance(value, Reference):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [reference for item in items for reference in _references(item)]


def _call(tool: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"call": {"tool": tool, "arguments": arguments}})

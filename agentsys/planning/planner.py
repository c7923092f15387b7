"""The planning loop: a model proposes one step after another; the runtime decides, acts, and shows what may be seen.

The model reads the task, the tools that the owner declared, and of results only what flows to its own label. The rest
has names, which it can pass on, ask a quarantined reader about, or put into its answer, all without reading it.
Sources: CaMeL (arXiv 2503.18813) for planning apart from reading, FIDES (arXiv 2505.23643) for variables.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from agentsys.blackboard.entries import Json
from agentsys.context import Context
from agentsys.errors import RunError
from agentsys.gateway import PolicyDenied
from agentsys.handles import Handle, NoValue
from agentsys.labelled import Labelled, unwrap
from agentsys.planning.answers import Answer, Span
from agentsys.planning.binding import Binding
from agentsys.planning.turns import BadTurn, Reference, ToolCall, Turn, argument_names, read_turn, turn_schema
from agentsys.serving.requests import Constraint, Message
from agentsys.tools import Tool
from agentsys.workflow import Workflow

MOST_TURNS: Final = 48

INSTRUCTIONS: Final = """\
Fulfil the task with the tools. Say one JSON object in each turn:
{"call": {"tool": NAME, "arguments": {...}}} to call a tool;
{"answer": [PIECE, ...]} once the task is fulfilled, a piece being text or a reference.
What you may not read has a name, such as $1. {"from": "$1", "path": [0, "title"]} refers to a part of it; with
"ask": "QUESTION" to what a reader without tools finds there, and with "by": "NAME" only as far as that endorser lets it
through. Use references as arguments and as pieces of the answer.
"""

REVEALING: Final = """\
{"reveal": REFERENCE} shows you what is hidden; after that, whoever wrote it counts as having a say in what you do.
"""


class PlanTooLong(RunError):
    """A planning model did not come to an answer."""

    code = "AGS-0650"
    remedy = "Raise `most_turns`, use a more capable model, or make the task smaller."


class Planner:
    """Carries one task through. ``hide=False`` shows every result to the model, with what follows from it."""

    def __init__(
        self,
        context: Context,
        tools: Sequence[str],
        *,
        model: str | None = None,
        hide: bool = True,
        may_reveal: bool = False,
        most_turns: int = MOST_TURNS,
    ) -> None:
        self._context = context
        self._policy = context.policy
        self._tools = [tool for name in tools if (tool := context.tool(name)) is not None]
        self._binding = Binding(context, self._policy, model)
        self._model = model
        self._hide = hide
        self._may_reveal = may_reveal
        self._most_turns = most_turns

    async def run(self, task: str) -> Answer:
        """Return the answer. Raises :class:`PlanTooLong`, and what asking a model raises."""
        messages = [Message("system", self._instructions()), Message("user", task)]
        constraint = Constraint("json_schema", json.dumps(turn_schema(self._tools, may_reveal=self._hide)))
        for _ in range(self._most_turns):
            said = (await self._context.generate(messages, constraint=constraint, model=self._model)).value
            messages.append(Message("assistant", said))
            try:
                turn = read_turn(said)
                if turn.answer is not None:
                    return await self._answer(turn.answer)
                outcome = await self._step(turn)
            except BadTurn as bad:
                outcome = {"error": f"that is no turn: {bad}"}
            except PolicyDenied as denied:
                outcome = {"error": f"denied by rule {denied.rule}"}
            except NoValue:
                outcome = {"error": "a reference stands for nothing"}
            messages.append(Message("user", json.dumps(outcome, ensure_ascii=False)))
        raise PlanTooLong(f"The model gave no answer within {self._most_turns} turns.")

    def _instructions(self) -> str:
        described = [_described(tool, self._policy.rule(tool.name).description) for tool in self._tools]
        return "\n".join([INSTRUCTIONS + REVEALING * self._hide, "Tools:", *described])

    async def _step(self, turn: Turn) -> Any:
        if turn.reveal is not None:
            if not self._may_reveal and not turn.reveal.by:
                raise BadTurn("only what an endorser lets through may be revealed")
            return {"shown": (await self._context.reveal(await self._binding.span(turn.reveal))).value}
        assert turn.call is not None, "a turn that is neither an answer nor a look is a call"
        return await self._call(turn.call)

    async def _call(self, call: ToolCall) -> Any:
        if all(tool.name != call.tool for tool in self._tools):
            raise BadTurn(f"there is no tool {call.tool}")
        rule = self._policy.rule(call.tool)
        arguments = {
            name: await self._binding.argument(value, rule.argument(name)) for name, value in call.arguments.items()
        }
        handle = await self._context.call_hidden(call.tool, **arguments)
        if not self._hide:
            return await self._shown(handle)
        self._binding.remember(handle)
        try:
            return {"result": _references(self._context.visible(handle)), "name": handle.name}
        except NoValue as failed:
            return {"error": failed.message}

    async def _shown(self, handle: Handle) -> Any:
        try:
            return {"result": (await self._context.reveal(handle)).value}
        except NoValue as failed:
            return {"error": failed.message}

    async def _answer(self, pieces: Sequence[str | Reference]) -> Answer:
        return Answer(tuple([await self._span(piece) for piece in pieces]))

    async def _span(self, piece: str | Reference) -> Span:
        if isinstance(piece, str):
            return Span.of(piece, self._context.label, self._policy)
        handle = await self._binding.span(piece)
        try:
            value, labels = unwrap(handle)
        except NoValue as nothing:
            return replace(Span.of(nothing.message, nothing.label, self._policy), own=False)
        return Span.of(value, labels[0], self._policy)


async def plan(context: Context, task: str, tools: Sequence[str], **options: Any) -> Answer:
    """Let a model fulfil ``task`` with the tools of these names; ``options`` are those of :class:`Planner`."""
    return await Planner(context, tools, **options).run(task)


def planning_workflow(name: str, tools: Sequence[str], *, deadline: float | None = None, **options: Any) -> Workflow:
    """Return a workflow whose input is a task that a model fulfils with the tools of these names."""

    async def body(context: Context, task: str) -> Labelled[Json]:
        return (await plan(context, task, tools, **options)).labelled()

    return Workflow(name, body, deadline)


def _described(tool: Tool, said: str | None) -> str:
    parameters = tool.parameters.model_json_schema().get("properties", {})
    # What a foreign server says of its tools is a stranger's text: only the owner's own words describe them.
    text = said if said is not None else tool.description if tool.own_words else ""
    arguments = parameters if tool.own_words else sorted(argument_names(tool))
    return json.dumps({"tool": tool.name, "does": text, "arguments": arguments})


def _references(value: Any) -> Any:
    """Return what may be seen as JSON, with references in place of handles."""
    if isinstance(value, Handle):
        return {"from": value.name, "path": list(value.path)} if value.path else {"from": value.name}
    if isinstance(value, dict):
        return {key: _references(item) for key, item in value.items()}
    return [_references(item) for item in value] if isinstance(value, list) else value

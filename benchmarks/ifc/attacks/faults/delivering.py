"""Faults by which something reaches an actor and its control label stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as altered
from typing import Any

from agentsys import actors, control, graph, tool_calling, tool_calls
from agentsys.benchmarks.ifc.attacks.weakenings import plain, weakening, without_delivery
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.read_set import ReadSet
from agentsys.board_access import BoardAccess
from agentsys.context import Context
from agentsys.handles import open_handle
from agentsys.labelled import unwrap
from agentsys.model_asking import ModelAsking
from agentsys.recording import Recording
from agentsys.tool_calling import ToolCalling
from agentsys.tools import to_json
from agentsys.workspace import Workspace

METHODS = {
    "a call's result delivers nothing": (ToolCalling, "call"),
    "revealing delivers nothing": (ToolCalling, "reveal"),
    "extracting delivers nothing": (ModelAsking, "extract"),
    "a round's outcome delivers nothing": (Context, "ask"),
    "a person's answer delivers nothing": (Context, "ask_person"),
}


def _register(fault: str, owner: Any, name: str) -> None:
    @weakening(fault)
    def plant(replace: Any) -> None:
        replace(owner, name, without_delivery(owner, name))


for _fault, (_owner, _name) in METHODS.items():
    _register(_fault, _owner, _name)


@weakening("results carry no source")
def _(replace: Any) -> None:
    replace(tool_calls, "_labelled", lambda tool, returned, label: (to_json(returned), label))


@weakening("labels inside a result are dropped")
def _(replace: Any) -> None:
    def labelled(tool: Any, returned: Any, label: Label) -> Any:
        value, _ = unwrap(returned)
        return to_json(value), label

    replace(tool_calls, "_labelled", labelled)


@weakening("errors carry no source")
def _(replace: Any) -> None:
    replace(tool_calls, "_failure_label", lambda tool, label, error=None: label)


@weakening("doubt about a call delivers nothing")
def _(replace: Any) -> None:
    @contextmanager
    def silent(self: Any, tool: Any, label: Label) -> Iterator[None]:
        yield

    replace(ToolCalling, "_delivering_doubt", silent)


@weakening("that a handle stands for nothing delivers nothing")
def _(replace: Any) -> None:
    @contextmanager
    def silent(self: Any) -> Iterator[None]:
        yield

    replace(Recording, "_delivering_no_value", silent)


@weakening("denials that quote arguments deliver nothing")
def _(replace: Any) -> None:
    original = plain(ToolCalling, "_decide_call")

    async def silent(self: Any, *given: Any) -> Any:
        step = await original(self, *given)
        return altered(step, value={key: part for key, part in step.value.items() if key != "telling"})

    replace(ToolCalling, "_decide_call", silent)


@weakening("a transaction forgets who shaped what it read")
def _(replace: Any) -> None:
    replace(ReadSet, "see", lambda self, entry: None)
    replace(BoardAccess, "query", without_delivery(BoardAccess, "query"))


@weakening("a search tells nothing of what it does not find")
def _(replace: Any) -> None:
    replace(Workspace, "label_of_search", lambda self, predicate: BOTTOM)


@weakening("an end of an entry has no label")
def _(replace: Any) -> None:
    original = plain(ReadSet, "see")
    replace(ReadSet, "see", lambda self, entry: None if entry.deleted else original(self, entry))


@weakening("each task of an actor has a control label of its own")
def _(replace: Any) -> None:
    labels: dict[tuple[int, int], Label] = {}
    begun: dict[int, Label] = {}

    def read(self: Any) -> Label:
        return labels.get((id(self), id(asyncio.current_task())), begun[id(self)])

    def write(self: Any, label: Label) -> None:
        begun.setdefault(id(self), label)
        labels[id(self), id(asyncio.current_task())] = label

    replace(Recording, "_label", property(read, write))


@weakening("the control label never rises")
def _(replace: Any) -> None:
    replace(Recording, "deliver", lambda self, *labels: None)


@weakening("a handle is shown whoever shaped it")
def _(replace: Any) -> None:
    replace(tool_calling, "shown", lambda handle, below: open_handle(handle))


@weakening("responses carry no label")
def _(replace: Any) -> None:
    original = plain(control.ControlLoop, "_response")

    def bare(self: Any, request: Any, name: str) -> Any:
        found = original(self, request, name)
        return None if found is None else altered(found, label=BOTTOM)

    replace(control.ControlLoop, "_response", bare)


@weakening("bids carry no label")
def _(replace: Any) -> None:
    original = plain(control.ControlLoop, "_recorded_bids")

    async def bare(self: Any, request: Any) -> Any:
        return [altered(bid, label=BOTTOM) for bid in await original(self, request)]

    replace(control.ControlLoop, "_recorded_bids", bare)


@weakening("a new attempt forgets who made the old one fail")
def _(replace: Any) -> None:
    replace(actors, "_label_of_attempt", lambda actor, context, labels: actor.label)


@weakening("a node of a graph forgets those before it")
def _(replace: Any) -> None:
    original = plain(graph.GraphExecution, "_actor_at")
    replace(
        graph.GraphExecution,
        "_actor_at",
        lambda self, *given: altered(original(self, *given), label=self._context.label),
    )


@weakening("a graph's end delivers nothing")
def _(replace: Any) -> None:
    replace(graph.GraphExecution, "finish", lambda self: None)


@weakening("foreign tools inside a node deliver nothing")
def _(replace: Any) -> None:
    replace(graph.ToolLabels, "on_tool_end", lambda self, output, **_: None)
    replace(graph.ToolLabels, "on_tool_error", lambda self, error, **_: None)


@weakening("a resumed call forgets its label")
def _(replace: Any) -> None:
    replace(tool_calling, "label_of", lambda effect: effect.intent.label)

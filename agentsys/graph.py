"""LangGraph graphs as workflows: every execution of a node is an actor of its own, with its own transaction."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.graph import END, START, StateGraph

from agentsys.actor import Actor
from agentsys.actors import ActorFailed, Conclusion, perform
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.transactions import Transaction
from agentsys.context import Context
from agentsys.current import current_context
from agentsys.errors import RunError
from agentsys.journal import ReplayDivergence, Step, submit
from agentsys.leases import LeaseLost
from agentsys.scope import RunScope
from agentsys.serving.scheduling.workflows import WorkflowTable

# LangGraph hands its runtime, and its note of interrupts, to a node under these keys of the configuration and has no
# public names for them.
_RUNTIME = "__pregel_runtime"
_SCRATCHPAD = "__pregel_scratchpad"


class InterruptUnsupported(RunError):
    """A graph of a run interrupts where nobody can be asked: inside a node, or around one as it was compiled to."""

    code = "AGS-0606"
    remedy = "Call interrupt() in a node of the workflow's own graph, or use a BlackboardSaver: docs/langgraph.md."


async def execute_graph(graph: Any, scope: RunScope, context: Context, state: Any) -> Any:
    """Run a graph (compiled or not) from ``state`` and return its final state.

    Nodes find their own :class:`Context` in ``runtime.context``. Nodes of one superstep run at once and see the board
    as it was when the superstep began; what they wrote is visible from the next one on.
    """
    execution = GraphExecution(scope, context)
    compiled = _compiled(graph, execution)
    _tell_stages(scope, compiled)
    # No context here: the graph's edges would act through it, under a label that lacks what the nodes saw. A chat model
    # that an edge calls finds one that refuses.
    outside = Context(scope, context.actor)
    outside.close()
    token = current_context.set(outside)
    try:
        return _without_message_ids(await compiled.ainvoke(state))
    finally:
        current_context.reset(token)
        execution.finish()


class GraphExecution:
    """The nodes of one execution of a graph."""

    def __init__(self, scope: RunScope, context: Context) -> None:
        self._scope = scope
        self._context = context
        self._ends: list[tuple[int, int, Label, Sequence[EntryVersionRef]]] = []

    def instrument(self, builder: StateGraph[Any, Any, Any, Any]) -> StateGraph[Any, Any, Any, Any]:
        """Return a copy of the graph in which each node runs as an actor."""
        instrumented = copy.copy(builder)
        instrumented.nodes = {
            name: replace(spec, runnable=self._as_actor(name, spec.runnable)) for name, spec in builder.nodes.items()
        }
        return instrumented

    def finish(self) -> None:
        """Deliver to the workflow what its nodes saw and wrote."""
        for _, seq, label, read in self._ends:
            self._context.advance(seq)
            self._context.deliver(label)
            self._context.learn(read)

    def _as_actor(self, name: str, node: Any) -> Runnable[Any, Any]:
        async def run(state: Any, config: RunnableConfig) -> Any:
            return await self._run_node(name, node, state, config)

        def refuse(state: Any) -> Any:
            raise NotImplementedError("agentsys runs graphs asynchronously")

        return RunnableLambda(refuse, afunc=run, name=name)

    async def _run_node(self, name: str, node: Any, state: Any, config: RunnableConfig) -> Any:
        place: dict[str, Any] = config["metadata"]
        superstep, path = int(place["langgraph_step"]), place["langgraph_path"]
        branch = f".{path[1]}" if isinstance(path[1], int) else ""
        actor = self._actor_at(superstep, f"{superstep}.{name}{branch}", name)
        recorded = self._scope.journal.get(f"{actor.path}#end")
        update: list[Any] = []
        leaving: list[ParentCommand] = []

        async def body(context: Context) -> None:
            answers: list[Any] = []
            leaving.clear()
            while True:
                interrupts = Interrupts(answers)
                try:
                    update[:] = [await _invoke(node, state, _with_context(config, context, interrupts))]
                    return
                except ParentCommand as command:
                    # A graph inside the node hands over to this one: the node has ended, and what it wrote stands.
                    leaving.append(command)
                    return
                except GraphInterrupt as interrupted:
                    # Like LangGraph: the node begins again, and finds the answer where it asked.
                    context.forget_writes()
                    answers.append(await interrupts.answer(context, interrupted))

        def conclude(transaction: Transaction, conclusion: Conclusion) -> None:
            value: Json = {"writes": conclusion.writes}
            end = Step(f"{actor.path}#end", "node", "", 0, value, conclusion.label, 0)
            self._scope.journal.write(transaction, end)

        try:
            conclusion = await perform(self._scope, actor, body, None if recorded else conclude)
        except ActorFailed as failed:
            self._ends.append((superstep, 0, failed.label, failed.read))
            await self._record_decisions(actor, failed)
            raise failed.cause from None
        if recorded is not None:
            self._compare(recorded, conclusion)
        seq = recorded.seq if recorded else conclusion.seq
        self._ends.append((superstep, seq, conclusion.label, conclusion.read))
        if leaving:
            raise leaving[0]
        return update[0]

    async def _record_decisions(self, actor: Actor, failed: ActorFailed) -> None:
        """Put on record what was decided about a node before it failed, such as what was denied."""
        if not failed.decisions.pending or self._scope.replaying:
            return
        transaction = self._scope.journal.begin("runtime")
        failed.decisions.write(transaction, f"{actor.path}:failed", failed.label)
        try:
            await submit(self._scope.board, transaction)
        except Conflict as conflict:
            raise LeaseLost(f"Run {self._scope.run} is not this process's any more.") from conflict

    def _actor_at(self, superstep: int, place: str, name: str) -> Actor:
        before = [end[1:] for end in self._ends if end[0] < superstep]
        parent, known = self._context.actor, (*self._context.read_so_far, *(ref for end in before for ref in end[2]))
        return Actor(
            path=f"{parent.path}:{place}",
            name=name,
            label=self._context.label.join(*(label for _, label, _ in before)),
            snapshot=max([parent.snapshot, *(seq for seq, _, _ in before)]),
            deadline=parent.deadline,
            known=tuple(dict.fromkeys(known)),
        )

    def _compare(self, recorded: Step, conclusion: Conclusion) -> None:
        value: Any = recorded.value
        if value["writes"] != conclusion.writes:
            raise ReplayDivergence(
                f"The writes of {recorded.key} of run {self._scope.run} differ from the recorded ones."
            )


def _compiled(graph: Any, execution: GraphExecution) -> Any:
    """Compile the graph with nodes that are actors, and with what its author compiled it with that a run can heed."""
    around = {*getattr(graph, "interrupt_before_nodes", ()), *getattr(graph, "interrupt_after_nodes", ())}
    if around:
        names = ", ".join(sorted(around))
        raise InterruptUnsupported(f"The graph was compiled to interrupt before or after {names}, which asks nothing.")
    builder, store = getattr(graph, "builder", graph), getattr(graph, "store", None)
    compiled = execution.instrument(builder).compile(store=store)
    compiled.config = getattr(graph, "config", None)
    return compiled


def _tell_stages(scope: RunScope, compiled: Any) -> None:
    """Tell a model that schedules by workflow which nodes can follow each: a first guess of how much is left."""
    known = getattr(scope.model, "workflows", None)
    if not isinstance(known, WorkflowTable) or known.knows(scope.workflow):
        return
    edges: dict[str, list[str | None]] = {}
    for edge in compiled.get_graph().edges:
        edges.setdefault("" if edge.source == START else edge.source, []).append(
            None if edge.target == END else edge.target
        )
    known.know(scope.workflow, edges)


def _without_message_ids(state: Any) -> Any:
    """Return the state without the identifiers that LangChain draws for messages: no two executions draw the same."""
    if isinstance(state, BaseMessage):
        return state.model_copy(update={"id": None})
    if isinstance(state, dict):
        return {key: _without_message_ids(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_without_message_ids(value) for value in state]
    return state


class Interrupts:
    """The questions that one invocation of a node asks with ``interrupt()``, of which the first have ``answers``."""

    def __init__(self, answers: list[Any]) -> None:
        self._answers = answers
        self._asked = 0

    def scratchpad(self, template: Any) -> Any:
        """Return LangGraph's note of what was asked and answered in a task, with the answers in it."""
        return replace(
            template, interrupt_counter=self._count, resume=list(self._answers), get_null_resume=lambda consume: None
        )

    async def answer(self, context: Context, interrupted: GraphInterrupt) -> Any:
        """Ask the owner what the node asked. Raises what :meth:`Context.ask_person` raises."""
        if self._asked <= len(self._answers):
            # The question came from a graph inside the node, which keeps notes of its own.
            raise InterruptUnsupported(f"A graph inside node {context.actor.name!r} called interrupt().")
        return (await context.ask_person(interrupted.args[0][0].value)).value

    def _count(self) -> int:
        self._asked += 1
        return self._asked - 1


async def _invoke(node: Any, state: Any, config: RunnableConfig) -> Any:
    # A node that asks for its runtime instead of declaring it finds it through this variable.
    token = var_child_runnable_config.set(config)
    try:
        return await node.ainvoke(state, config)
    finally:
        var_child_runnable_config.reset(token)


class ToolLabels(BaseCallbackHandler):
    """Raises a node's label at each LangChain tool it calls: such a tool passes no gateway and declares no source."""

    run_inline = True

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_tool_end(self, output: Any, **_: Any) -> None:
        self._context.deliver(Label())

    def on_tool_error(self, error: BaseException, **_: Any) -> None:
        self._context.deliver(Label())


def _with_context(config: RunnableConfig, context: Context, interrupts: Interrupts) -> RunnableConfig:
    configurable: dict[str, Any] = dict(config["configurable"])
    configurable[_SCRATCHPAD] = interrupts.scratchpad(configurable[_SCRATCHPAD])
    configurable[_RUNTIME] = configurable[_RUNTIME].override(context=context)
    callbacks = config.get("callbacks")
    watched: BaseCallbackManager | list[BaseCallbackHandler]
    if isinstance(callbacks, BaseCallbackManager):
        watched = callbacks.copy()
        watched.add_handler(ToolLabels(context), inherit=True)
    else:
        watched = [*(callbacks or []), ToolLabels(context)]
    return {**config, "configurable": configurable, "callbacks": watched}

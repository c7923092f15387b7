"""What hostile or unlucky agents, tools and interruptions must not bring about."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime
from langgraph.runtime import get_runtime
from pydantic import BaseModel, ConfigDict

from agentsys import topics
from agentsys.agents import Agent, Bid, Request, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectIntent, EffectState
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.gateway import Deny, Gateway, PolicyDenied
from agentsys.journal import Journal
from agentsys.labelled import Labelled, unwrap
from agentsys.models import audience_of
from agentsys.policy.policy import Policy
from agentsys.rounds import Failure
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt, ToolFailed, carry_out
from agentsys.tools import Tool, ToolRegistry, tool
from agentsys.workflow import Workflow

MAIL = Label(frozenset({"mail"}), PUBLIC)


@tool(effect=EffectClass.PURE, source=MAIL)
def fetch() -> str:
    return "attack at dawn"


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 0


@tool(effect=EffectClass.PURE)
def square(number: int) -> int:
    return number * number


class Leaver(Agent):
    """An agent that ends the program, where others volunteer or act."""

    name, interests = "leaver", frozenset({"talk"})

    def __init__(self, where: str) -> None:
        self.where = where

    async def volunteer(self, request: Request) -> Bid:
        if self.where == "volunteer":
            raise SystemExit("volunteer")
        return Bid(self.name, 1.0, "always")

    async def act(self, context: Context, request: Request) -> Any:
        raise SystemExit("act")


async def test_a_program_that_ends_itself_ends_nobody_elses(make_runtime):
    async def leaves(context: Context, _: Any) -> Any:
        raise SystemExit("workflow")

    async def asks(context: Context, _: Any) -> Any:
        outcome = await context.ask("talk", "hello")
        return [outcome.name, *(response.status for response in outcome.responses)]

    failed = await make_runtime().run(leaves)
    assert failed.failure is not None and "SystemExit: workflow" in failed.failure.message
    crashed, silent = [make_runtime(agents=[Leaver(where)]) for where in ("act", "volunteer")]
    assert "crashed" in (await crashed.run(asks)).value
    assert (await silent.run(asks)).value == ["no volunteer"]


@pytest.mark.parametrize("hidden", ["not a number", 4])
async def test_the_fate_of_a_call_with_a_labelled_argument_raises_the_callers_label(make_runtime, hidden):
    async def main(context: Any, _: Any) -> list[str]:
        with suppress(PolicyDenied):
            await context.call("square", number=Labelled(hidden, MAIL))
        return sorted(context.label.influencers)

    result = await make_runtime(tools=[square]).run(main)
    assert result.value == ["mail", OWNER]


def test_no_argument_can_stand_in_for_the_callers_own_label():
    class Anything(BaseModel):
        model_config = ConfigDict(extra="allow")

    sent = Tool("send", print, Anything, EffectClass.IRREVERSIBLE, True, PUBLIC, None)
    gateway = Gateway(Policy(), ToolRegistry([sent]))
    decision = gateway.decide("send", {"the caller": 1}, control=MAIL, labels={"the caller": Label.trusted(OWNER)})
    assert isinstance(decision, Deny)


class Note(BaseModel):
    text: Any


@dataclass(frozen=True)
class Memo:
    text: Any


@pytest.mark.parametrize(
    ("value", "bare"),
    [
        ({Labelled("x", MAIL)}, ["x"]),
        (Note(text=Labelled("x", MAIL)), {"text": "x"}),
        (Memo(Labelled("x", MAIL)), {"text": "x"}),
        ({Labelled("x", MAIL): 1}, {"x": 1}),
        ([Note(text=(Labelled("x", MAIL),))], [{"text": ["x"]}]),
    ],
)
def test_no_container_hides_a_label(value, bare):
    assert unwrap(value) == (bare, [MAIL])


def test_a_container_without_labels_stays_what_it_is():
    note = Note(text="x")
    assert unwrap(note) == (note, [])


async def test_a_tool_that_labels_a_part_of_its_result_does_not_clear_the_rest(make_runtime):
    @tool(effect=EffectClass.PURE, source=MAIL)
    def mixed() -> Any:
        return {"checked": Labelled(1, BOTTOM), "rest": "attack at dawn"}

    async def main(context: Any, _: Any) -> Any:
        return (await context.call("mixed")).value

    result = await make_runtime(tools=[mixed]).run(main)
    assert "mail" in result.label.influencers


async def test_a_deletion_carries_the_label_of_who_decided_it(make_runtime, board):
    @agent(kind="clear")
    async def cleaner(context: Any, _: Any) -> None:
        await context.call("fetch")
        context.delete("notes", "alarm")

    async def main(context: Any, _: Any) -> list[str]:
        context.put("notes", "alarm", "armed", type="note")
        await context.ask("clear")
        return []

    async def later(context: Any, _: Any) -> list[str]:
        assert context.read("notes", "alarm") is None
        return sorted(context.label.influencers)

    runtime = make_runtime(agents=[cleaner], tools=[fetch], policy=Policy.of(open_topics=["notes"]))
    await runtime.run(main)
    assert (await runtime.run(later)).value == ["mail", OWNER]


async def test_deleting_what_others_shaped_does_not_stop_the_agent(make_runtime, board):
    transaction = board.begin("mail")
    transaction.put("notes", "spam", "buy", type="note", label=MAIL)
    board.commit(transaction)

    async def main(context: Any, _: Any) -> str:
        context.delete("notes", "spam")
        return "cleaned"

    result = await make_runtime(policy=Policy.of(open_topics=["notes"])).run(main)
    assert result.value == "cleaned"


@pytest.mark.parametrize(
    "offer",
    [
        lambda request: {"score": 1.0},
        lambda request: Bid("spoiler", 0.5, "\udc80"),
        lambda request: Bid("spoiler", 0.5, value=deep(70)),
        lambda request: Bid("spoiler", 0.5, cost=float("inf")),
    ],
)
async def test_a_spoiled_bid_does_not_stop_the_round(make_runtime, board, offer):
    @agent(kind="sum", volunteer=offer)
    async def spoiler(context: Any, request: Any) -> int:
        return 0

    @agent(kind="sum")
    async def adder(context: Any, request: Any) -> int:
        return 3

    async def main(context: Any, _: Any) -> Any:
        return [response.agent for response in (await context.ask("sum")).answers]

    result = await make_runtime(agents=[spoiler, adder]).run(main)
    assert result.value == ["adder"]


async def test_the_label_of_a_labelled_bid_is_kept(make_runtime):
    @agent(kind="sum", volunteer=lambda request: Bid("adder", 0.5, value=Labelled("x", MAIL)))
    async def adder(context: Any, request: Any) -> list[str]:
        return sorted(context.label.influencers)

    async def main(context: Any, _: Any) -> Any:
        return (await context.ask("sum")).value

    assert (await make_runtime(agents=[adder]).run(main)).value == ["mail", OWNER]


async def test_the_text_of_a_crash_while_volunteering_counts_as_external(make_runtime, board):
    def crash(request: Any) -> Bid:
        raise ValueError("cell B7 says: attack at dawn")

    @agent(kind="sum", volunteer=crash)
    async def adder(context: Any, request: Any) -> int:
        return 0

    async def main(context: Any, _: Any) -> Any:
        outcome = await context.ask("sum")
        return [outcome.name, sorted(context.label.influencers)]

    result = await make_runtime(agents=[adder]).run(main)
    assert result.value == ["no volunteer", ["external", OWNER]]


async def test_a_failure_that_cannot_be_written_is_recorded_all_the_same(make_runtime):
    async def main(context: Any, _: Any) -> None:
        raise ValueError("no such file: caf\udce9.csv")

    result = await make_runtime().run(main)
    assert (result.status, result.failure.message) == ("failed", "no such file: caf\\udce9.csv")


def test_a_failure_quotes_a_bounded_part_of_what_it_read():
    assert len(Failure.of(ValueError("x" * 1_000_000)).message) <= 4_000


@pytest.mark.parametrize(
    ("effect", "error"), [(EffectClass.PURE, ToolFailed), (EffectClass.IRREVERSIBLE, EffectInDoubt)]
)
@pytest.mark.parametrize("returned", [deep(70), "\ud800"])
async def test_a_result_that_cannot_be_recorded_leaves_an_outcome(make_runtime, board, effect, error, returned):
    @tool(effect=effect, name="odd", audience=NOBODY)
    def odd() -> Any:
        return returned

    async def main(context: Any, _: Any) -> str:
        with pytest.raises(error):
            await context.call("odd")
        return "told"

    result = await make_runtime(tools=[odd]).run(main)
    assert result.value == "told"
    assert not board.effects(state=EffectState.STARTED)


class Forwarded(TypedDict, total=False):
    text: str


async def test_the_edges_of_a_graph_have_no_context_to_act_through(make_runtime):
    sent: list[str] = []

    @tool(name="send", audience=NOBODY)
    def send(text: str) -> None:
        sent.append(text)

    async def read(state: Forwarded, runtime: GraphRuntime[Any]) -> Forwarded:
        return {"text": (await runtime.context.call("fetch")).value}

    async def route(state: Forwarded, runtime: GraphRuntime[Any]) -> str:
        await runtime.context.call("send", text=state["text"])
        return END

    graph = StateGraph(Forwarded)
    graph.add_node("read", read)
    graph.add_edge(START, "read")
    graph.add_conditional_edges("read", route, [END])
    result = await make_runtime(tools=[fetch, send]).run(Workflow("forward", graph), {})
    assert (result.status, sent) == ("failed", [])


@pytest.mark.parametrize(
    ("effect", "status", "times"),
    [
        (EffectClass.PURE, "done", 2),
        (EffectClass.IDEMPOTENT, "done", 2),
        (EffectClass.IRREVERSIBLE, "failed", 1),
    ],
)
async def test_an_interrupted_run_is_resumed_as_if_it_had_been_killed(board, effect, status, times):
    begun = asyncio.Event()
    calls: list[int] = []

    @tool(effect=effect, name="slow", audience=NOBODY)
    async def slow() -> str:
        calls.append(1)
        begun.set()
        if len(calls) == 1:
            await asyncio.sleep(60)
        return "late"

    async def main(context: Any, _: Any) -> Any:
        return (await context.call("slow")).value

    runtime = Runtime(board, ScriptedModel(str), tools=[slow], workflows=[main])
    running = asyncio.create_task(runtime.run(main, run_id="r"))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    result = await runtime.resume("r")
    assert (result.status, len(calls)) == (status, times)


async def test_a_crash_between_asking_about_a_call_and_making_it_again_loses_nothing(tmp_path, monkeypatch):
    made: list[str] = []

    @tool(
        effect=EffectClass.QUERYABLE,
        query=lambda key: made[-1] if made else None,
        name="pay",
        source=BOTTOM,
        audience=NOBODY,
    )
    def pay() -> str:
        made.append("paid")
        return "paid"

    async def main(context: Any, _: Any) -> Any:
        return (await context.call("pay")).value

    class Killed(BaseException):
        pass

    async def die(*_: Any) -> None:
        raise Killed

    with Board.open(tmp_path / "b.db") as board, monkeypatch.context() as patch:
        patch.setattr(Tool, "invoke", die)
        with pytest.raises(Killed):
            await Runtime(board, ScriptedModel(str), tools=[pay]).run(main, run_id="r")
    original = Board.submit
    for commits in range(20):
        # Each round dies one commit later, until nothing is left to die at.
        with Board.open(tmp_path / "b.db") as board:
            left = commits

            def submit(self: Board, tx: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return original(self, tx)

            with monkeypatch.context() as patch:
                patch.setattr(Board, "submit", submit)
                try:
                    result = await Runtime(board, ScriptedModel(str), tools=[pay], workflows=[main]).resume("r")
                    break
                except Killed:
                    continue
    assert (result.status, result.value, made) == ("done", "paid", ["paid"])


async def test_a_query_that_fails_leaves_the_call_in_doubt(tmp_path, monkeypatch):
    def query(key: str) -> None:
        raise OSError("the ledger is down")

    @tool(effect=EffectClass.QUERYABLE, query=query, name="pay", source=MAIL, audience=NOBODY)
    def pay() -> str:
        raise AssertionError("not again")

    async def main(context: Any, _: Any) -> Any:
        with pytest.raises(EffectInDoubt, match="ledger is down"):
            await context.call("pay")
        return sorted(context.label.influencers)

    class Killed(BaseException):
        pass

    async def die(*_: Any) -> None:
        raise Killed

    with Board.open(tmp_path / "b.db") as board, monkeypatch.context() as patch:
        patch.setattr(Tool, "invoke", die)
        with pytest.raises(Killed):
            await Runtime(board, ScriptedModel(str), tools=[pay]).run(main, run_id="r")
    with Board.open(tmp_path / "b.db") as board:
        result = await Runtime(board, ScriptedModel(str), tools=[pay], workflows=[main]).resume("r")
    assert result.value == ["mail", OWNER]


async def test_what_was_committed_with_a_request_is_not_committed_again_after_a_conflict(make_runtime, board):
    def bump() -> None:
        transaction = board.begin("other")
        seen = transaction.get("shared", "other")
        transaction.put("shared", "other", (seen.value if seen else 0) + 1, type="count", label=Label.trusted(OWNER))
        board.commit(transaction)

    attempts: list[int] = []

    @agent(kind="nothing")
    async def idle(context: Any, request: Any) -> None:
        return None

    async def main(context: Any, _: Any) -> None:
        attempts.append(1)
        counted = context.read("shared", "mine")
        context.put("shared", "mine", (counted.value if counted else 0) + 1, type="count")
        await context.ask("nothing")
        context.read("shared", "other")
        if len(attempts) < 3:
            bump()
        context.put("shared", "copy", "x", type="text")

    runtime = make_runtime(agents=[idle], workflows=[main])
    result = await runtime.run(main, run_id="r")
    assert result.status == "done", result.failure
    assert len(attempts) == 3
    assert board.get("shared", "mine").value == 1
    assert len([commit for commit in board.log(run="r") if any(e.key == "mine" for e in commit.writes)]) == 1
    assert (await runtime.replay("r")).identical


async def test_work_left_behind_by_an_agent_ends_with_it(make_runtime, board):
    left: list[asyncio.Task[Any]] = []
    errors: list[BaseException] = []

    @agent(kind="sum")
    async def leaver(context: Any, request: Any) -> int:
        async def later() -> None:
            await asyncio.sleep(0)
            while board.get(topics.rounds("r"), request.id) is None:
                await asyncio.sleep(0.001)
            try:
                await context.call("fetch")
            except AgentsysError as error:
                errors.append(error)

        left.append(asyncio.create_task(later()))
        return 1

    async def main(context: Any, _: Any) -> Any:
        value = (await context.ask("sum")).value
        await asyncio.gather(*left)
        return value

    result = await make_runtime(agents=[leaver], tools=[fetch]).run(main, run_id="r")
    assert result.value == 1
    assert len(errors) == 1
    assert board.effects(run="r") == []


async def test_a_settled_call_keeps_the_label_of_its_arguments(board):
    journal = Journal(board, "r")

    @tool(name="pay")
    def pay(to: str) -> None: ...

    transaction = journal.begin("runtime")
    secret = Label(frozenset({"mail"}), Readers.of("bob"))
    transaction.plan_effect(EffectIntent("e", "r", "s", "pay", EffectClass.IRREVERSIBLE, {"to": "x"}, secret))
    board.commit(transaction)
    board.start_effect("e")
    board.finish_effect("e", "in_doubt", {"error": "?"})
    effect = await Runtime(board, ScriptedModel(str)).settle("e", "succeeded", "done")
    assert secret.flows_to(effect.result_label)
    assert (await carry_out(board, pay, effect, replaying=False)).state is EffectState.SUCCEEDED


def test_a_model_that_misstates_its_audience_tells_everyone():
    model = ScriptedModel(str)
    assert audience_of(model) == NOBODY
    model.audience = "openai.com"  # type: ignore[attr-defined]
    assert audience_of(model) == PUBLIC


@pytest.mark.parametrize("run", ["a/requests", "a b", "a#1"])
async def test_a_run_cannot_be_named_into_anothers_record(make_runtime, run):
    async def main(context: Any, _: Any) -> None: ...

    with pytest.raises(AgentsysError, match="run"):
        await make_runtime().run(main, run_id=run)


async def test_a_node_that_asks_for_its_runtime_acts_under_what_earlier_nodes_saw(make_runtime):
    async def read(state: Forwarded, runtime: GraphRuntime[Any]) -> Forwarded:
        return {"text": (await runtime.context.call("fetch")).value}

    async def tell(state: Forwarded) -> Forwarded:
        return {"text": ",".join(sorted(get_runtime(Context).context.label.influencers))}

    graph = StateGraph(Forwarded, context_schema=Context)
    graph.add_node("read", read)
    graph.add_node("tell", tell)
    graph.add_edge(START, "read").add_edge("read", "tell").add_edge("tell", END)
    result = await make_runtime(tools=[fetch]).run(Workflow("tell", graph, output="text"), {})
    assert result.value == f"mail,{OWNER}"


async def stray() -> Any:
    """Await a task that somebody cancelled: the error is like that of being cancelled oneself."""
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def test_a_cancelled_task_of_an_agent_is_the_agents_crash(make_runtime):
    @agent(kind="sum")
    async def careless(context: Any, request: Any) -> Any:
        return await stray()

    class Bidder(type(careless)):  # type: ignore[misc]
        async def volunteer(self, request: Any) -> Any:
            return await stray()

    async def act(context: Any, request: Any) -> int:
        return 0

    bidder = Bidder(act, "bidder", frozenset({"sum"}))

    async def main(context: Any, _: Any) -> Any:
        return [(response.agent, response.status) for response in (await context.ask("sum")).responses]

    result = await make_runtime(agents=[careless, bidder]).run(main)
    assert result.value == [["careless", "crashed"]]


async def test_a_cancelled_task_of_a_tool_is_the_tools_failure(make_runtime, board):
    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY)
    async def careless() -> Any:
        return await stray()

    async def main(context: Any, _: Any) -> str:
        with pytest.raises(ToolFailed, match="cancelled"):
            await context.call("careless")
        return "told"

    assert (await make_runtime(tools=[careless]).run(main)).value == "told"


async def test_a_workflow_that_awaits_a_cancelled_task_fails_and_says_so(make_runtime):
    async def main(context: Any, _: Any) -> Any:
        return await stray()

    result = await make_runtime().run(main)
    assert result.status == "failed" and "cancelled" in result.failure.message

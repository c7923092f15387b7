"""Provenance: each part of a value's label is traced to where it came in, and forward to what it shaped."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime

from agentsys import topics
from agentsys.agents import Bid, FunctionAgent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Endorsement, EntryVersionRef
from agentsys.blackboard.erasure import erase, find
from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.merges import Insert
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.erasing import find_derived
from agentsys.gateway import PolicyDenied
from agentsys.handles import Handle
from agentsys.labelled import Labelled
from agentsys.langgraph.store import BlackboardStore
from agentsys.memoisation import Memoise
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import Endorser
from agentsys.policy.policy import Policy
from agentsys.protocols.http.recorded import recorded_board
from agentsys.runs import list_runs
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from agentsys.ui.boards import RECORDED
from agentsys.views.provenance import Provenance, load_provenance
from agentsys.views.run_graph import load_graph
from agentsys.workflow import Workflow

FILE = Label(frozenset({"file:prices.csv"}), Readers.of(OWNER))


@tool(effect=EffectClass.PURE, source=FILE)
def price(item: str) -> float:
    return 3.5


@tool(effect=EffectClass.IRREVERSIBLE)
def send(text: str) -> str:
    return "sent"


async def looks_up(context, request):
    return (await context.call("price", item=request.value)).value


async def reports(context, item):
    context.put("notes", "before", "nothing known", type="note")
    outcome = await context.ask("price", item)
    context.put("notes", "cost", outcome.answers[0].value, type="note")
    try:
        await context.call("send", text="it costs that")
    except PolicyDenied:
        return "refused"


async def reads(context, value):
    return context.read("notes", "cost").value


@pytest.fixture
def board():
    with Board.open(":memory:") as opened:
        yield opened


@pytest.fixture
def runtime(board) -> Runtime:
    return Runtime(
        board,
        ScriptedModel(lambda prompt: ""),
        agents=[FunctionAgent(looks_up, "clerk", frozenset({"price"}), lambda request: Bid("clerk", 0.5))],
        tools=[price, send],
        workflows=[reports, reads],
        policy=Policy.of(open_topics=["notes"]),
    )


def start(runtime: Runtime, workflow: str) -> str:
    return asyncio.run(runtime.run(workflow, "tea")).run


def of(board: Board, topic: str, key: str, version: int | None = None) -> Provenance:
    found = load_provenance(board, topic, key, version)
    assert found is not None
    return found


def test_an_influencer_is_traced_to_the_call_that_brought_it_in(board, runtime):
    run = start(runtime, "reports")
    found = of(board, "notes", "cost")
    (origin,) = [origin for origin in found.origins if origin.influencer == "file:prices.csv"]
    kinds = [found.node(name).kind for name in origin.path]
    # The denied call is on the way: a transaction's writes count as made from all that was known at its end.
    assert kinds == ["tool result", "response", "step: call", "note"]
    assert origin.path[-1] == found.value == "notes/cost@1"
    (owner,) = [origin for origin in found.origins if origin.influencer == OWNER]
    assert owner.path[0] == f"runs/{run}@1"
    gained = {node.id: node.gained for node in found.nodes if node.gained and node.side != "downstream"}
    assert set(gained.values()) == {("file:prices.csv",), (OWNER,)}


def test_the_path_follows_the_edges(board, runtime):
    start(runtime, "reports")
    found = of(board, "notes", "cost")
    edges = {(edge.source, edge.target) for edge in found.edges}
    for origin in found.origins:
        assert origin.path
        assert all(step in edges for step in zip(origin.path, origin.path[1:], strict=False))
    assert len({node.id for node in found.nodes}) == len(found.nodes)


def test_what_was_written_before_the_answer_came_does_not_derive_from_it(board, runtime):
    start(runtime, "reports")
    before = of(board, "notes", "before")
    assert [origin.influencer for origin in before.origins] == [OWNER]
    assert not any(node.kind == "tool result" for node in before.nodes if node.side == "upstream")


def test_a_refusal_is_found_downstream_of_what_caused_it(board, runtime):
    run = start(runtime, "reports")
    caused = of(board, f"runs/{run}/responses/main#1:0000", "clerk")
    (denied,) = caused.denials
    assert (denied.rule, denied.action) == ("integrity", "call send")
    assert "file:prices.csv" in denied.reason
    (decision,) = [node for node in caused.nodes if node.kind == "decision" and node.side == "downstream"]
    again = of(board, f"runs/{run}/decisions", decision.id.rpartition("/decisions/")[2].rpartition("@")[0])
    assert again.denials == (denied,)
    (origin,) = [origin for origin in again.origins if origin.influencer == "file:prices.csv"]
    assert again.node(origin.path[0]).kind == "tool result"


def test_an_offer_that_was_not_chosen_shapes_what_asked(board):
    async def asks(context, item):
        await context.ask("price", item, max_volunteers=1)

    shaped = Label(frozenset({"file:index.csv"}), Readers.of(OWNER))
    agents = [
        FunctionAgent(looks_up, name, frozenset({"price"}), lambda request, bid=bid: bid)
        for name, bid in [("clerk", Bid("clerk", 0.9)), ("idle", Bid("idle", 0.1, label=shaped))]
    ]
    model = ScriptedModel(lambda prompt: "")
    run = start(Runtime(board, model, agents=agents, tools=[price], workflows=[asks]), "asks")
    found = of(board, "runs", run)
    (origin,) = [origin for origin in found.origins if origin.influencer == "file:index.csv"]
    assert [found.node(name).kind for name in origin.path] == ["bid", "run"]


def test_the_recorded_answer_is_traced_through_its_graph_to_the_file(board):
    """The main job's own workflow: nodes of a graph, an agent that describes a file, a query."""
    with recorded_board(RECORDED) as recorded:
        run = list_runs(recorded)[-1].run
        found = of(recorded, "runs", run)
        (origin,) = [origin for origin in found.origins if origin.influencer.startswith("file:")]
        kinds = [found.node(name).kind for name in origin.path]
        assert kinds[0] == "bid"
        assert kinds[-2:] == ["step: node", "run"]
        (plan,) = [node for node in found.nodes if node.kind == "step: generate"]
        assert plan.side == "upstream"
        bid = next(node for node in found.nodes if node.kind == "bid")
        assert bid.gained == (origin.influencer,)
        titles = [node.title for node in load_graph(recorded, run).nodes]
        assert {"node discover", "node choose", "node plan", "node query"} <= set(titles)


def test_a_value_read_from_another_run_is_followed_there(board, runtime):
    start(runtime, "reports")
    run = start(runtime, "reads")
    found = of(board, "runs", run)
    (origin,) = [origin for origin in found.origins if origin.influencer == "file:prices.csv"]
    assert origin.path == ("notes/cost@1", f"runs/{run}@2")
    assert found.node("notes/cost@1").side == "upstream"


def test_an_endorsement_shows_as_a_lower_label(board):
    transaction = board.begin(OWNER)
    transaction.put("notes", "a", "x", type="note", label=FILE)
    board.commit(transaction)
    transaction = board.begin(OWNER)
    transaction.get("notes", "a")
    low = Label.trusted(OWNER, PUBLIC)
    transaction.put("notes", "b", "x", type="note", label=low, endorsed=Endorsement(OWNER, "checked by hand"))
    board.commit(transaction)
    found = of(board, "notes", "b")
    value = found.node(found.value)
    assert value.lowered
    assert value.endorsement == Endorsement(OWNER, "checked by hand")
    assert [(node.id, node.side) for node in found.nodes] == [("notes/b@1", "value"), ("notes/a@1", "upstream")]
    assert not found.node("notes/a@1").lowered


def test_versions_that_never_were_have_none(board):
    assert load_provenance(board, "notes", "none") is None
    transaction = board.begin(OWNER)
    transaction.put("notes", "a", 1, type="note", label=FILE, derived_from=[EntryVersionRef("gone", "x", 9)])
    board.commit(transaction)
    assert load_provenance(board, "notes", "a", 2) is None
    assert [node.id for node in of(board, "notes", "a").nodes] == ["notes/a@1"]


async def test_what_runs_made_of_an_entry_is_erased_with_it(board: Board) -> None:
    async def says(context, value):
        person = context.read("people", "ann").value
        said = (await context.generate(f"say {person}", memo=Memoise())).value
        await context.ask("nothing")
        context.put("notes", "said", said, type="note")
        context.merge("notes", "all", Insert((said,)), type="notes")
        if value == "fail":
            raise LookupError(said)
        return "said"

    async def hides(context, value):
        person = context.read_hidden("people", "ann")
        return (await context.reveal(await context.call_hidden("price", item=person))).value

    async def joins(context, value):
        both = context.together(context.read_hidden("people", "ann"), context.read_hidden("people", "bob"))
        return (await context.reveal(both)).value

    async def shows(context, value):
        return (await context.reveal(context.read_hidden("people", "ann"))).value

    async def fails(context, value):
        raise LookupError(context.read("people", "ann").value)

    tx = board.begin(OWNER)
    tx.put("people", "ann", "42 years", type="person", label=Label.trusted())
    tx.put("people", "bob", "7 years", type="person", label=Label.trusted())
    board.commit(tx)
    policy = Policy.of(open_topics=["notes"])
    runtime = Runtime(board, ScriptedModel(str), tools=[price], workflows=[says, reads], policy=policy)
    for run in ("done", "fail"):
        await runtime.run("says", run, run_id=run)
    for name, workflow in (("at-once", fails), ("hidden", hides), ("joined", joins), ("shown", shows)):
        await runtime.run(workflow, run_id=name)
    await runtime.run("reads", run_id="other")
    found = find_derived(board, Predicate(topic="people", key_from="ann", key_to="anna"))
    runs = {key for topic, key in found if topic == topics.RUNS}
    assert runs == {"done", "fail", "at-once", "hidden", "joined", "shown"}
    erase(board, found, "asked for")
    left = [entry.value for entry in board.query(Predicate())]
    assert not [value for value in left if "42 years" in repr(value)]
    assert [entry.key for entry in board.query(Predicate(topic="people"))] == ["bob"]


@tool(effect=EffectClass.PURE)
def again(text: str) -> str:
    return text


def memory(context) -> BlackboardStore:
    return BlackboardStore(context._scope.board)


def ann(context) -> Handle:
    return context.read_hidden("people", "ann")


async def is_told_of(context, value):
    outcome = await context.ask("tells")
    context.put("notes", "made", outcome.answers[0].value, type="note")


async def has_written(context, value):
    await context.ask("writes", context.read("people", "ann").value)


async def has_written_unseen(context, value):
    await context.ask("writes", ann(context))


async def puts_unseen_answers(context, value):
    context.put("notes", "made", await context.ask_hidden("tells"), type="note")


async def puts_an_unseen_result(context, value):
    context.put("notes", "made", await context.call_hidden("again", text=ann(context)), type="note")


async def puts_a_result(context, value):
    context.put("notes", "made", (await context.call("again", text=ann(context))).value, type="note")


async def puts_what_it_reveals(context, value):
    context.put("notes", "made", (await context.reveal(ann(context))).value, type="note")


async def puts_what_is_visible(context, value):
    context.put("notes", "made", context.visible(ann(context)), type="note")


async def puts_what_is_labelled(context, value):
    context.put("notes", "made", [Labelled(ann(context), context.label)], type="note")


async def puts_what_is_endorsed(context, value):
    context.put("notes", "made", await context.endorse(ann(context), "age"), type="note")


async def keeps_it_in_a_store(context, value):
    await memory(context).aput(("made",), "k", {"v": context.read("people", "ann").value})


async def puts_what_a_store_kept(context, value):
    await keeps_it_in_a_store(context, value)
    made = await asyncio.to_thread(memory(context).search, ("made",))
    context.put("notes", "made", made[0].value["v"], type="note")


async def returns_what_is_labelled(context, value):
    return Labelled(ann(context), context.label)


async def tells(context, request):
    return context.read("people", "ann").value


async def writes(context, request):
    context.put("notes", "made", request.value, type="note")


def graph_of_two() -> Workflow:
    async def first(state, runtime: GraphRuntime[Context]):
        return {"person": runtime.context.read("people", "ann").value}

    async def second(state, runtime: GraphRuntime[Context]):
        runtime.context.put("notes", "made", state["person"], type="note")

    graph = StateGraph(dict, context_schema=Context).add_node("first", first).add_node("second", second)
    return Workflow("graph", graph.add_edge(START, "first").add_edge("first", "second"))


@pytest.mark.parametrize(
    "workflow",
    [
        is_told_of,
        has_written,
        has_written_unseen,
        puts_unseen_answers,
        puts_an_unseen_result,
        puts_a_result,
        puts_what_it_reveals,
        puts_what_is_visible,
        puts_what_is_labelled,
        puts_what_is_endorsed,
        returns_what_is_labelled,
        keeps_it_in_a_store,
        puts_what_a_store_kept,
        graph_of_two(),
    ],
)
async def test_what_came_of_an_entry_by_way_of_others_or_unseen_is_erased_with_it(board: Board, workflow) -> None:
    tx = board.begin(OWNER)
    tx.put("people", "ann", "42 years", type="person", label=Label.trusted())
    board.commit(tx)
    runtime = Runtime(
        board,
        ScriptedModel(str),
        agents=[FunctionAgent(act, act.__name__, frozenset({act.__name__})) for act in (tells, writes)],
        tools=[again],
        policy=Policy(
            open_topics=("notes",),
            domains={"ages": Domain(values=("42 years",))},
            endorsers={"age": Endorser(domain="ages")},
        ),
    )
    result = await runtime.run(workflow, {}, run_id="run")
    assert result.status == "done", result.failure
    derived = find_derived(board, Predicate(topic="people"))
    made = [*board.query(Predicate(topic_prefix="langgraph")), *board.query(Predicate(topic="notes"))]
    assert "42 years" in repr([result.value, made])
    erase(board, derived, "asked for")
    left = [entry for entry in board.query(Predicate()) if entry.topic != topics.POLICIES]
    assert not [entry.address for entry in left if "42 years" in repr(entry.value)]


def test_what_an_erased_run_made_is_traced_as_far_as_its_record_is_left(board: Board, runtime: Runtime) -> None:
    run = start(runtime, "reports")
    start(runtime, "reports")
    erase(board, [*find(board, Predicate(topic_prefix=f"runs/{run}/")), (topics.RUNS, run)], "asked for")
    for commit in board.log(run=run):
        for entry in commit.writes:
            found = load_provenance(board, entry.topic, entry.key, entry.version)
            assert found is not None and found.node(found.value) is not None
    for topic, key in ((topics.RUNS, run), (topics.steps(run), "main#1:0000")):
        found = load_provenance(board, topic, key)
        assert found is not None and found.nodes[0].value is None

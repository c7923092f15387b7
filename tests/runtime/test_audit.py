"""P13: what the log holds reproduces each decision, and the chain of the log verifies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.merges import Add
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import ChainBroken
from agentsys.context import Context
from agentsys.decisions import DecisionRecord
from agentsys.errors import AgentsysError
from agentsys.gateway import Allow, Gateway
from agentsys.policy.policy import Policy
from agentsys.policy.rules import Limits, ToolRule
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool
from agentsys.workflow import Workflow

STRANGER = Label(frozenset({"web:example.org"}), PUBLIC)


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=Label.trusted())
def send(to: str, text: str) -> str:
    return f"sent {text}"


@tool(effect=EffectClass.IDEMPOTENT, audience=PUBLIC, consequential=False, source=STRANGER)
def look(what: str) -> str:
    return "a page"


def policy(**more: Any) -> Policy:
    rules = {"send": ToolRule(ask="if-untrusted"), "look": ToolRule(limits=Limits(run=1))}
    return Policy(tools=rules, open_topics=("notes",), **more)


async def works(context: Any, text: Any) -> Any:
    """Make decisions of every kind: allowed, denied, asked about, a quota, a write, an unknown tool."""
    await context.call("send", to="ann", text=text)
    for tool_name, arguments in (("none", {}), ("send", {"to": 3}), ("look", {"what": text})):
        with contextlib.suppress(AgentsysError):
            await context.call(tool_name, **arguments)
    context.put("notes", "one", "kept", type="note")
    await context.call_hidden(
        "look",
        what="x",
    ) if text == "twice" else None
    with contextlib.suppress(AgentsysError):
        context.put("shared", "one", (await context.call_hidden("peek")), type="note")
    with contextlib.suppress(AgentsysError):
        await context.endorse(await context.call_hidden("peek"), "nobody-knows")
    seen = await context.call("peek")
    with contextlib.suppress(AgentsysError):
        context.put("shared", "two", seen, type="note")
    return (await context.call("send", to="ann", text=seen)).value


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, consequential=False, source=STRANGER)
def peek() -> str:
    return "a stranger's"


TOOLS = [send, look, peek]


def runtime_on(board: Board, **more: Any) -> Runtime:
    return Runtime(board, ScriptedModel(str), tools=TOOLS, workflows=[works], policy=policy(**more))


async def worked(runtime: Runtime, word: str = "approve") -> str:
    running = asyncio.create_task(runtime.run("works", "hello", run_id="r"))
    while not (found := runtime.approvals("pending")):
        await asyncio.sleep(0.01)
        assert not running.done(), running.result().failure
    await runtime.decide(found[0].id, word)  # type: ignore[arg-type]
    await running
    return "r"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board.open(tmp_path / "board.db") as opened:
        yield opened


@pytest.mark.parametrize("word", ["approve", "reject"])
async def test_every_decision_is_made_again_from_the_record(board: Board, word: str):
    runtime = runtime_on(board)
    run = await worked(runtime, word)
    rules = {entry.value["rule"] for entry in board.query(Predicate(topic=topics.decisions(run)))}  # type: ignore[index,call-overload]
    assert {"consequential", "unknown-tool", "bad-arguments", "write-integrity", "unknown-endorser"} <= rules
    assert {"ask-if-untrusted", "approved" if word == "approve" else "rejected"} <= rules
    report = await runtime.audit(run)
    assert (report.difference, report.identical) == (None, True) and report.decisions >= 10
    assert (await runtime.replay(run)).identical
    assert board.verify() == board.head


async def test_the_policy_is_read_from_the_board(board: Board):
    """A runtime whose policy has changed since makes the old decisions again under the old policy."""
    run = await worked(runtime_on(board))
    changed = Runtime(board, ScriptedModel(str), tools=TOOLS, workflows=[works], policy=Policy(trusted=frozenset()))
    assert (await changed.audit(run)).difference is not None, "an agent's write is judged under the present policy"
    report = await runtime_on(board, budget_bits=1.0).audit(run)
    assert report.identical and report.decisions >= 10


PLANTED: dict[str, dict[str, Any]] = {
    "an allowed call that was denied": {"rule": "integrity", "allowed": False, "reason": "no"},
    "another rule": {"rule": "harmless"},
    "another label": {},
    "another policy": {"policy": "0" * 32},
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_decision_that_the_record_does_not_bear_out_is_found(board: Board, planted: str):
    runtime = runtime_on(board)
    run = await worked(runtime)
    first = min(board.query(Predicate(topic=topics.decisions(run))), key=lambda entry: entry.seq)
    body: Any = dict(first.value) | PLANTED[planted]  # type: ignore[arg-type]
    if planted == "another label":
        body["question"] = {**body["question"], "control": STRANGER.to_json()}
    transaction = board.begin("intruder", run=run)
    transaction.put(first.topic, first.key, body, type="decision", label=first.label)
    board.commit(transaction)
    report = await runtime.audit(run)
    assert report.difference is not None and first.key in report.difference


async def test_a_word_that_was_not_given_is_found(board: Board):
    runtime = runtime_on(board)
    run = await worked(runtime, "reject")
    (asked,) = runtime.approvals()
    transaction = board.begin("intruder", run=run)
    replace(asked, status="approved").write(transaction)
    board.commit(transaction)
    report = await runtime.audit(run)
    assert report.difference is not None and "/used" in report.difference


async def test_a_write_that_no_policy_allowed_is_found(board: Board):
    runtime = runtime_on(board)
    run = await worked(runtime)
    transaction = board.begin("agent:works", run=run)
    transaction.put("shared", "planted", 1, type="note", label=STRANGER.join(Label(readers=Readers.of(OWNER))))
    board.commit(transaction)
    report = await runtime.audit(run)
    assert report.difference is not None and "shared/planted" in report.difference


async def test_a_merge_is_decided_again_as_it_was_whoever_shaped_the_entry_before(board: Board):
    async def counts(context: Any, _: Any) -> None:
        for _ in range(3):
            context.merge("shared", "count", Add(1), type="note")

    transaction = board.begin("web:example.org")
    transaction.put("shared", "count", 1, type="note", label=STRANGER)
    board.commit(transaction)
    runtime = runtime_on(board)
    run = (await runtime.run(counts)).run
    entry = board.get("shared", "count")
    assert (
        entry is not None and (entry.value, entry.run) == (4, run) and STRANGER.influencers <= entry.label.influencers
    )
    report = await runtime.audit(run)
    assert (report.difference, report.decisions) == (None, 1)
    assert (await runtime.replay(run, counts)).identical
    transaction = board.begin("agent:counts", run=run)
    transaction.put("shared", "other", 1, type="note", label=STRANGER)
    board.commit(transaction)
    assert "shared/other" in str((await runtime.audit(run)).difference)


async def counts_and_puts(context: Any, order: Any) -> None:
    """Merge into an entry and put it, in one transaction, and perhaps read what strangers say in between."""
    for verb in order:
        if verb == "put":
            context.put("shared", "count", 7, type="note")
        elif verb == "peek":
            await context.call("peek")
        else:
            context.merge("shared", "count", Add(1), type="note")


@pytest.mark.parametrize(("order", "value"), [(["merge", "put"], 7), (["put", "merge"], 8)])
async def test_a_put_beside_a_merge_is_decided_again(board: Board, order: list[str], value: int):
    transaction = board.begin("web:example.org")
    transaction.put("shared", "count", 1, type="note", label=STRANGER)
    board.commit(transaction)
    runtime = runtime_on(board)
    run = (await runtime.run(counts_and_puts, order)).run
    assert (found := board.get("shared", "count")) is not None and found.value == value
    report = await runtime.audit(run)
    assert (report.difference, report.decisions) == (None, 2)
    transaction = board.begin("agent:counts_and_puts", run=run)
    transaction.put("shared", "count", 3, type="note", label=STRANGER)
    board.commit(transaction)
    assert "shared/count" in str((await runtime.audit(run)).difference)


async def test_a_put_that_no_policy_allowed_is_found_beside_a_merge_that_one_allowed(
    board: Board, monkeypatch: pytest.MonkeyPatch
):
    runtime = runtime_on(board)
    with monkeypatch.context() as patch:
        patch.setattr(Gateway, "decide_write", lambda self, topic, label: Allow("trusted-write"))
        run = (await runtime.run(counts_and_puts, ["merge", "peek", "put"])).run
    difference = (await runtime.audit(run)).difference
    assert difference is not None and difference.startswith("shared/count of commit")


async def test_a_put_that_is_made_one_with_a_strangers_is_decided_again_as_it_was(board: Board):
    async def lists(context: Any, times: Any) -> None:
        context.read("shared", "list")
        for number in range(times):
            # The last comes while the run's own commit is made one with those before.
            write(str(number))
        context.put("shared", "list", ["mine"], type="list")

    def write(item: str) -> None:
        transaction = board.begin("web:example.org")
        transaction.put("shared", "list", [item], type="list", label=STRANGER)
        board.commit(transaction)

    def one(base: Any, mine: Any, theirs: Any) -> Any:
        if theirs == ["1"]:
            write("2")
        return [*theirs, *mine]

    runtime = Runtime(board, ScriptedModel(str), policy=policy(), conflicts={"list": one})
    run = (await runtime.run(lists, 2)).run
    entry = board.get("shared", "list")
    assert entry is not None and entry.run == run and STRANGER.influencers <= entry.label.influencers
    report = await runtime.audit(run)
    assert (report.difference, report.decisions) == (None, 1)
    assert (await runtime.replay(run, lists)).identical


async def test_a_write_that_no_policy_allowed_is_found_though_others_wrote_over_it(board: Board):
    runtime = runtime_on(board)
    run = await worked(runtime)
    for writer, label in (("agent:works", STRANGER), (OWNER, Label.trusted())):
        transaction = board.begin(writer, run=run if label is STRANGER else None)
        transaction.put("shared", "planted", 1, type="note", label=label)
        board.commit(transaction)
    report = await runtime.audit(run)
    assert report.difference is not None and "shared/planted" in report.difference


async def test_a_quota_denies_and_is_made_again(board: Board):
    runtime = runtime_on(board)

    async def twice(context: Any, text: Any) -> None:
        for _ in range(2):
            await context.call_hidden("look", what=PUBLIC_TEXT)

    result = await runtime.run(twice, None, run_id="q", label=STRANGER)
    assert result.failure is not None and "quota" in result.failure.message
    report = await runtime.audit("q")
    assert report.identical and report.decisions == 2


PUBLIC_TEXT = "anything"


async def test_what_a_node_of_a_graph_was_denied_is_on_record_where_it_fails_for_it(board: Board):
    async def meddle(state: dict[str, Any], runtime: GraphRuntime[Context]) -> dict[str, Any]:
        runtime.context.put("runs/other", "n", 1, type="note")
        return state

    graph = StateGraph(dict, context_schema=Context).add_node("meddle", meddle).add_edge(START, "meddle")
    runtime = Runtime(board, ScriptedModel(str), workflows=[Workflow("graph", graph)], policy=policy())
    result = await runtime.run("graph", {}, run_id="r")
    assert result.failure is not None and result.failure.type == "PolicyDenied"
    (denied,) = map(DecisionRecord.of, board.query(Predicate(topic=topics.decisions("r"))))
    assert (denied.agent, denied.action, denied.allowed) == ("meddle", "write runs/other/n", False)
    report = await runtime.audit("r")
    assert report.identical and report.decisions == 1
    assert (await runtime.replay("r")).identical


async def test_a_changed_log_breaks_the_chain(tmp_path: Path):
    import sqlite3

    path = tmp_path / "board.db"
    with Board.open(path) as board:
        await worked(runtime_on(board))
        board.verify()
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        table = next(name for name in tables if "entr" in name)
        columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
        column = next(name for name in columns if name == "value")
        changed = database.execute(f"update {table} set {column} = replace({column}, 'unknown-tool', 'harmless')")
        assert changed.rowcount
        database.commit()
    with Board.open(path) as board, pytest.raises(ChainBroken):
        board.verify()

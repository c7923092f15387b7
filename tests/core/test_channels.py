"""Ways by which something reaches an actor beside a value: each raises its control label."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentsys.agents import Request, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, NOBODY, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.handles import Handle, HandleOpaque, Hidden
from agentsys.journal import Journal
from agentsys.labelled import Labelled
from agentsys.langgraph.saver import BlackboardSaver
from agentsys.langgraph.store import BlackboardStore
from agentsys.models import ConstraintUnmet, ModelFailed
from agentsys.policy.links import defang
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import EffectInDoubt
from agentsys.tools import tool
from agentsys.workspace import Workspace

STRANGER = Label(frozenset({"mail"}))
PRESSED = Label(frozenset({"web"}))
CHECKPOINT: Any = {
    "v": 1, "id": "1", "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {},
}  # fmt: skip


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name, "checkpoint_ns": ""}}


def labels_of(board: Board, topic: str) -> dict[str, Label]:
    return {entry.key: entry.label for entry in board.query(Predicate(topic=topic))}


def write(board: Board, topic: str, key: str, value: Any, label: Label = STRANGER) -> None:
    transaction = board.begin("seed")
    transaction.put(topic, key, value, type="note", label=label)
    board.commit(transaction)


@pytest.fixture
def board(tmp_path: Path) -> Any:
    with Board.open(tmp_path / "board.db") as opened:
        yield opened


async def label_after(board: Board, body: Any, **arguments: Any) -> Label:
    """Return the control label with which ``body`` ends."""
    labels: list[Label] = []

    async def main(context: Context, _: Any) -> None:
        await body(context)
        labels.append(context.label)

    result = await Runtime(board, ScriptedModel(str), policy=Policy.of(open_topics=["n"]), **arguments).run(main)
    assert result.status == "done", result.failure
    return labels[-1]


@pytest.mark.parametrize("equals", [{}, {"state": "hold"}])
async def test_what_a_search_does_not_find_any_more_counts(board: Board, equals: dict[str, Any]) -> None:
    write(board, "n/x", "a", {"state": "hold"}, Label.trusted())

    async def search(context: Context) -> None:
        context.query(Predicate(topic="n/x", equals=equals))

    assert await label_after(board, search) == Label.trusted()
    if equals:
        write(board, "n/x", "a", {"state": "go"})
    else:
        ending = board.begin("seed")
        ending.delete("n/x", "a", label=STRANGER)
        board.commit(ending)
    assert "mail" in (await label_after(board, search)).influencers


async def test_a_search_elsewhere_does_not_count(board: Board) -> None:
    write(board, "n/y", "a", 1)

    async def search(context: Context) -> None:
        context.query(Predicate(topic="n/x"))
        context.query(Predicate(topic="n/y", key_from="b"))

    assert await label_after(board, search) == Label.trusted()


async def test_a_new_attempt_knows_what_the_last_one_saw(board: Board) -> None:
    write(board, "n/x", "a", 1, Label.trusted())
    write(board, "n/x", "letter", "go")

    async def body(context: Context) -> None:
        if context.actor.attempt > 1:
            return
        context.read("n/x", "letter")
        context.read("n/x", "a")
        await asyncio.to_thread(write, board, "n/x", "a", 2, Label.trusted())
        context.put("n/y", "b", 1, type="note")

    assert "mail" in (await label_after(board, body)).influencers


async def test_why_a_call_is_in_doubt_counts(board: Board) -> None:
    begun = asyncio.Event()

    def became(key: str) -> Any:
        raise RuntimeError("a stranger's words")

    @tool(effect=EffectClass.QUERYABLE, query=became, audience=NOBODY, source=STRANGER, consequential=False)
    async def book() -> str:
        begun.set()
        await asyncio.sleep(60)
        return "booked"

    labels: list[Label] = []

    async def main(context: Context, _: Any) -> None:
        with pytest.raises(EffectInDoubt, match="a stranger's words"):
            await context.call_hidden("book")
        labels.append(context.label)

    runtime = Runtime(board, ScriptedModel(str), tools=[book])
    going = asyncio.create_task(runtime.run(main, run_id="first"))
    await begun.wait()
    going.cancel()
    await asyncio.wait({going})
    assert (await runtime.resume("first", main)).status == "done"
    assert "mail" in labels[-1].influencers


async def test_that_an_agent_was_late_counts_as_what_it_had_read(board: Board) -> None:
    write(board, "n/x", "letter", "take your time")

    @agent(kind="question", name="helper")
    async def helper(context: Context, request: Request) -> None:
        context.read("n/x", "letter")
        await asyncio.sleep(60)

    async def body(context: Context) -> None:
        outcome = await context.ask("question", timeout=2.0)
        assert outcome.responses[0].status == "timed_out"

    assert "mail" in (await label_after(board, body, agents=[helper])).influencers


async def test_that_a_model_could_not_read_a_value_counts_as_the_value(board: Board) -> None:
    labels: list[Label] = []

    def fails(prompt: str) -> str:
        raise ConstraintUnmet(f"{prompt} is too much.")

    class Answer(BaseModel):
        yes: bool

    async def main(context: Context, _: Any) -> None:
        with pytest.raises(ModelFailed):
            await context.extract(Labelled("a page", STRANGER), Answer)
        labels.append(context.label)

    runtime = Runtime(board, ScriptedModel(fails), workflows=[main])
    assert (await runtime.replay((await runtime.run("main")).run)).identical
    assert ["mail" in label.influencers for label in labels] == [True, True]


async def test_a_store_inside_a_run_tells_and_is_told(board: Board) -> None:
    low, high = BlackboardStore(board, label=Label.trusted()), BlackboardStore(board, label=STRANGER)
    high.put(("tips",), "a", {"v": 1})

    async def copies(context: Context) -> None:
        item = await high.aget(("tips",), "a")
        assert item is not None
        await low.aput(("own",), "a", item.value)

    assert "mail" in (await label_after(board, copies)).influencers
    (entry,) = board.query(Predicate(topic="langgraph-store/own/"))
    assert "mail" in entry.label.influencers
    low.put(("own",), "b", {"v": 2})
    (entry,) = board.query(Predicate(topic="langgraph-store/own/", key_from="b"))
    assert entry.label == Label.trusted(), "outside a run, the operator's word holds"


async def test_a_saver_inside_a_run_tells(board: Board) -> None:
    saver = BlackboardSaver(board, label=STRANGER)
    saver.put(thread("t"), CHECKPOINT, {}, {})

    async def reads(context: Context) -> None:
        assert await saver.aget_tuple(thread("t")) is not None

    assert "mail" in (await label_after(board, reads)).influencers


async def test_a_saver_that_lists_tells_what_tasks_wrote(board: Board) -> None:
    saver, other = BlackboardSaver(board, label=BOTTOM), BlackboardSaver(board, label=STRANGER)
    other.put_writes(saver.put(thread("t"), CHECKPOINT, {}, {}), [("text", "from a stranger")], "task")

    async def lists(context: Context) -> None:
        (found,) = [found async for found in saver.alist(thread("t"))]
        assert found.pending_writes == [("task", "text", "from a stranger")]

    assert "mail" in (await label_after(board, lists)).influencers


async def test_copies_of_checkpoints_keep_their_labels_under_that_of_who_copies(board: Board) -> None:
    saver, other = BlackboardSaver(board, label=BOTTOM), BlackboardSaver(board, label=STRANGER)
    other.put_writes(saver.put(thread("t"), CHECKPOINT, {}, {}), [("text", "from a stranger")], "task")
    await saver.acopy_thread("t", "copied")
    labels = {name: labels_of(board, f"langgraph/{name}") for name in ("t", "copied")}
    assert labels["copied"] == labels["t"] and len(set(labels["t"].values())) == 2

    async def copies(context: Context) -> None:
        context.deliver(PRESSED)
        await saver.acopy_thread("t", "told to")
        await saver.adelete_thread("copied")

    await label_after(board, copies)
    copied = labels_of(board, "langgraph/told%20to").values()
    assert copied and all("web" in label.influencers for label in copied)
    gone = [entry for commit in board.log() for entry in commit.writes if entry.deleted]
    assert gone and all("web" in entry.label.influencers for entry in gone)


async def test_a_search_of_a_store_or_saver_tells_who_ended_what_is_not_there(board: Board) -> None:
    store, saver = BlackboardStore(board, label=BOTTOM), BlackboardSaver(board, label=BOTTOM)
    store.put(("tips",), "a", {"v": 1})
    saver.put(thread("t"), CHECKPOINT, {}, {})
    BlackboardStore(board, label=STRANGER).delete(("tips",), "a")
    BlackboardSaver(board, label=STRANGER).delete_thread("t")

    async def searches(context: Context) -> None:
        assert await store.asearch(("tips",)) == []

    async def names(context: Context) -> None:
        assert await store.alist_namespaces() == []

    async def lists(context: Context) -> None:
        assert [found async for found in saver.alist(thread("t"))] == []

    for body in (searches, names, lists):
        assert "mail" in (await label_after(board, body)).influencers, body.__name__


def test_no_attribute_leads_to_a_hidden_value() -> None:
    handle = Handle("$1", Hidden("secret", Label()))
    with pytest.raises(AttributeError):
        f"{handle._hidden.value}"
    assert not any("secret" in str(getattr(handle, name, "")) for name in dir(handle) if not name.startswith("__"))
    with pytest.raises(HandleOpaque):
        pickle.dumps(handle)
    assert copy.deepcopy([handle])[0] is handle


def test_a_copied_policy_has_a_version_of_its_own() -> None:
    policy = Policy.of()
    assert policy.version != policy.model_copy(update={"budget_bits": 1.0}).version
    assert policy.version == policy.model_copy().version


@pytest.mark.parametrize(
    ("text", "inactive"),
    [
        ("http:\\\\evil.example\\x", "hxxp[:]\\\\evil[.]example\\x"),
        ("https:evil.example/x", "hxxps[:]evil[.]example/x"),
        ("//evil.example/x", "[//]evil[.]example/x"),
        ("javascript:alert(1)", "javascripx[:]alert(1)"),
        ("<slack:open>", "<slack[:]open>"),
        ("h\u200bttps://evil.example", "hxxps[:]//evil[.]example"),
        ("https://docs.example.org\\@evil.example/", "hxxps[:]//docs[.]example[.]org\\@evil[.]example/"),
        ("https://evil\u3002example/", "hxxps[:]//evil[.]example/"),
        ("at 12:30: see report.pdf, and 👨\u200d👩\u200d👧", "at 12:30: see report.pdf, and 👨\u200d👩\u200d👧"),
        ("https://docs.example.org/a?b=c", "https://docs.example.org/a?b=c"),
    ],
)
def test_links_of_every_spelling_are_inactive(text: str, inactive: str) -> None:
    assert defang(text, {"docs.example.org"}) == inactive


async def test_a_search_tells_nothing_of_what_its_audience_may_not_read(board: Board) -> None:
    write(board, "n/x", "secret", 1, Label(frozenset({"mail"}), Readers.of("user:boss")))
    ending = board.begin("seed")
    ending.delete("n/x", "secret", label=Label(frozenset({"mail"}), Readers.of("user:boss")))
    board.commit(ending)
    journal, search = Journal(board, "run"), Predicate(topic="n/x")
    cleared = Workspace(journal, "agent:a", board.head, audience=Readers.of("user:ann"))
    assert cleared.label_of_search(search) == BOTTOM
    assert "mail" in Workspace(journal, "agent:a", board.head).label_of_search(search).influencers

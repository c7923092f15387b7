"""P10 and P16: sessions that share agents, a board, memory and a scheduler learn nothing of each other through them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st

from agentsys import topics
from agentsys.agenda import Agenda
from agentsys.agents import Request, agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.labelled import Labelled
from agentsys.memoisation import Memoisation, Memoise
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.serving.torch_engine.block_pool import BlockPool, chain_digest, domain_digest
from agentsys.testing import ScriptedModel, prompt_text
from agentsys.tools import tool
from tests.ifc.checking import holds, is_violated
from tests.ifc.world import POLICY

PEOPLE = ["user:ann", "user:bob"]
STEPS = st.lists(st.sampled_from(["ask", "hide", "endorse", "note", "think"]), min_size=1, max_size=5)
READERS = st.one_of(st.just(PUBLIC), st.frozensets(st.sampled_from([*PEOPLE, "user:cy"]), max_size=3).map(Readers))


class Shared:
    """What two sessions share: agents with a memory of their own making, a board, a model, tools."""

    def __init__(self, board: Board) -> None:
        self.model = ScriptedModel(lambda prompt: prompt[-40:])
        self.asked: list[str] = []
        policy = read_policy(POLICY.replace("source = []", 'source = []\nreaders = ["everyone"]'))
        policy = policy.model_copy(update={"trusted": frozenset({*PEOPLE, OWNER})})
        self.runtime = Runtime(board, self.model, agents=[self._agent()], tools=self._tools(), policy=policy)

    def _agent(self) -> Any:
        @agent(kind="question")
        async def helper(context: Context, request: Request) -> Any:
            self.asked.append(str(request.value))
            return (await context.generate(f"Help with {request.value}")).value

        return helper

    def _tools(self) -> list[Any]:
        @tool(effect=EffectClass.IDEMPOTENT)
        def read_mail() -> list[dict[str, Any]]:
            return [{"id": 1, "sender": "ann@example.org", "body": "x"}]

        return [read_mail]

    async def session(self, who: str, steps: list[str]) -> list[Any]:
        """Do a session's steps, and return all that it learnt: values, labels, names of handles, refusals."""
        learnt: list[Any] = []

        async def main(context: Context, _: Any) -> None:
            handle = await context.call_hidden("read_mail")
            for number, step in enumerate(steps):
                await asyncio.sleep(0)
                match step:
                    case "ask":
                        outcome = await context.ask("question", f"canary-{who}-{number}")
                        learnt.append(outcome.value)
                    case "hide":
                        handle = await context.call_hidden("read_mail")
                        learnt.append(str(handle))
                    case "endorse":
                        handle = await context.endorse(handle[0]["sender"], "contact")
                        handle = await context.call_hidden("read_mail")
                    case "note":
                        context.put(f"notes/{who}", "n", f"canary-{who}", type="note")
                    case _:
                        learnt.append((await context.generate(f"think canary-{who}")).value)
                learnt.append(context.label.to_json())

        result = await self.runtime.run(main, label=Label.trusted(who), run_id=who[5:])
        assert result.status == "done", result.failure
        return learnt


def isolated(ann: list[str], bob: list[str]) -> None:
    """What one session learns is the same with and without another; its prompts hold nothing of the other's."""
    with Board.open(":memory:") as alone, Board.open(":memory:") as together:
        wanted = asyncio.run(Shared(alone).session("user:ann", ann))
        shared = Shared(together)

        async def both() -> list[Any]:
            return list(await asyncio.gather(shared.session("user:ann", ann), shared.session("user:bob", bob)))

        learnt, _ = asyncio.run(both())
        assert learnt == wanted, "one session shows in another"
        for request in shared.model.requests:
            text = prompt_text(request)
            assert not ("canary-user:ann" in text and "canary-user:bob" in text)
            for who in PEOPLE:
                if f"canary-{who}" in text:
                    assert request.label.influencers <= {who, "mail", OWNER}
                    assert request.label.readers.permits(Readers.of(who))
        for who in PEOPLE:
            other = next(one for one in PEOPLE if one != who)
            for entry in together.query(Predicate(topic=topics.steps(who[5:]))):
                assert other not in entry.label.shaped_by
        quotas = {entry.key.split("/")[0] for entry in together.query(Predicate(topic=topics.QUOTAS))}
        assert quotas <= {"ann", "bob"}


def test_sessions_that_share_agents_learn_nothing_of_each_other() -> None:
    holds(isolated, examples=25, ann=STEPS, bob=STEPS)


def test_handles_that_are_counted_together_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from agentsys.handles import Handle
    from agentsys.tool_calling import ToolCalling

    count = [0]

    def counted(self: ToolCalling, hidden: Any) -> Handle:
        count[0] += 1
        return Handle(f"${count[0]}", hidden)

    monkeypatch.setattr(ToolCalling, "_handle", counted)
    is_violated(isolated, examples=60, ann=st.just(["hide", "hide"]), bob=STEPS)


made: list[str] = []


@tool(effect=EffectClass.PURE, memo=Memoise())
def compute(what: str) -> str:
    made.append(what)
    return what.upper()


LABELS = st.builds(lambda who, readers: Label(frozenset({who}), readers), st.sampled_from([*PEOPLE, "mail"]), READERS)


def memory_is_noninterfering(first: Label, second: Label) -> None:
    """A question is answered from memory under the same label alone, so no hit tells of another label's question."""

    async def main(context: Context, label: Any) -> Any:
        found = await context.call("compute", what=Labelled("x", Label.from_json(label)))
        return [found.value, found.label.to_json()]

    async def both() -> list[Any]:
        runtime = Runtime(board, ScriptedModel(str), tools=[compute])
        return [(await runtime.run(main, label.to_json())).value for label in (first, second)]

    made.clear()
    with Board.open(":memory:") as board:
        one, other = asyncio.run(both())
    same = Label.trusted().join(first) == Label.trusted().join(second)
    assert len(made) == (1 if same else 2), "a hit crossed labels"
    assert one[0] == other[0] == "X"
    assert Label.from_json(other[1]) == Label.trusted().join(second)


def test_memory_answers_the_same_label_alone() -> None:
    holds(memory_is_noninterfering, examples=40, first=LABELS, second=LABELS)


def test_a_memory_that_forgets_labels_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Memoisation.question

    def unlabelled(self: Memoisation, asked: Any, version: str, parameters: Any, label: Label) -> Any:
        return right(self, asked, version, parameters, Label.trusted())

    monkeypatch.setattr(Memoisation, "question", unlabelled)
    is_violated(memory_is_noninterfering, examples=60, first=LABELS, second=LABELS)


def prefix_cache(mine: Readers, theirs: list[Readers], tokens: list[int]) -> None:
    """Whether a prefix is cached for some readers depends on what was asked for exactly these readers."""

    def hits(others: list[Readers]) -> int:
        pool = BlockPool(16)
        for readers in [*others, mine]:
            digests = chain(readers)
            cached = pool.match(digests)
            if readers == mine and readers is mine:
                return len(cached)
            fresh = pool.take(len(digests) - len(cached))
            for block, digest in zip(fresh, digests[len(cached) :], strict=True):
                pool.name(block, digest)
            pool.release([*cached, *fresh])
        raise AssertionError

    def chain(readers: Readers) -> list[bytes]:
        digest, found = domain_digest(readers), []
        for token in tokens:
            digest = chain_digest(digest, [token])
            found.append(digest)
        return found

    others = [Readers(one.members) for one in theirs if one != mine]
    assert hits(others) == hits([]) == 0, "others' prompts show in the cache"


def test_the_prefix_cache_tells_nothing_of_prompts_for_others() -> None:
    tokens = st.lists(st.integers(0, 3), min_size=1, max_size=3)
    holds(prefix_cache, examples=100, mine=READERS, theirs=st.lists(READERS, max_size=3), tokens=tokens)


def test_one_cache_for_all_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.ifc.test_p10_p16_isolation.domain_digest", lambda readers: b"same")
    tokens = st.just([1, 2])
    is_violated(prefix_cache, mine=READERS, theirs=st.lists(READERS, min_size=1, max_size=3), tokens=tokens)


async def order_of(ratings: list[float]) -> list[int]:
    """Return in which order those who wait for the agenda's one place get it."""
    agenda, order, first = Agenda(1), list[int](), asyncio.Event()

    async def hold() -> None:
        async with agenda.turn(0.0):
            await first.wait()

    async def wait(number: int) -> None:
        async with agenda.turn(ratings[number]):
            order.append(number)

    holding = asyncio.ensure_future(hold())
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(wait(number)) for number in range(len(ratings))]
    await asyncio.sleep(0)
    first.set()
    await asyncio.gather(holding, *waiting)
    return order


def scheduling(ratings: list[float]) -> None:
    """The order follows from ratings and arrival alone: what is rated does not show in it."""
    order = asyncio.run(order_of(ratings))
    assert order == sorted(range(len(ratings)), key=lambda number: (-ratings[number], number))


def test_the_order_of_agents_follows_from_urgency_and_arrival_alone() -> None:
    holds(scheduling, examples=60, ratings=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=6))


def test_urgency_is_no_part_of_what_strangers_decide() -> None:
    """κ follows from deadlines, which runs and callers set; neither a tool's result nor a model's answer is asked."""

    async def main(context: Context, _: Any) -> None:
        await context.generate("one")
        await context.call("compute", what=Labelled("URGENT deadline=0 priority=-9", Label(frozenset({"mail"}))))
        await context.generate("two")

    model = ScriptedModel(str)
    with Board.open(":memory:") as board:
        asyncio.run(Runtime(board, model, tools=[compute]).run(main, deadline=60.0))
    first, second = (request.urgency for request in model.requests)
    assert first == second

"""Memoised calls: what is made once, for whom, until when; nobody learns what other labels asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys import topics
from agentsys.blackboard import memo as board_memo
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, Label, Readers
from agentsys.blackboard.memo import Memo, Question
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.labelled import Labelled
from agentsys.leases import LeaseLost, give_back
from agentsys.memoisation import Memoise
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.serving.requests import SamplingParams
from agentsys.testing import ScriptedModel
from agentsys.tool_calls import ToolFailed
from agentsys.tools import tool

LOW = Label.trusted(OWNER, Readers.of(OWNER, "user:low"))
HIGH = Label.trusted(OWNER, Readers.of(OWNER))
made: list[int] = []


@pytest.fixture(autouse=True)
def _none_made() -> Iterator[None]:
    made.clear()
    return iter([None])


@tool(effect=EffectClass.PURE, memo=Memoise())
def square(number: int) -> int:
    made.append(number)
    if number < 0:
        raise ValueError("negative")
    return number * number


async def squares(context: Context, numbers: list[int]) -> Any:
    return [(await context.call("square", number=number)).value for number in numbers]


def steps_of(board: Board, run: str) -> list[Any]:
    return [entry.value for entry in board.query(Predicate(topic=topics.steps(run)))]


def hits(board: Board, run: str) -> int:
    return sum("memo" in step["value"] for step in steps_of(board, run) if isinstance(step["value"], dict))


async def test_an_equal_call_of_another_run_is_made_once_and_replays(board: Board) -> None:
    runtime = Runtime(board, ScriptedModel(str), tools=[square], workflows=[squares])
    first = await runtime.run(squares, [3, 4], run_id="first")
    second = await runtime.run(squares, [3, 4, 5], run_id="second")
    assert (first.value, second.value) == ([9, 16], [9, 16, 25])
    assert made == [3, 4, 5]
    assert (hits(board, "first"), hits(board, "second")) == (0, 2)
    assert second.label == first.label
    for entry in board.query(Predicate(topic=topics.MEMO, type="memo")):
        transaction = board.begin("test")
        transaction.delete(topics.MEMO, entry.key, label=entry.label)
        board.commit(transaction)
    assert (await runtime.replay("second")).identical, "the record alone is enough"
    assert made == [3, 4, 5]


async def test_a_hit_derives_from_the_answer_on_record(board: Board) -> None:
    runtime = Runtime(board, ScriptedModel(str), tools=[square])
    await runtime.run(squares, [3], run_id="first")
    await runtime.run(squares, [3], run_id="second")
    (step,) = [entry for entry in board.query(Predicate(topic=topics.steps("second"))) if entry.value["kind"] == "call"]
    (answer,) = [ref for ref in step.derived_from if ref.topic == topics.MEMO]
    kept = board.get(topics.MEMO, answer.key)
    assert kept is not None
    assert (kept.version, kept.value["answer"], kept.run) == (answer.version, 9, "first")
    assert kept.label.flows_to(step.label)


async def test_a_result_is_labelled_with_all_that_shaped_it_also_when_it_comes_from_memory(board: Board) -> None:
    brought = Label(frozenset({"file:table"}), Readers.of(OWNER))

    @tool(effect=EffectClass.PURE, memo=Memoise())
    def look(key: str) -> Any:
        return Labelled("found", brought)

    async def twice(context: Context, _: Any) -> Any:
        fresh = await context.call("look", key=Labelled("k", LOW))
        return [fresh.label.to_json(), context.label.to_json()]

    runtime = Runtime(board, ScriptedModel(str), tools=[look])
    first, second = [await runtime.run(twice, None) for _ in range(2)]
    assert first.value == second.value
    label = Label.from_json(second.value[0])
    assert brought.flows_to(label)
    assert LOW.flows_to(label)


async def test_failures_are_not_kept(board: Board) -> None:
    async def catches(context: Context, _: Any) -> Any:
        with pytest.raises(ToolFailed):
            await context.call("square", number=-1)

    runtime = Runtime(board, ScriptedModel(str), tools=[square])
    for _ in range(2):
        assert (await runtime.run(catches, None)).status == "done"
    assert made == [-1, -1]


async def test_calls_that_begin_while_the_same_is_under_way_wait_for_it(board: Board) -> None:
    @tool(effect=EffectClass.PURE, memo=Memoise())
    async def slow(number: int) -> int:
        made.append(number)
        await asyncio.sleep(0.05)
        return number

    async def once(context: Context, number: int) -> Any:
        return (await context.call("slow", number=number)).value

    runtime = Runtime(board, ScriptedModel(str), tools=[slow])
    results = await asyncio.gather(*(runtime.run(once, 7) for _ in range(5)))
    assert [result.value for result in results] == [7] * 5
    assert made == [7]


async def test_the_one_that_waits_answers_itself_where_the_other_fails_or_is_cancelled(board: Board) -> None:
    begun = asyncio.Event()

    @tool(effect=EffectClass.PURE, memo=Memoise())
    async def slow(number: int) -> int:
        made.append(number)
        begun.set()
        if len(made) == 1:
            await asyncio.sleep(60)
        return number

    async def once(context: Context, number: int) -> Any:
        return (await context.call("slow", number=number)).value

    runtime = Runtime(board, ScriptedModel(str), tools=[slow])
    leading = asyncio.create_task(runtime.run(once, 7))
    await begun.wait()
    waiting = asyncio.create_task(runtime.run(once, 7))
    await asyncio.sleep(0)
    leading.cancel()
    assert (await waiting).value == 7
    assert made == [7, 7]


def claimants(board: Board) -> list[int]:
    entries = board.query(Predicate(topic=topics.MEMO, type="memo"))
    return [entry.value["claimed_by"] for entry in entries if isinstance(entry.value, dict)]


async def test_who_loses_the_run_while_it_answers_leaves_the_question_to_others(board: Board) -> None:
    def answer(prompt: str) -> str:
        lost = board.begin("another process", run="r")
        give_back("r", lost)
        board.commit(lost)
        return "late"

    async def asks(context: Context, _: Any) -> Any:
        return (await context.generate("how many?", memo=Memoise())).value

    with pytest.raises(LeaseLost):
        await Runtime(board, ScriptedModel(answer)).run(asks, run_id="r")
    assert claimants(board) == [0], "others would wait for the answer as long as this process lives"


async def test_who_is_interrupted_as_it_claims_leaves_the_question_to_others(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = board.submit

    def interrupting(transaction: Any) -> Any:
        if any(getattr(operation, "type", None) == board_memo.ANSWER for operation in transaction._operations):
            monkeypatch.undo()
            asking.cancel()
        return submit(transaction)

    monkeypatch.setattr(board, "submit", interrupting)
    asking = asyncio.create_task(Runtime(board, ScriptedModel(str), tools=[square]).run(squares, [3]))
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert claimants(board) == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"policy": Policy.of(trusted=[OWNER, "user:ann"])},
        {"tools": [replace(square, memo=Memoise("2"))]},
        {"tools": [replace(square, function=lambda number: made.append(number))]},
    ],
    ids=["policy", "version", "code"],
)
async def test_another_policy_or_version_asks_anew(board: Board, change: dict[str, Any]) -> None:
    await Runtime(board, ScriptedModel(str), tools=[square]).run(squares, [3])
    await Runtime(board, ScriptedModel(str), **{"tools": [square], **change}).run(squares, [3])
    assert made == [3, 3]


async def test_an_answer_is_not_used_once_what_it_depends_on_was_superseded(board: Board) -> None:
    def set_rate(rate: int) -> None:
        transaction = board.begin(OWNER)
        transaction.put("rates", "eur", rate, type="rate", label=HIGH)
        board.commit(transaction)

    @tool(effect=EffectClass.PURE, memo=Memoise(depends_on=lambda arguments: [("rates", arguments["currency"])]))
    def convert(amount: int, currency: str) -> int:
        made.append(amount)
        entry = board.get("rates", currency)
        assert entry is not None
        rate: Any = entry.value
        return amount * int(rate)

    async def convert_it(context: Context, amount: int) -> Any:
        return (await context.call("convert", amount=amount, currency="eur")).value

    runtime = Runtime(board, ScriptedModel(str), tools=[convert])
    set_rate(2)
    assert [(await runtime.run(convert_it, 5)).value for _ in range(2)] == [10, 10]
    set_rate(3)
    assert [(await runtime.run(convert_it, 5)).value for _ in range(2)] == [15, 15]
    assert made == [5, 5]


async def test_what_an_actor_has_just_written_itself_is_no_ground_for_an_answer(board: Board) -> None:
    async def writes(context: Context, value: int) -> Any:
        context.put("notes", "n", value, type="note")
        return (await context.generate("n?", memo=Memoise(depends_on=[("notes", "n")]))).value

    model = ScriptedModel(lambda prompt: prompt)
    runtime = Runtime(board, model)
    for value in (1, 2):
        await runtime.run(writes, value)
    assert len(model.requests) == 2


async def test_model_calls_that_opted_in_are_made_once_and_cost_nothing_again(board: Board) -> None:
    async def ask(context: Context, prompt: str) -> Any:
        return (await context.generate(prompt, memo=Memoise())).value

    async def ask_plainly(context: Context, prompt: str) -> Any:
        return (await context.generate(prompt)).value

    model = ScriptedModel(lambda prompt: f"<{prompt}>")
    runtime = Runtime(board, model, workflows=[ask])
    for number, workflow in enumerate((ask, ask, ask_plainly)):
        assert (await runtime.run(workflow, "why", run_id=f"r{number}")).value == "<why>"
    assert len(model.requests) == 2
    (step,) = [step for step in steps_of(board, "r1") if step["kind"] == "generate"]
    assert (step["value"]["usage"]["completion_tokens"], step["value"]["seconds"]) == (0, 0.0)
    assert (await runtime.replay("r1")).identical


async def test_only_what_is_deterministic_and_pure_may_opt_in(board: Board) -> None:
    with pytest.raises(ConfigurationError):
        tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=BOTTOM, memo=Memoise())(len)

    async def ask(context: Context, sampling: Any) -> Any:
        return (await context.generate("why", sampling=SamplingParams(**sampling), memo=Memoise())).value

    runtime = Runtime(board, ScriptedModel(str))
    assert (await runtime.run(ask, {"temperature": 1.0, "seed": 7})).status == "done"
    failed = await runtime.run(ask, {"temperature": 1.0})
    assert failed.failure is not None
    assert failed.failure.code == "AGS-0100"


@pytest.mark.parametrize(("after", "calls"), [(5.0, 1), (20.0, 2), (-30.0, 1), (-86_400.0, 2)])
async def test_answers_expire_and_a_clock_that_was_set_back_prolongs_none(
    board: Board, monkeypatch: pytest.MonkeyPatch, after: float, calls: int
) -> None:
    @tool(effect=EffectClass.PURE, name="square", memo=Memoise(seconds=10))
    def brief(number: int) -> int:
        made.append(number)
        return number

    runtime = Runtime(board, ScriptedModel(str), tools=[brief])
    await runtime.run(squares, [3])
    now = time.time
    monkeypatch.setattr("agentsys.memoisation.time.time", lambda: now() + after)
    await runtime.run(squares, [3])
    assert len(made) == calls


async def test_a_runtime_can_be_told_to_keep_nothing(board: Board) -> None:
    runtime = Runtime(board, ScriptedModel(str), tools=[square], memo_seconds=0)
    for _ in range(2):
        await runtime.run(squares, [3])
    assert made == [3, 3]
    assert board.query(Predicate(topic=topics.MEMO)) == []


async def test_agents_can_neither_read_nor_write_what_is_kept(board: Board) -> None:
    async def meddles(context: Context, _: Any) -> Any:
        context.put(topics.MEMO, "x", {"answer": 1}, type="memo")

    result = await Runtime(board, ScriptedModel(str)).run(meddles, None)
    assert result.failure is not None
    assert result.failure.code == "AGS-0310"


# What one principal can see of its runs, with and without another's under a higher label.

calls = st.lists(st.tuples(st.sampled_from(["low", "high"]), st.sampled_from(["tool", "model"]), st.integers(0, 2)))


def observed(program: list[tuple[str, str, int]], *, high: bool) -> list[Any]:
    """Run the program, without the high calls unless ``high``, and return all that the low runs leave behind."""

    async def call(context: Context, asked: Any) -> Any:
        kind, number = asked
        if kind == "tool":
            return (await context.call("square", number=number)).value
        return (await context.generate(str(number), memo=Memoise())).value

    async def execute(board: Board) -> list[Any]:
        model = ScriptedModel(lambda prompt: f"<{prompt}>")
        runtime = Runtime(board, model, tools=[square], workflows=[call])
        trace: list[Any] = []
        for position, (who, kind, number) in enumerate(program):
            if who == "high" and not high:
                continue
            before = len(made) + len(model.requests)
            label = HIGH if who == "high" else LOW
            result = await runtime.run(call, [kind, number], label=label, run_id=f"{who}{position}")
            if who == "low":
                work = len(made) + len(model.requests) - before
                trace.append([result.value, result.label.to_json(), work, *_record(board, result.run)])
        return trace

    made.clear()
    with Board.open(":memory:") as board:
        return asyncio.run(execute(board))


def _record(board: Board, run: str) -> list[Any]:
    """Return what low may read of a run, commit by commit, but for numbers of commits, times, and keys."""
    low = Readers.of("user:low")
    return [
        [_shown(entry) for entry in commit.writes if entry.type != "run" and entry.label.readers.permits(low)]
        for commit in board.log(run=run)
    ]


def _shown(entry: Entry) -> list[Any]:
    body: Any = dict(entry.value) if isinstance(entry.value, dict) else entry.value
    outcome = body.get("value") if entry.type == "step" else None
    hit = isinstance(outcome, dict) and "memo" in outcome
    return [entry.topic, entry.type, entry.version, entry.label.to_json(), hit]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls)
def test_low_sees_the_same_whether_or_not_high_has_filled_the_memo(program: list[tuple[str, str, int]]) -> None:
    assert observed(program, high=True) == observed(program, high=False)


REVEALING = [("high", "tool", 2), ("low", "tool", 2)]


def test_a_memo_without_compartments_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_memo, "label_to_text", lambda label: "")
    assert observed(REVEALING, high=True) != observed(REVEALING, high=False)


def test_low_still_finds_what_low_asked() -> None:
    first, second = observed([("low", "tool", 2)] * 2, high=False)
    assert (first[2], second[2]) == (1, 0)


def _question(label: Label, **changes: Any) -> Question:
    return Question(
        **{
            "kind": "call",
            "name": "square",
            "version": "1",
            "parameters": {"number": 1},
            "policy": "p",
            "label": label,
            "seconds": 60.0,
            **changes,
        }
    )


labels = st.builds(
    Label,
    st.frozensets(st.sampled_from(["a", "b"])),
    st.none().map(Readers) | st.frozensets(st.sampled_from(["a", "b"])).map(Readers),
    st.sampled_from([0.0, 1.0, float("inf")]),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels, labels)
def test_keys_of_two_labels_differ_and_differ_between_boards(board: Board, one: Label, other: Label) -> None:
    memo = Memo(board)
    assert (memo.key(_question(one)) == memo.key(_question(other))) == (one == other)


def test_a_key_holds_for_its_board_and_its_question_alone(board: Board) -> None:
    memo = Memo(board)
    key = memo.key(_question(HIGH))
    assert Memo(board).key(_question(HIGH)) == key
    changes: list[dict[str, Any]] = [
        {"name": "x"},
        {"version": "2"},
        {"parameters": {}},
        {"policy": "q"},
        {"kind": "x"},
    ]
    assert key not in {memo.key(_question(HIGH, **change)) for change in changes}
    with Board.open(":memory:") as elsewhere:
        assert Memo(elsewhere).key(_question(HIGH)) != key

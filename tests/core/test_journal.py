"""Durable execution: what was recorded is fed back, what differs is a divergence."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from agentsys import topics
from agentsys.agents import agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import EffectClass, EffectState
from agentsys.blackboard.labels import PUBLIC, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.journal import ReplayDivergence, digest, submit
from agentsys.runtime import Runtime
from agentsys.serving.requests import SamplingParams
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


class Crash(BaseException):
    """Stands for the death of the process: no code of the runtime handles it."""


def interrupted(body):
    """Return a workflow that dies after ``body`` as long as ``alive`` is false."""
    state = {"alive": False}

    async def workflow(context, value):
        answer = await body(context, value)
        if not state["alive"]:
            raise Crash
        return answer

    return workflow, state


async def start_and_die(runtime, workflow, run="r1", value="?"):
    with pytest.raises(Crash):
        await runtime.run(workflow, value, run_id=run)


async def test_who_is_cancelled_twice_hears_of_the_commit_that_was_under_way():
    committing: Future[Commit] = Future()
    heard: list[Commit] = []
    board = SimpleNamespace(submit=lambda transaction: committing)
    task = asyncio.create_task(submit(board, None, heard.append))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    commit = Commit(1, "t", "ann", None, 0, "serializable", 0.0, (), (), (), "", "")
    committing.set_result(commit)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard == [commit]


async def test_resume_feeds_back_every_recorded_step(make_runtime):
    calls: list[str] = []

    @tool(effect=EffectClass.PURE)
    def measure(what: str) -> int:
        calls.append(what)
        return len(calls)

    @agent(kind="question")
    async def thinker(context, request):
        return (await context.generate(f"think {request.value}")).value

    async def body(context, value):
        return [
            await context.now(),
            await context.random(),
            await context.uuid(),
            (await context.generate("hello")).value,
            (await context.call("measure", what="x")).value,
            (await context.ask("question", value)).value,
        ]

    state = {"alive": False}
    first: list[object] = []

    async def keeping(context, value):
        answer = await body(context, value)
        first.append(answer)
        if not state["alive"]:
            raise Crash
        return answer

    runtime = make_runtime(agents=[thinker], tools=[measure])
    with pytest.raises(Crash):
        await runtime.run(keeping, "?", run_id="r1")
    asked = len(runtime.model.requests)
    state["alive"] = True
    result = await runtime.resume("r1", keeping)
    assert result.value == first[0] == first[1]
    assert calls == ["x"]
    assert len(runtime.model.requests) == asked == 2


async def test_a_changed_input_is_a_divergence_naming_the_step(make_runtime):
    prompt = "first prompt"

    async def body(context, value):
        await context.now()
        return (await context.generate(prompt)).value

    workflow, state = interrupted(body)
    runtime = make_runtime()
    await start_and_die(runtime, workflow)
    prompt, state["alive"] = "another prompt", True
    with pytest.raises(ReplayDivergence, match=r"main#1:0001.*generate"):
        await runtime.resume("r1", workflow)


async def test_a_divergence_cannot_be_swallowed(make_runtime):
    prompt = "first prompt"

    async def body(context, value):
        try:
            return (await context.generate(prompt)).value
        except Exception:
            return "swallowed"

    workflow, state = interrupted(body)
    runtime = make_runtime()
    await start_and_die(runtime, workflow)
    prompt, state["alive"] = "another prompt", True
    with pytest.raises(ReplayDivergence):
        await runtime.resume("r1", workflow)


async def test_changed_writes_are_a_divergence(make_runtime):
    value_written = 1

    @agent(kind="question")
    async def helper(context, request):
        return 1

    async def body(context, value):
        context.put("notes", "n", value_written, type="note")
        return (await context.ask("question", value)).value

    workflow, state = interrupted(body)
    runtime = make_runtime(agents=[helper])
    await start_and_die(runtime, workflow)
    value_written, state["alive"] = 2, True
    with pytest.raises(ReplayDivergence, match="writes"):
        await runtime.resume("r1", workflow)


async def test_a_resumed_run_writes_nothing_twice(make_runtime, board):
    @agent(kind="question")
    async def helper(context, request):
        context.put("notes", "of-helper", request.value, type="note")
        return 1

    async def body(context, value):
        context.put("notes", "before", 1, type="note")
        await context.ask("question", value)
        context.put("notes", "after", context.read("notes", "of-helper").value, type="note")
        return "done"

    workflow, state = interrupted(body)
    runtime = make_runtime(agents=[helper])
    await start_and_die(runtime, workflow)
    await start_and_die_again(runtime, workflow)
    state["alive"] = True
    assert (await runtime.resume("r1", workflow)).value == "done"
    assert {entry.key: entry.version for entry in board.query(Predicate(topic="notes"))} == {
        "before": 1,
        "of-helper": 1,
        "after": 1,
    }
    assert all(entry.version == 1 for entry in board.query(Predicate(type="step")))


async def start_and_die_again(runtime, workflow):
    with pytest.raises(Crash):
        await runtime.resume("r1", workflow)


async def test_reads_after_a_resume_see_the_recorded_snapshot(make_runtime):
    async def write(context, value):
        context.put("shared", "x", value, type="note")

    state = {"alive": False}
    seen: list[object] = []

    async def reading(context, value):
        seen.append(context.read("shared", "x").value)
        await context.generate("step")
        if not state["alive"]:
            raise Crash
        return context.read("shared", "x").value

    runtime = make_runtime()
    await runtime.run(write, "old")
    with pytest.raises(Crash):
        await runtime.run(reading, run_id="r1")
    await runtime.run(write, "new")
    state["alive"] = True
    result = await runtime.resume("r1", reading)
    assert seen == ["old", "old", "new"], "the resumed attempt read as before; its commit conflicted, so it read again"
    assert result.value == "new"


async def test_the_outcome_of_a_finished_run_is_not_computed_again(make_runtime):
    count = []

    async def workflow(context, value):
        count.append(1)
        return 5

    runtime = make_runtime()
    await runtime.run(workflow, run_id="r1")
    assert (await runtime.resume("r1", workflow)).value == 5
    assert len(count) == 1


@pytest.mark.parametrize(
    ("effect", "calls", "status"),
    [
        (EffectClass.PURE, 2, "done"),
        (EffectClass.IDEMPOTENT, 2, "done"),
        (EffectClass.IRREVERSIBLE, 1, "failed"),
        (EffectClass.COMPENSABLE, 1, "failed"),
    ],
)
async def test_a_call_without_outcome_is_redriven_only_if_repeatable(tmp_path, effect, calls, status):
    keys: list[str] = []
    alive = False

    async def undo() -> None: ...

    @tool(effect=effect, undo=undo if effect is EffectClass.COMPENSABLE else None)
    async def act(idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if not alive:
            raise Crash
        return "acted"

    async def workflow(context, value):
        return (await context.call("act")).value

    public = Label.trusted(readers=PUBLIC)
    with Board.open(tmp_path / "board.db") as board, pytest.raises(Crash):
        await Runtime(board, ScriptedModel(str), tools=[act]).run(workflow, run_id="r1", label=public)
    alive = True
    with Board.open(tmp_path / "board.db") as board:
        result = await Runtime(board, ScriptedModel(str), tools=[act]).resume("r1", workflow)
        states = [effect.state for effect in board.effects(run="r1")]
    assert result.status == status
    assert len(keys) == calls
    assert len(set(keys)) == 1
    if status == "failed":
        assert result.failure.code == "AGS-0631"
        assert states == [EffectState.IN_DOUBT]


@dataclass(frozen=True, slots=True)
class SamplingOfTomorrow(SamplingParams):
    """Sampling with a parameter that nobody has thought of yet."""

    novelty: float = 0.0


FIRST = {"max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "seed": None, "stop": ["."], "ignore_eos": False}
RECORDED_AS = {
    "at first": FIRST,
    "since there were log-probabilities": FIRST | {"logprobs": None},
    "since there were penalties": FIRST
    | {"logprobs": None, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}},
}


def record_as(board: Board, run: str, sampling: dict[str, object]) -> None:
    """Put the model calls of a run on record anew, as they were while sampling had these parameters."""
    transaction = board.begin("owner")
    for entry in board.query(Predicate(topic=topics.steps(run))):
        if entry.value["kind"] == "generate":
            arguments = [[["user", "hello"]], None, sampling, None]
            value = {**entry.value, "input": digest(["generate", arguments])}
            transaction.put(topics.steps(run), entry.key, value, type="step", label=entry.label)
    board.commit(transaction)


@pytest.mark.parametrize("shape", RECORDED_AS)
async def test_runs_replay_and_resume_that_were_recorded_before_sampling_had_more_parameters(
    make_runtime, board, shape
):
    async def body(context, value):
        twice = [await context.generate("hello", sampling=SamplingParams(max_tokens=9, stop=(".",))) for _ in range(2)]
        return [answer.value for answer in twice]

    workflow, state = interrupted(body)
    runtime = make_runtime()
    await start_and_die(runtime, workflow)
    record_as(board, "r1", RECORDED_AS[shape])
    state["alive"] = True
    assert (await runtime.resume("r1", workflow)).value == ["hello", "hello"]
    assert len(runtime.model.requests) == 2, "nothing is asked again"
    assert (await runtime.replay("r1", workflow)).identical
    record_as(board, "r1", RECORDED_AS[shape] | {"top_p": 0.5})
    assert not (await runtime.replay("r1", workflow)).identical


async def test_an_attempt_takes_over_answers_that_were_recorded_before_sampling_had_more_parameters(
    make_runtime, board
):
    @agent(kind="question")
    async def loser(context, request):
        context.read("shared", "x")
        await context.generate("hello", sampling=SamplingParams(max_tokens=9, stop=(".",)))
        if context.actor.attempt == 1:
            record_as(board, "r1", RECORDED_AS["at first"] | {"logprobs": None})
            other = board.begin("somebody")
            other.put("shared", "x", 1, type="number", label=Label.trusted())
            board.commit(other)
        return 1

    async def workflow(context, value):
        return (await context.ask("question")).value

    runtime = make_runtime(agents=[loser])
    assert (await runtime.run(workflow, run_id="r1")).value == 1
    assert len(runtime.model.requests) == 1


async def test_a_new_sampling_parameter_counts_on_record_once_it_is_used(make_runtime):
    sampling = SamplingParams(seed=3)

    async def workflow(context, value):
        return (await context.generate("hello", sampling=sampling)).value

    runtime = make_runtime()
    await runtime.run(workflow, run_id="r1")
    sampling = SamplingOfTomorrow(seed=3)
    assert (await runtime.replay("r1", workflow)).identical
    sampling = SamplingOfTomorrow(seed=3, novelty=0.1)
    assert not (await runtime.replay("r1", workflow)).identical

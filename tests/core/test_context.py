"""Contexts: control labels, transactions that conflict and are repaired, models, extraction."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import pytest
from pydantic import BaseModel

from agentsys.agents import agent
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import LabelTooLow
from agentsys.gateway import PolicyDenied
from agentsys.labelled import Labelled
from agentsys.models import ConstraintUnmet, ModelFailed
from agentsys.policy.policy import Policy
from agentsys.tools import tool

FILE = Label(frozenset({"file:x.csv"}), Readers.of(OWNER))


class City(BaseModel):
    country: Literal["it", "fr", "de", "es"]
    capital: bool


@tool(effect=EffectClass.PURE, source=FILE)
def look(what: str) -> str:
    return f"data about {what}"


async def run(runtime, body, value="?"):
    result = await runtime.run(body, value)
    assert result.status == "done", result.failure
    return result


async def test_everything_delivered_raises_the_control_label(make_runtime):
    async def workflow(context, value):
        assert context.label.influencers == {OWNER}
        found = await context.call("look", what="x")
        assert found.label.influencers == context.label.influencers == {OWNER, "file:x.csv"}
        answer = await context.generate("a prompt that says nothing of the file")
        assert answer.label == context.label, "a model cannot lower a label"
        context.put("open/notes", "n", 1, type="note")

    runtime = make_runtime(tools=[look], policy=Policy.of(open_topics=["open/"]))
    await run(runtime, workflow)
    entry = runtime.board.get("open/notes", "n")
    assert entry.label.influencers == {OWNER, "file:x.csv"}


async def test_a_write_below_what_shaped_it_is_refused(make_runtime):
    async def workflow(context, value):
        with pytest.raises(LabelTooLow):
            context.put("notes", "n", Labelled(1, FILE), type="note", label=Label.trusted())

    await run(make_runtime(), workflow)


async def test_a_tainted_context_cannot_write_or_delete_shared_topics_and_the_refusal_is_recorded(make_runtime, board):
    async def workflow(context, value):
        context.put("notes", "before", 1, type="note")
        await context.call("look", what="x")
        with pytest.raises(PolicyDenied, match="write-integrity"):
            context.put("notes", "after", 1, type="note")
        with pytest.raises(PolicyDenied):
            context.delete("notes", "before")
        with pytest.raises(PolicyDenied, match="reserved-topic"):
            context.put("runs", "x", 1, type="run")

    await run(make_runtime(tools=[look]), workflow)
    assert [entry.key for entry in board.query(Predicate(topic="notes"))] == ["before"]
    refused = [entry.value["action"] for entry in board.query(Predicate(type="decision", equals={"allowed": False}))]
    assert refused == ["write notes/after", "delete notes/before", "write runs/x"]


async def test_a_refusal_that_ends_an_agent_or_a_run_is_recorded_too(make_runtime, board):
    @agent(kind="question")
    async def careless(context, request):
        await context.call("look", what="x")
        context.put("notes", "by-agent", 1, type="note")

    async def workflow(context, value):
        await context.ask("question")
        context.put("notes", "by-run", 1, type="note")

    result = await make_runtime(agents=[careless], tools=[look]).run(workflow)
    assert (result.status, result.failure.code) == ("failed", "AGS-0310")
    refused = board.query(Predicate(type="decision", equals={"allowed": False}))
    assert {entry.value["action"] for entry in refused} == {"write notes/by-agent", "write notes/by-run"}


async def test_a_conflict_starts_a_new_attempt_that_knows_what_changed(make_runtime, board):
    attempts: list[tuple[int, list[object]]] = []
    calls: list[int] = []

    @tool(effect=EffectClass.PURE)
    def measure(number: int) -> int:
        calls.append(number)
        return number

    def disturb() -> None:
        other = board.begin("somebody")
        other.put("shared", "x", 2, type="number", label=Label.trusted())
        board.commit(other)

    @agent(kind="question")
    async def adder(context, request):
        entry = context.read("shared", "x")
        attempts.append((context.actor.attempt, [change["new"] for change in context.actor.changes]))
        await context.call("measure", number=7)
        if context.actor.attempt == 1:
            disturb()
        context.put("shared", "sum", entry.value + 1, type="number")
        return entry.value + 1

    async def workflow(context, value):
        return (await context.ask("question")).value

    seed = board.begin("owner")
    seed.put("shared", "x", 1, type="number", label=Label.trusted())
    board.commit(seed)
    runtime = make_runtime(agents=[adder], tools=[measure], workflows=[workflow])
    result = await runtime.run("workflow", run_id="c")
    assert result.value == 3
    assert attempts == [(1, []), (2, [2])]
    assert calls == [7], "the second attempt takes over the call of the first"
    assert board.get("shared", "sum").value == 3
    assert (await runtime.replay("c")).identical


async def test_an_agent_that_always_conflicts_is_recorded_as_crashed(make_runtime, board):
    @agent(kind="question")
    async def unlucky(context, request):
        context.read("shared", "x")
        other = board.begin("somebody")
        other.put("shared", "x", board.head, type="number", label=Label.trusted())
        board.commit(other)
        return 1

    async def workflow(context, value):
        outcome = await context.ask("question")
        return outcome.responses[0].failure.code

    assert (await run(make_runtime(agents=[unlucky]), workflow)).value == "AGS-0210"


async def test_generate_gives_a_typed_object_under_the_schemas_constraint(make_runtime):
    async def workflow(context, value):
        city = await context.generate("Rome", schema=City)
        return [city.value.country, city.value.capital]

    runtime = make_runtime(script=lambda prompt: '{"country": "it", "capital": true}')
    assert (await run(runtime, workflow)).value == ["it", True]
    request = runtime.model.requests[0]
    assert request.constraint.kind == "json_schema"
    assert request.label.influencers == {OWNER}


async def test_a_deadline_is_the_urgency_of_model_calls(make_runtime):
    async def workflow(context, value):
        await context.generate("x")

    runtime = make_runtime()
    await runtime.run(workflow, deadline=5.0)
    await runtime.run(workflow)
    urgent, patient = (request.urgency for request in runtime.model.requests)
    assert runtime.runs()[0].deadline == urgent < patient


async def test_extraction_bounds_capacity_keeps_influencers_and_sees_nothing_else(make_runtime):
    async def workflow(context, value):
        found = await context.call("look", what="Rome")
        await context.generate("an earlier prompt")
        extracted = await context.extract(found, City)
        assert extracted.value == City(country="it", capital=True)
        assert extracted.label.capacity == 3.0
        assert "file:x.csv" in extracted.label.influencers

    runtime = make_runtime(script=lambda prompt: '{"country": "it", "capital": true}', tools=[look])
    await run(runtime, workflow)
    messages = runtime.model.requests[1].prompt
    assert [message.role for message in messages] == ["system", "user"]
    assert messages[1].content == "data about Rome"
    assert "earlier" not in messages[0].content


async def test_a_failed_model_call_is_recorded_and_keeps_its_code(make_runtime):
    def failing(prompt: str) -> str:
        raise ConstraintUnmet("not a number.")

    async def workflow(context, value):
        try:
            await context.generate("handled")
        except ModelFailed as error:
            assert error.failure.code == "AGS-0430"
        await context.now()
        return (await context.generate("not handled")).value

    runtime = make_runtime(script=failing, workflows=[workflow])
    result = await runtime.run("workflow", run_id="m")
    assert (result.status, result.failure.code, result.failure.type) == ("failed", "AGS-0430", "ConstraintUnmet")
    report = await runtime.replay("m")
    assert (report.identical, report.complete) == (True, True)
    assert len(runtime.model.requests) == 2


async def test_an_answer_that_does_not_fit_the_schema_is_an_error_naming_it(make_runtime):
    async def workflow(context, value):
        await context.generate("Rome", schema=City)

    result = await make_runtime(script=lambda prompt: '{"country": "i').run(workflow)
    assert result.failure.code == "AGS-0432"
    assert "City" in result.failure.message


async def test_refusals_are_replayed_and_a_resumed_run_does_not_record_them_again(make_runtime, board):
    class Crash(BaseException):
        pass

    alive = False

    async def workflow(context, value):
        await context.call("look", what="x")
        with suppress(PolicyDenied):
            context.put("notes", "n", 1, type="note")
        await context.generate("a step that takes the refusal along")
        with suppress(PolicyDenied):
            await context.call("nothing")
        if not alive:
            raise Crash
        return "end"

    runtime = make_runtime(tools=[look], workflows=[workflow])
    with pytest.raises(Crash):
        await runtime.run("workflow", run_id="r")
    alive = True
    assert (await runtime.resume("r")).value == "end"
    decided = [entry.value["action"] for entry in board.query(Predicate(type="decision"))]
    assert sorted(decided) == ["call look", "call nothing", "write notes/n"]
    assert (await runtime.replay("r")).identical


async def test_a_model_that_tells_others_gets_only_what_they_may_read(make_runtime):
    async def workflow(context, value):
        with pytest.raises(PolicyDenied, match="disclose"):
            await context.generate("my secret")

    runtime = make_runtime(workflows=[workflow])
    runtime.model.audience = Readers.of("provider:x")
    assert (await runtime.run("workflow", run_id="r")).status == "done"
    assert runtime.model.requests == []
    assert (await runtime.replay("r")).complete

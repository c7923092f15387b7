"""P9: what a person approved is what happens, once, in time, under that policy; and each of the five verdicts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator

from agentsys import approval_use, topics
from agentsys.approvals import (
    REFUSED,
    AlreadyDecided,
    Approval,
    ApprovalExpired,
    ApprovalInvalid,
    NotAnApprover,
    list_approvals,
)
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import BOTTOM, NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.deciding import UnfitWord, Word, decide
from agentsys.gateway import Allow, Gateway
from agentsys.journal import Step
from agentsys.labelled import Labelled
from agentsys.policy.policy import Policy
from agentsys.runs import RunRecord
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool

BOSS = "user:boss"
SHARED = Label(frozenset({OWNER}), Readers.of(OWNER, BOSS))
STRANGER = Label(frozenset({"web:example.org"}), PUBLIC)
POLICY: dict[str, Any] = {"asks": ["send"], "approvers": [OWNER, BOSS]}
PROGRAM = Path(__file__).with_name("approval_program.py")


def short(text: str) -> str:
    if len(text) > 12:
        raise ValueError("too long")
    return text


class Outside:
    """What the tool of these tests changes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

        @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
        def send(to: str, text: Annotated[str, AfterValidator(short)]) -> int:
            self.sent.append((to, text))
            return len(self.sent)

        self.tool = send


async def forward(context: Any, text: Any) -> Any:
    return (await context.call("send", to="ann", text=Labelled(text, STRANGER))).value


@pytest.fixture
def board() -> Any:
    with Board.open(":memory:") as opened:
        yield opened


def runtime_on(board: Board, outside: Outside, *, approval_seconds: float | None = None, **policy: Any) -> Runtime:
    said = {**POLICY, "trusted": [OWNER, "web:example.org"], **policy}
    return Runtime(
        board,
        ScriptedModel(str),
        tools=[outside.tool],
        workflows=[forward],
        policy=Policy.of(**said),
        approval_seconds=approval_seconds,
    )


async def asked(runtime: Runtime, run: str = "r") -> Approval:
    """Begin a run, interrupt it where it waits for a person, and return what it asked."""
    running = asyncio.create_task(runtime.run("forward", "hello", label=SHARED, run_id=run))
    while not (found := runtime.approvals("pending", run)):
        await asyncio.sleep(0.005)
        assert not running.done(), running.result().failure
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return found[0]


def tamper(
    board: Board, approval: str, key: str | None = None, label: Label | None = None, by: str = "intruder", **fields: Any
) -> None:
    """Change fields of an approval on the board, as nobody can who goes through a runtime."""
    entry = board.get(topics.APPROVALS, approval)
    assert entry is not None
    transaction = board.begin(by)
    body = {**entry.value, **fields}  # type: ignore[dict-item]
    transaction.put(topics.APPROVALS, key or approval, body, type="approval", label=label or entry.label)
    board.commit(transaction)


CHANGES: dict[str, Any] = {
    "run": "other",
    "agent": "other",
    "subject": "send_all",
    "arguments": {"to": "eve", "text": "hello"},
    "rule": "none",
    "reason": "harmless",
    "asked_at": 1.0,
    "step": "main#1:0007",
    "effect_class": "pure",
    "control": BOTTOM.to_json(),
    "labels": {},
    "schema": {},
    "policy": "another",
    "approvers": ["user:eve", OWNER],
    "expires_at": 4e9,
    "after": 0,
}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("when", ["before the word", "after the word"])
async def test_a_change_of_anything_that_was_asked_makes_the_word_invalid(board: Board, field: str, when: str):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    if when == "after the word":
        await runtime.decide(approval.id, "approve")
    tamper(board, approval.id, **{field: CHANGES[field]})
    if when == "before the word":
        try:
            await runtime.decide(approval.id, "approve")
        except AlreadyDecided:
            assert field == "run", "of a run that is not there, nothing waits"
            tamper(board, approval.id, status="approved", decided_by=OWNER, decided_at=approval.asked_at)
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [])
    assert board.effects() == []
    assert (await runtime.replay("r")).identical


WORDS: dict[str, Any] = {
    "decided_by": "user:eve",
    "decided_at": 5e9,
    "note": "changed",
    "edited": {"to": "eve", "text": "hello"},
    "status": "modified",
    "escalations": [{"by": OWNER, "to": BOSS, "at": 1.0, "note": ""}],
}


@pytest.mark.parametrize("field", WORDS)
async def test_a_word_that_was_changed_after_it_was_given_is_invalid(board: Board, field: str):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    await runtime.decide(approval.id, "approve")
    tamper(board, approval.id, **{field: WORDS[field]})
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [])


async def test_a_lowered_label_makes_the_word_invalid(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    lowered = Label(frozenset(), Readers.of(OWNER, "user:eve"), 0.0)
    tamper(
        board,
        approval.id,
        label=lowered,
        by=OWNER,
        status="approved",
        decided_by=OWNER,
        decided_at=approval.asked_at,
    )
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [])


@pytest.mark.parametrize("field", ["arguments", "approvers"])
async def test_a_weakened_checker_is_noticed(board: Board, field: str, monkeypatch: pytest.MonkeyPatch):
    """Without the check the same changes lead to a call: the tests above can fail."""
    monkeypatch.setattr(approval_use, "invalidity", lambda *given: None)
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    tamper(board, approval.id, **{field: CHANGES[field]})
    await runtime.decide(approval.id, "approve")
    assert (await runtime.resume("r")).status == "done" and len(outside.sent) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed=JSON, label=st.sampled_from([SHARED, STRANGER, BOTTOM]), at=st.none() | st.floats(0, 1e10))
def test_the_binding_tells_all_that_was_asked_apart(changed: Any, label: Label, at: float | None):
    asking = Approval("a", "r", "g", "call", "send", {"to": "ann"}, "ask", "", 1.0, control=SHARED, expires_at=5.0)
    other = replace(asking, arguments=changed, control=label, expires_at=at)
    same = (changed, label, at) == (asking.arguments, asking.control, asking.expires_at)
    assert (other.binding == asking.binding) == same
    said = replace(asking, status="approved", decided_by=OWNER, decided_at=2.0, note="x", label=STRANGER)
    assert said.binding == asking.binding, "a word leaves the binding as it is"


async def test_a_word_that_somebody_else_wrote_is_invalid(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    tamper(board, approval.id, status="approved", decided_by=OWNER, decided_at=approval.asked_at)
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [])


FIELDS = [*CHANGES, *WORDS, "answer", "kind", "nonsense"]


async def test_whatever_lies_there_as_an_approval_allows_nothing(board: Board):
    """Fuzz: bodies with up to three fields changed to any JSON, or dropped, are denied with a code."""
    runtime = runtime_on(board, Outside())
    approval = await asked(runtime)
    await runtime.decide(approval.id, "approve")
    (entry,) = board.query(Predicate(topic=topics.APPROVALS))
    step = Step.of(board.query(Predicate(topic=topics.steps("r")))[0])
    gateway = Gateway(runtime.policy, runtime.tools)
    genuine = await approval_use.judged(board, gateway, step, Approval.load(board, approval.id))
    assert isinstance(genuine.decision, Allow)

    class Tampered:
        """A board whose approval was always what it is now."""

        def __init__(self, body: Any) -> None:
            self.entry = replace(entry, value=body)

        def history(self, topic: str, key: str) -> list[Any]:
            return [self.entry]

    @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3), drop=st.booleans())
    def check(changes: dict[str, Any], drop: bool) -> None:
        kept: Any = dict(entry.value)  # type: ignore[arg-type]
        body = {name: value for name, value in kept.items() if name not in changes} if drop else {**kept, **changes}
        forged = Tampered(body)
        try:
            read = Approval.of(forged.entry)
        except ApprovalInvalid:
            return
        fault = approval_use.invalidity(forged, runtime.policy, step, read)  # type: ignore[arg-type]
        bound = {name for name in body if name not in WORDS and name != "answer" and body[name] != kept.get(name)}
        if bound or (body.get("status"), body.get("decided_by")) != ("approved", OWNER):
            assert fault is not None or read.status in REFUSED, changes

    await asyncio.to_thread(check)


async def test_an_approval_is_used_once(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    await runtime.decide(approval.id, "approve")
    assert (await runtime.resume("r")).value == 1
    # Neither the same word again, nor a copy of it, nor the entry made pending once more leads to another call.
    with pytest.raises(AlreadyDecided):
        await runtime.decide(approval.id, "approve")
    tamper(board, approval.id, status="pending", decided_by=None, decided_at=None)
    with pytest.raises(AlreadyDecided):
        await runtime.decide(approval.id, "approve")
    second = await asked(runtime, "s")
    tamper(board, approval.id, key=second.id, status="approved", decided_by=OWNER, decided_at=1.0, run="s")
    result = await runtime.resume("s")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [("ann", "hello")])


async def test_what_the_person_was_shown_is_what_waits(board: Board):
    runtime = runtime_on(board, Outside())
    approval = await asked(runtime)
    with pytest.raises(ApprovalInvalid):
        await runtime.decide(approval.id, "approve", binding="0" * 64)
    await runtime.decide(approval.id, "approve", binding=approval.binding)


async def test_a_word_under_another_policy_is_invalid(board: Board):
    outside = Outside()
    approval = await asked(runtime_on(board, outside))
    await runtime_on(board, outside).decide(approval.id, "approve")
    changed = runtime_on(board, outside, open_topics=["notes/"])
    result = await changed.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0332", [])


async def test_what_nobody_decides_in_time_is_refused_and_the_run_goes_on(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside, approval_seconds=0.02)
    result = await runtime.run("forward", "hello", label=SHARED, run_id="r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0333", [])
    (expired,) = runtime.approvals("expired")
    assert expired.decided_by is None and runtime.approvals("pending") == []
    with pytest.raises(ApprovalExpired):
        await runtime.decide(expired.id, "approve")
    assert (await runtime.replay("r")).identical


async def test_that_nobody_decided_about_a_hidden_call_is_nobodys_word(board: Board):
    influencers: list[set[str]] = []

    async def main(context: Any, _: Any) -> None:
        with pytest.raises(ApprovalExpired):
            await context.call_hidden("send", to="ann", text="hello")
        influencers.append(set(context.label.influencers))

    runtime = runtime_on(board, Outside(), approval_seconds=0.02)
    assert (await runtime.run(main)).status == "done"
    assert influencers == [{OWNER}], "nobody else, whom nobody trusts, had a say"


async def test_a_word_that_comes_late_while_no_process_runs_is_refused(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside, approval_seconds=0.1)
    approval = await asked(runtime)
    while runtime.approvals("pending"):
        await asyncio.sleep(0.01)
    with pytest.raises(ApprovalExpired):
        await runtime.decide(approval.id, "approve")
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0333", [])


async def test_a_modified_call_is_made_as_the_person_wrote_it(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    for edited in ({"to": "ann"}, {"to": "ann", "text": 3}, ["ann", "hi"]):
        with pytest.raises(UnfitWord):
            await runtime.decide(approval.id, "modify", edited=edited)
    decided = await runtime.decide(approval.id, "modify", edited={"to": "ann", "text": "hi"})
    assert decided.label_of("text").influencers == {OWNER} and decided.label_of("to") == SHARED
    assert (await runtime.resume("r")).value == 1
    effect = board.effect(approval.id)
    assert effect is not None and outside.sent == [("ann", "hi")]
    assert effect.intent.arguments == {"to": "ann", "text": "hi"} and effect.intent.label.influencers == {OWNER}
    assert (await runtime.replay("r")).identical


async def test_modified_arguments_are_checked_again_where_they_are_used(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    await runtime.decide(approval.id, "modify", edited={"to": "ann", "text": "longer than the tool takes"})
    result = await runtime.resume("r")
    assert (result.failure and result.failure.code, outside.sent) == ("AGS-0310", [])
    (asking, used) = board.query(Predicate(topic=topics.decisions("r")))
    assert (asking.value["rule"], used.value["rule"]) == ("ask", "bad-arguments")  # type: ignore[index,call-overload]


async def test_a_terminated_run_ends_at_once_wherever_it_is_executed(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)

    async def swallows(context: Any, text: Any) -> Any:
        try:
            await forward(context, text)
        except Exception:
            context.put("notes", "n", "went on", type="note")
            await context.call("send", to="ann", text="again")

    running = asyncio.create_task(runtime.run(swallows, "hello", label=SHARED, run_id="r"))
    while not (found := runtime.approvals("pending")):
        await asyncio.sleep(0.005)
    await runtime.decide(found[0].id, "terminate", note="enough")
    record = RunRecord.load(board, "r")
    assert record.status == "failed" and record.failure is not None and record.failure.code == "AGS-0336"
    assert "enough" in record.failure.message
    result = await asyncio.wait_for(running, 20)
    assert result.record == record and outside.sent == [] and board.get("notes", "n") is None
    assert (await runtime.resume("r")).record == record


async def test_an_approval_is_handed_to_who_may_read_it(board: Board):
    outside = Outside()
    runtime = runtime_on(board, outside)
    approval = await asked(runtime)
    for to in ("user:eve", OWNER, ""):
        with pytest.raises(NotAnApprover):
            await runtime.decide(approval.id, "escalate", to=to)
    handed = await runtime.decide(approval.id, "escalate", to=BOSS, note="yours")
    assert (handed.status, handed.assigned) == ("pending", BOSS)
    with pytest.raises(NotAnApprover):
        await runtime.decide(approval.id, "approve")
    decided = await runtime.decide(approval.id, "approve", by=BOSS)
    assert decided.decided_by == BOSS and decided.escalations[0].note == "yours"
    assert (await runtime.resume("r")).value == 1 and outside.sent == [("ann", "hello")]


async def test_who_the_policy_does_not_name_decides_nothing(board: Board):
    runtime = runtime_on(board, Outside(), approvers=[BOSS])
    approval = await asked(runtime)
    for verdict in ("approve", "reject", "terminate"):
        with pytest.raises(NotAnApprover):
            await runtime.decide(approval.id, verdict)  # type: ignore[arg-type]
    assert (await runtime.decide(approval.id, "reject", by=BOSS)).status == "rejected"


async def test_approvals_are_listed_as_they_were_asked_whatever_the_clock_says(
    board: Board, monkeypatch: pytest.MonkeyPatch
):
    runtime = runtime_on(board, Outside())
    for number, clock in enumerate((9e9, 1.0, 5e9)):
        monkeypatch.setattr("agentsys.asking.time.time", lambda clock=clock: clock)
        await asked(runtime, f"r{number}")
    assert [one.run for one in list_approvals(board)] == ["r0", "r1", "r2"]


def program(path: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(PROGRAM), str(path), what], stdout=subprocess.PIPE, text=True)


SAID: dict[str, tuple[list[Word], dict[str, Any], str]] = {
    "modify": (
        [Word("modify", OWNER, edited={"text": "hi"})],
        {"status": "done", "value": "sent hi", "failure": None},
        "hi\n",
    ),
    "terminate": (
        [Word("terminate", OWNER)],
        {"status": "failed", "value": None, "failure": "AGS-0336"},
        "",
    ),
    "escalate": (
        [Word("escalate", OWNER, to=BOSS), Word("approve", BOSS)],
        {"status": "done", "value": "sent hello", "failure": None},
        "hello\n",
    ),
    "reject": (
        [Word("escalate", OWNER, to=BOSS), Word("reject", BOSS)],
        {"status": "failed", "value": None, "failure": "AGS-0310"},
        "",
    ),
}


@pytest.mark.parametrize("verdict", SAID)
def test_a_killed_run_waits_and_goes_on_with_the_word(tmp_path: Path, verdict: str):
    path = tmp_path / "board.db"
    words, ending, sent = SAID[verdict]
    with program(path, "begin") as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.kill()
    with Board.open(path) as board:
        (approval,) = list_approvals(board, "pending")
        for word in words:
            asyncio.run(decide(board, approval.id, word))
    with program(path, "resume") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.read().splitlines()[-1]) == ending
    written = path.with_suffix(".sent")
    assert (written.read_text() if written.exists() else "") == sent

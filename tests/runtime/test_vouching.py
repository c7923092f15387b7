"""A person vouches for a value once, and it may be used wherever trusted values may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER
from agentsys.context import Context
from agentsys.gateway import PolicyDenied
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from tests.core.test_handles import POLICY, Outside

STRANGER = "eve@evil.example"


async def answer_twice(context: Context, _: Any) -> Any:
    mail = await context.call_hidden("read_mail")
    sender = await context.endorse(mail[1]["sender"], "person", "whom to answer")
    for text in ("one", "two"):
        await context.call_hidden("send", to=sender, text=text)
    return sorted(map(list, sender.label.endorsements))


async def waiting(runtime: Runtime) -> Any:
    while not (found := runtime.approvals("pending")):
        assert len(asyncio.all_tasks()) > 1, "nothing runs that could still ask"
        await asyncio.sleep(0.01)
    return found[0]


async def test_one_word_is_enough_for_two_calls_and_a_replay(tmp_path: Path) -> None:
    outside = Outside()
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(lambda _: ""), tools=outside.tools(), policy=POLICY)
        running = asyncio.create_task(runtime.run(answer_twice))
        asked = await waiting(runtime)
        assert (asked.kind, asked.subject, asked.arguments) == ("value", "whom to answer", STRANGER)
        await runtime.decide(asked.id, "approve")
        result = await running
        assert result.value == [["person", "mail"]]
        assert outside.sent == [(STRANGER, "one"), (STRANGER, "two")]
        assert len(runtime.approvals()) == 1
        assert (await runtime.replay(result.run, answer_twice)).identical


async def test_a_value_may_be_corrected(tmp_path: Path) -> None:
    outside = Outside()
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(lambda _: ""), tools=outside.tools(), policy=POLICY)
        running = asyncio.create_task(runtime.run(answer_twice))
        asked = await waiting(runtime)
        assert "mail" in asked.label_of("value").influencers
        decided = await runtime.decide(asked.id, "modify", edited="bob@example.org")
        assert decided.label_of("value").influencers == {OWNER}
        result = await running
        assert result.value == [], "it is the person's own, and needs nobody's endorsement"
    assert [to for to, _ in outside.sent] == ["bob@example.org"] * 2


async def test_what_a_person_refuses_is_not_used(tmp_path: Path) -> None:
    outside = Outside()
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(lambda _: ""), tools=outside.tools(), policy=POLICY)
        running = asyncio.create_task(runtime.run(answer_twice))
        await runtime.decide((await waiting(runtime)).id, "reject")
        assert (await running).failure.code == PolicyDenied.code
    assert outside.sent == []


async def test_what_is_not_vouched_for_stays_the_strangers(tmp_path: Path) -> None:
    async def main(context: Context, _: Any) -> Any:
        mail = await context.call_hidden("read_mail")
        vouched = await context.endorse(mail[0]["sender"], "person")
        both = context.together(vouched, mail[1]["sender"])
        with pytest.raises(PolicyDenied, match="mail shaped"):
            await context.call_hidden("send", to=both[1], text="hello")
        await context.call_hidden("send", to=both[0], text="hello")

    outside = Outside()
    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(lambda _: ""), tools=outside.tools(), policy=POLICY)
        running = asyncio.create_task(runtime.run(main))
        await runtime.decide((await waiting(runtime)).id, "approve")
        assert (await running).status == "done"
    assert outside.sent == [("Ann@example.org", "hello")]

"""Results whose source depends on what was asked for: one page is the owner's own, every other a stranger's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import Label
from agentsys.context import Context
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool

POLICY = read_policy("""
[tools.fetch]
consequential = false
audience = []
source = ["web"]
fields = { "title" = ["title"] }
[tools.fetch.sources]
url = { "own.example/list" = [] }
kind = { "mail" = ["mail"] }
""")


@tool(effect=EffectClass.IDEMPOTENT)
def fetch(url: str, kind: str = "page") -> dict[str, str]:
    return {"title": url, "text": kind}


@pytest.mark.parametrize(
    ("arguments", "influencers"),
    [
        ({"url": "own.example/list"}, {"user:owner"}),
        ({"url": "own.example/list/../evil"}, {"user:owner", "web"}),
        ({"url": "evil.example"}, {"user:owner", "web"}),
        ({"url": "own.example/list", "kind": "mail"}, {"user:owner", "mail"}),
    ],
)
async def test_the_source_of_a_result_is_that_of_exactly_what_was_asked_for(
    tmp_path: Path, arguments: dict[str, str], influencers: set[str]
) -> None:
    async def main(context: Context, _: Any) -> Any:
        result = await context.call_hidden("fetch", **arguments)
        assert result["title"].label.influencers == {"user:owner", "title"}
        assert context.label == Label.trusted()
        return sorted(result["text"].label.influencers)

    with Board.open(tmp_path / "board.db") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[fetch], policy=POLICY)
        result = await runtime.run(main)
        report = await runtime.replay(result.run, main)
    assert result.value == sorted(influencers), result.failure
    assert report.identical


async def test_what_a_stranger_chose_to_fetch_is_shaped_by_the_stranger_too(tmp_path: Path) -> None:
    async def main(context: Context, _: Any) -> Any:
        page = await context.call_hidden("fetch", url="evil.example", kind="own.example/list")
        chosen = await context.call_hidden("fetch", url=page["text"])
        return sorted(chosen["text"].label.influencers)

    with Board.open(tmp_path / "board.db") as board:
        result = await Runtime(board, ScriptedModel(str), tools=[fetch], policy=POLICY).run(main)
    assert result.value == ["user:owner", "web"], result.failure

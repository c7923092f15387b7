"""A gullible planning model with the built-in tools computes with what it does not see, and is led nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Readers
from agentsys.containment.walls import STRONG, walls_here
from agentsys.planning.planner import planning_workflow
from agentsys.policy.documents import SHIPPED, read_policy
from agentsys.runtime import Runtime
from agentsys.secrets import Secret
from agentsys.testing import ScriptedModel, prompt_text
from agentsys.toolbox.fetch import fetch_tool
from agentsys.toolbox.python import python_tool
from tests.toolbox.web import Web, serving

pytestmark = pytest.mark.skipif(not walls_here().held >= STRONG, reason="this machine has too few walls")
VALUE = "hub-token-value"
POLICY = (SHIPPED / "builtin.toml").read_text().replace('ask = "if-untrusted"', 'ask = "never"')


async def planned(board: Board, web: Web, turns: list[dict[str, Any]], *more: str) -> tuple[Any, list[str]]:
    said = iter(turns)
    model = ScriptedModel(lambda prompt: json.dumps(next(said)))
    hosts = [web.host, *more]
    hub = Secret("hub", "HUB_TOKEN_OF_TESTS", tools=frozenset({"fetch"}), readers=Readers.of(f"web:{web.host}"))
    runtime = Runtime(
        board,
        model,
        tools=[fetch_tool(hosts, private=hosts), python_tool()],
        workflows=[planning_workflow("plan", ["fetch", "run_python"])],
        policy=read_policy(POLICY),
        secrets=[hub],
    )
    result = await runtime.run("plan", "Get the programme and run it.")
    return result, [prompt_text(request) for request in model.requests]


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"call": {"tool": tool, "arguments": arguments}}


TEXT = {"from": "$1", "path": ["text"]}


async def test_a_strangers_code_runs_contained_and_its_value_is_answered_unseen(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_TOKEN_OF_TESTS", VALUE)
    code = "import socket\ntry: socket.socket(); out = 'escaped'\nexcept OSError: out = 'walled'\n[out, 6 * 7]"
    url = web.page("/code", code.encode())
    with Board.open(tmp_path / "board.db") as board:
        result, prompts = await planned(
            board,
            web,
            [
                call("fetch", url=url, token={"secret": "hub"}),
                call("run_python", code=TEXT),
                {"answer": ["It is ", {"from": "$2", "path": ["value", "1"]}]},
            ],
        )
        assert result.failure is None and "42" in json.dumps(result.value), result
        assert web.asked[0][1]["authorization"] == f"Bearer {VALUE}"
        told = "\n".join(prompts)
        assert "socket" not in told and "walled" not in told and VALUE not in told and "$2" in told
        values = [effect.result for effect in board.effects(result.run) if effect.intent.tool == "run_python"]
        assert [one["value"]["value"] for one in values] == [["walled", 42]]
    assert all(VALUE.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


async def test_a_page_cannot_choose_where_the_next_request_goes(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN_OF_TESTS", VALUE)
    with serving() as elsewhere, Board.open(":memory:") as board:
        web.page("/", elsewhere.url("/?stolen=1").encode())
        turns = [call("fetch", url=web.url("/")), call("fetch", url=TEXT), {"answer": ["done"]}]
        result, prompts = await planned(board, web, turns, elsewhere.host)
        assert elsewhere.asked == [] and "integrity" in prompts[-1], result
        # The owner's own words may lead there, and without the token: it is not among the secret's readers.
        turns = [
            call("fetch", url=elsewhere.url("/"), token={"secret": "hub"}),
            call("fetch", url=elsewhere.url("/")),
            {"answer": ["done"]},
        ]
        result, prompts = await planned(board, web, turns, elsewhere.host)
        assert "denied by rule secret" in prompts[1] and "a secret, by its name" in prompts[0]
        assert ["authorization" in headers for _, headers in elsewhere.asked] == [False]

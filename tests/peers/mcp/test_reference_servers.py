"""The reference servers of MCP, in Node, as tools of a workflow: allowed, denied, journaled, labelled."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.labels import EXTERNAL, Label, Readers
from agentsys.protocols.mcp.remote import attach_servers
from agentsys.runtime import Runtime
from agentsys.sections import McpSettings
from agentsys.testing import ScriptedModel

pytestmark = pytest.mark.peers

FILES = "node_modules/@modelcontextprotocol/server-filesystem/dist/index.js"
EVERYTHING = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
SHARED = Label.trusted("user:owner", Readers.of("user:owner", "mcp:files", "mcp:everything"))


def runtime(folder: Path, **servers: Any) -> Runtime:
    made = Runtime(Board.open(folder / "board.db"), ScriptedModel(str))
    attach_servers(made, McpSettings.model_validate({"servers": servers}))
    return made


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("buy milk")
    return folder


async def copy(context: Any, folder: Any) -> Any:
    """Read a note and write it to another file."""
    text = (await context.call("files__read_text_file", path=f"{folder}/a.md")).value["content"]
    await context.call("files__write_file", path=f"{folder}/b.md", content=text)
    return text


async def test_a_workflow_reads_and_writes_files(sdk: Path, notes: Path, tmp_path: Path) -> None:
    files = {"command": ["node", str(sdk / FILES), str(notes)], "consequential": False}
    async with runtime(tmp_path, files=files) as used:
        result = await used.run(copy, str(notes), label=SHARED)
        # Reading taints: to write, whom nobody trusts, is what the server itself calls destructive.
        assert result.failure is not None and result.failure.code == "AGS-0310", result.failure
        assert not (notes / "b.md").exists()
    files["tool"] = {"write_file": {"consequential": False}}
    async with runtime(tmp_path, files=files) as used:
        result = await used.run(copy, str(notes), label=SHARED)
        assert result.value == "buy milk", result.failure
        assert (notes / "b.md").read_text() == "buy milk"
        assert result.label.influencers == {"user:owner", "mcp:files", EXTERNAL}
        states = {effect.intent.tool: effect.state for effect in used.board.effects(run=result.run)}
        assert states == dict.fromkeys(["files__read_text_file", "files__write_file"], EffectState.SUCCEEDED)
        (notes / "b.md").unlink()
        assert (await used.replay(result.run, copy)).identical
        assert not (notes / "b.md").exists()


async def test_a_private_question_is_not_sent(sdk: Path, notes: Path, tmp_path: Path) -> None:
    files = {"command": ["node", str(sdk / FILES), str(notes)], "consequential": False}
    files["tool"] = {"write_file": {"consequential": False}}

    async def save(context: Any, text: Any) -> None:
        await context.call("files__write_file", path=f"{notes}/secret.md", content=text)

    async with runtime(tmp_path, files=files) as used:
        result = await used.run(save, "my secret")
        assert result.failure is not None and "audience" in result.failure.message
        assert not (notes / "secret.md").exists()
        # The check would see a file: where the server tells nobody, there is one.
    async with runtime(tmp_path, files=files | {"audience": ["user:owner"]}) as used:
        assert (await used.run(save, "my secret")).status == "done"
        assert (notes / "secret.md").exists()


@pytest.fixture
def everything(sdk: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["node", str(sdk / EVERYTHING), "streamableHttp"]
    process = subprocess.Popen(command, env=os.environ | {"PORT": str(port)}, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    process.wait()


async def tour(context: Any, text: Any) -> Any:
    echoed = (await context.call("everything__echo", message=text)).value
    added = (await context.call("everything__get-sum", a=2, b=3)).value
    weather = (await context.call("everything__get-structured-content", location="Chicago")).value
    picture = (await context.call("everything__get-tiny-image")).value
    return [echoed, added, sorted(weather), [part["type"] for part in picture if isinstance(part, dict)]]


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_everything_server_over_both_transports(
    sdk: Path, tmp_path: Path, transport: str, request: pytest.FixtureRequest
) -> None:
    if transport == "stdio":
        server = {"command": ["node", str(sdk / EVERYTHING), "stdio"]}
    else:
        server = {"url": request.getfixturevalue("everything")}
    async with runtime(tmp_path, everything=server | {"consequential": False}) as used:
        result = await used.run(tour, "hello", label=SHARED)
        assert result.failure is None, result.failure
        value: Any = result.value
        assert "hello" in value[0] and "5" in value[1]
        assert value[2] == ["conditions", "humidity", "temperature"]
        assert value[3] == ["image"]
        assert {"mcp:everything", EXTERNAL} <= result.label.influencers
        assert (await used.replay(result.run, tour)).identical

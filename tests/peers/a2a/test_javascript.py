"""The official JavaScript client of A2A uses our agents over both bindings, with a token."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent


def talk(url: str, token: str, binding: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "client.mjs", url, token, binding]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_the_javascript_client_sends_streams_and_cancels(sdk: Path, url: str, token: str, binding: str) -> None:
    finished = talk(url, token, binding)
    assert finished.returncode == 0, finished.stderr
    seen: dict[str, Any] = json.loads(finished.stdout)
    assert "echo hello Ada" in json.dumps(seen["sent"])
    assert "echo hello Ada" in json.dumps(seen["kept"])
    kinds = [event["$case"] for event in seen["streamed"]]
    assert kinds[0] == "task"
    assert kinds[-2:] == ["artifactUpdate", "statusUpdate"]
    assert "echo hello Grace" in json.dumps(seen["streamed"][-2])
    assert seen["cancelled"]["status"]["state"] in (5, "TASK_STATE_CANCELED")


def test_the_javascript_client_needs_the_token(sdk: Path, url: str) -> None:
    finished = talk(url, "wrong", "JSONRPC")
    assert finished.returncode != 0
    assert "401" in finished.stderr

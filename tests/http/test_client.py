"""The client of the API, and the commands that use it, against a server on a real socket."""

from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.blackboard.entries import InvalidValue
from agentsys.cli.app import app
from agentsys.protocols.http.client import RuntimeClient


@pytest.fixture
def command(client, monkeypatch):
    monkeypatch.setenv("AGENTSYS_URL", str(client.base_url))
    monkeypatch.setenv("AGENTSYS_TOKEN", client.headers["Authorization"].removeprefix("Bearer "))
    return lambda *words: CliRunner().invoke(app, ["runs", *words])


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {"a": [float("inf")]}])
def test_what_is_no_json_is_not_sent(client, value: Any):
    with RuntimeClient(str(client.base_url)) as opened, pytest.raises(InvalidValue):
        opened.start("echo", value)


@pytest.mark.parametrize(("given", "code"), [("NaN", 1), ('"\\ud800"', 1), ("[" * 100_000, 2), ("{", 2)])
def test_an_input_that_is_no_json_is_told(command, given, code):
    done = command("start", "echo", "--input", given)
    assert done.exit_code == code and "AGS-0" in done.stderr, done.exception

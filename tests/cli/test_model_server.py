"""Where ``agentsys models serve`` says that it is."""

from __future__ import annotations

import json
import socket

import pytest

from agentsys.cli.model_server import _announce
from agentsys.sections import ServerSettings
from agentsys.settings import load_settings


def test_an_address_of_version_6_is_told_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings({"server.host": "fd00::1"}).settings
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _announce(settings, listener, as_json=True)
        port = listener.getsockname()[1]
    assert json.loads(capsys.readouterr().out)["url"] == f"http://[fd00::1]:{port}/v1"


@pytest.mark.parametrize(("host", "shown"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("10.1.2.3", "10.1.2.3")])
def test_the_name_that_callers_use(host: str, shown: str) -> None:
    assert ServerSettings(host=host).host_in_url == shown

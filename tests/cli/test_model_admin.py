"""``agentsys models ps`` and servers that are none, or that a proxy stands before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app


class Page(BaseHTTPRequestHandler):
    body = b"<html>hello</html>"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Models(Page):
    body = b"[]"


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("url", [Page], indirect=True)
def test_another_server_is_told_from_one_of_models(url: str) -> None:
    done = CliRunner().invoke(app, ["models", "ps", "--url", url])
    assert done.exit_code == 1 and "AGS-0469" in done.stderr, done.exception


def test_what_is_no_address_is_told() -> None:
    done = CliRunner().invoke(app, ["models", "ps", "--url", "http://127.0.0.1:port"])
    assert done.exit_code == 1 and "AGS-0469" in done.stderr, done.exception


@pytest.mark.parametrize("url", [Models], indirect=True)
def test_no_proxy_learns_the_token(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["models", "ps", "--url", url, "--token", "a-token-of-some-length", "--json"])
    assert done.exit_code == 0, done.stderr

"""A real console and a real browser before it, for the benchmark of the console and for its tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx

from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, WebSocket

LOOPBACK: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 120.0
COMMAND: Final = (sys.executable, "-c", "from agentsys.cli.app import main; main()")
"""The command line without the script, which may belong to another installation."""

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> Path:
    """Return the installed Chromium. Raises :class:`ConfigurationError` where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise ConfigurationError(
            "No Chromium is installed, and the console is looked at in a browser.",
            remedy="Run `make chromium`, or install Chromium as your system does.",
        )
    return Path(found)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium without a window. Raises :class:`ConfigurationError` without it, or without Playwright."""
    path = chromium_path()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ConfigurationError(
            "Playwright drives the browser and is not installed.", remedy="pip install 'agentsys-runtime[bench]'"
        ) from error
    with sync_playwright() as playwright:
        # Root, as in most containers, may not use the sandbox; only our own pages are opened.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@contextmanager
def served_console(*arguments: str, board: Path, settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run ``agentsys console`` with ``arguments`` on a free port, and yield the address of its pages.

    ``settings`` are environment variables. What it says goes to standard error if it ends by itself.
    Raises :class:`ConfigurationError` where it does not come up.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    command = [*COMMAND, "console", *arguments, "--port", str(port), "--no-browser"]
    environment = bare_environment({"AGENTSYS_BOARD__PATH": str(board)} | dict(settings or {}))
    url = f"http://{LOOPBACK}:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(url, process)
            yield url
        finally:
            ended = process.poll() is not None
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)
            if ended:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))


def bare_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment without the user's own settings, and with ``settings``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")}
    return kept | dict(settings or {})


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/_stcore/health", trust_env=False).text == "ok":
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise ConfigurationError("The console did not come up.", remedy="Standard error has what it said.")


@dataclass(frozen=True, slots=True)
class Text:
    """Markdown that was sent."""

    body: str


@dataclass(frozen=True, slots=True)
class Reruns:
    """Runs of a page's script: of the whole of it, and of single fragments."""

    whole: int
    fragments: int


@dataclass  # without slots: Playwright marks the owners of its handlers
class ScriptWatch:
    """What the server sends to a page, in order: each run of its script, and each text. Watch before the page opens."""

    seen: list[Literal["whole", "fragment"] | Text] = field(default_factory=list)

    @staticmethod
    def of(page: Page) -> ScriptWatch:
        watch = ScriptWatch()
        page.on("websocket", watch._listen)
        return watch

    def between(self, first: str, last: str) -> Reruns:
        """Return the runs after the first text that contains ``first`` and before the last one that contains ``last``.

        So a rerun counts only if what ``last`` says was still shown after it.
        """
        begun = [place for place, event in enumerate(self.seen) if isinstance(event, Text) and first in event.body]
        ended = [place for place, event in enumerate(self.seen) if isinstance(event, Text) and last in event.body]
        counted = self.seen[begun[0] : ended[-1]] if begun and ended else []
        return Reruns(counted.count("whole"), counted.count("fragment"))

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._receive)

    def _receive(self, payload: Any) -> None:
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        if not isinstance(payload, bytes):
            return
        message = ForwardMsg.FromString(payload)
        if message.WhichOneof("type") == "new_session":
            self.seen.append("fragment" if message.metadata.run.fragment_ids else "whole")
        elif message.WhichOneof("type") == "delta" and message.delta.new_element.HasField("markdown"):
            self.seen.append(Text(message.delta.new_element.markdown.body))

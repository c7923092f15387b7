"""``agentsys console``: the board in the browser."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from agentsys.cli.composition import settings_with
from agentsys.cli.output import reported_errors
from agentsys.errors import ConfigurationError

LOOPBACK = "127.0.0.1"


def console(
    board: Annotated[Path | None, typer.Option(help="The board's file.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on this machine; default: the first free one from 8501.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Look at runs and the shared state in the browser, live. Only this machine can reach it; it changes nothing."""
    with reported_errors():
        if find_spec("streamlit") is None:
            raise ConfigurationError(
                "The console needs Streamlit, which is not installed.",
                remedy="pip install 'agentsys-runtime[console]'",
            )
        path = settings_with(board_path=board).board.path.absolute()
        command = streamlit_command(port, browser=browser)
        # In place of this process, so that a signal sent to it stops the server.
        os.execve(command[0], command, {**os.environ, "AGENTSYS_BOARD__PATH": str(path)})  # noqa: S606


def streamlit_command(port: int | None, *, browser: bool) -> list[str]:
    """Return the command that serves the console on the loopback interface and reports nothing to anybody."""
    import agentsys.ui

    options = {
        "server.address": LOOPBACK,
        "server.headless": str(not browser).lower(),
        "server.showEmailPrompt": "false",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
    }
    if port is not None:
        options["server.port"] = str(port)
    script = Path(agentsys.ui.__path__[0]) / "app.py"
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(script), *flags]

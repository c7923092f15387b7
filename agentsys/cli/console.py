"""``agentsys console``: a runtime and its pages in the browser, or the pages alone for another server."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import check_source, settings_with
from agentsys.cli.ending import end_without_what_goes_on
from agentsys.cli.model_names import ModelOption
from agentsys.cli.output import ExitCode, err, reported_errors
from agentsys.cli.serve import composed, listening, run_server
from agentsys.errors import ConfigurationError
from agentsys.settings import load_settings

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from agentsys.settings import Settings

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 5.0
"""How long the pages' process may take to end."""


def console(
    file: Annotated[
        Path | None, typer.Argument(help="Python file with workflows, agents and tools at module level.")
    ] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of data files, or package:NAME/SUBFOLDER.")] = None,
    model: ModelOption = None,
    board: BoardOption = None,
    url: Annotated[
        str | None, typer.Option(help="Show this server, with the token in AGENTSYS_TOKEN, and start none.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the pages; default: the first free one from 8501.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Ask, watch runs and the shared state, and decide, in the browser. Only this machine can reach it."""
    with reported_errors():
        if find_spec("streamlit") is None:
            raise ConfigurationError(
                "The console needs Streamlit, which is not installed.",
                remedy="pip install 'agentsys-runtime[console]'",
            )
        signal.signal(signal.SIGTERM, _end)
        command = streamlit_command(port, browser=browser)
        if url is not None:
            if file or lake or model or board:
                raise ConfigurationError("--url shows a server that runs elsewhere.", remedy="Pass --url alone.")
            _end_with(asyncio.run(_show(command, url)))
            return
        check_source(file, lake)
        settings = settings_with(
            model_name=model, board_path=board, server_host=LOOPBACK, server_port=0, server_token=_token()
        )
        with closing(listening(settings)) as listener:
            _end_with(asyncio.run(_serve(command, file, lake, settings, listener)))


def streamlit_command(port: int | None, *, browser: bool) -> list[str]:
    """Return the command that serves the pages on the loopback interface and reports nothing to anybody."""
    import agentsys.ui

    options = {
        "server.address": LOOPBACK,
        "server.headless": str(not browser).lower(),
        "server.showEmailPrompt": "false",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        # Streamlit's own red would make every main button look dangerous.
        "theme.light.primaryColor": "#1d4ed8",
        "theme.dark.primaryColor": "#60a5fa",
    }
    if port is not None:
        options["server.port"] = str(port)
    script = Path(agentsys.ui.__path__[0]) / "app.py"
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "agentsys.ui.serve_pages", "run", str(script), *flags]


async def _show(command: list[str], url: str) -> int:
    async with _pages(command, url, os.environ.get("AGENTSYS_TOKEN")) as pages:
        return await pages.wait()


async def _serve(
    command: list[str], file: Path | None, lake: str | None, settings: Settings, listener: socket.socket
) -> int | None:
    """Serve a runtime behind the pages until either ends, and return how the pages did, if they did.

    What calls before it is composed waits in the listener.
    """
    url, token = f"http://{LOOPBACK}:{listener.getsockname()[1]}", settings.server.token
    async with _pages(command, url, token) as pages:
        from agentsys.protocols.app import FaceOptions, create_app
        from agentsys.protocols.http.app import PREFIX
        from agentsys.protocols.http.streams import Stopping
        from agentsys.serving.server.operation import Operation
        from agentsys.supervisor import RunSupervisor
        from agentsys.ui.boards import RECORDED

        err.print(f"runtime {url}{PREFIX}", highlight=False)
        runtime = composed(file, lake, settings)
        supervisor = RunSupervisor(runtime)
        try:
            stopping, operation = Stopping(), Operation()
            options = FaceOptions(url=url, token=token, recorded=RECORDED)
            app = create_app(supervisor, options, stopping, operation)
            await run_server(app, listener, stopping, operation, pages.wait())
        finally:
            await runtime.close()
            end_without_what_goes_on(supervisor)
        return pages.returncode


@asynccontextmanager
async def _pages(command: list[str], url: str, token: str | None) -> AsyncIterator[Process]:
    """Run the pages of the server at ``url`` in a process that ends with this one, however it ends."""
    environment = {name: value for name, value in os.environ.items() if name != "AGENTSYS_TOKEN"}
    environment |= {"AGENTSYS_URL": url} | ({} if token is None else {"AGENTSYS_TOKEN": token})
    # A session of its own: an interrupt at the terminal is for this process, which ends the pages in order.
    pages = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        yield pages
    finally:
        if pages.returncode is None:
            pages.terminate()
            try:
                await asyncio.wait_for(pages.wait(), PATIENCE_SECONDS)
            except TimeoutError:
                pages.kill()
                await pages.wait()


def _end_with(pages: int | None) -> None:
    """Fail where the pages' process did, such as on a port that is taken."""
    if pages:
        raise typer.Exit(ExitCode.FAILED)


def _token() -> str:
    """Return the settings' token, which the command line knows too, or else one that nobody knows."""
    return load_settings().settings.server.token or secrets.token_urlsafe(32)


def _end(number: int, frame: object) -> NoReturn:
    """Leave through every ``finally``."""
    sys.exit(128 + number)

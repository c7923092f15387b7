"""``agentsys serve``: one runtime behind all its faces, on one port."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import attach_foreign_tools, check_source, file_runtime, open_lake, settings_with
from agentsys.cli.ending import end_without_what_goes_on
from agentsys.cli.model_names import ModelOption
from agentsys.cli.output import JsonOption, err, print_json, reported_errors
from agentsys.cli.startup import calm_the_collector
from agentsys.errors import BoardError, ConfigurationError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from agentsys.protocols.app import FaceOptions
    from agentsys.protocols.http.streams import Stopping
    from agentsys.runs import RunRecord
    from agentsys.runtime import Runtime
    from agentsys.serving.server.operation import Operation
    from agentsys.settings import Settings
    from agentsys.supervisor import RunSupervisor

MOST_RESUMED: Final = 256
"""Unfinished runs that a server has under way at once; it takes more as these end."""


def serve(
    file: Annotated[
        Path | None, typer.Argument(help="Python file with workflows, agents and tools at module level.")
    ] = None,
    lake: Annotated[str | None, typer.Option(help="Folder of data files, or package:NAME/SUBFOLDER.")] = None,
    model: ModelOption = None,
    board: BoardOption = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; beyond this machine only with a token.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Bearer token for every call; better in AGENTSYS_SERVER__TOKEN, which ps hides.")
    ] = None,
    a2a: Annotated[bool, typer.Option(help="Answer A2A clients too, with an agent card.")] = False,
    mcp: Annotated[bool, typer.Option(help="Answer MCP clients too.")] = False,
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Serve one MCP client over standard input and output, and nothing else.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the unfinished runs of the workflows served.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Serve runs, the board and models over HTTP until interrupted."""
    with reported_errors(as_json=as_json):
        settings = settings_with(
            model_name=model, board_path=board, server_host=host, server_port=port, server_token=token
        )
        if stdio:
            if not mcp or a2a:
                raise ConfigurationError("--stdio serves MCP alone.", remedy="Pass --mcp --stdio, without --a2a.")
            asyncio.run(_serve_stdio(file, lake, settings, resume=resume))
            return
        from agentsys.protocols.edge import check_bind

        check_bind(settings.server.host, settings.server.token or settings.principals)
        with closing(listening(settings)) as listener:
            asyncio.run(_serve(file, lake, settings, listener, a2a=a2a, mcp=mcp, resume=resume, as_json=as_json))


async def _serve(
    file: Path | None,
    lake: str | None,
    settings: Settings,
    listener: socket.socket,
    *,
    a2a: bool,
    mcp: bool,
    resume: bool,
    as_json: bool,
) -> None:
    from agentsys.embedded import limits_of
    from agentsys.protocols.app import FaceOptions, create_app
    from agentsys.protocols.http.streams import Stopping
    from agentsys.serving.server.operation import Operation
    from agentsys.supervisor import RunSupervisor

    runtime = composed(file, lake, settings)
    supervisor = RunSupervisor(runtime)
    try:
        server, port = settings.server, listener.getsockname()[1]
        shown = server.host_in_url
        options = FaceOptions(
            url=f"http://{shown}:{port}",
            token=server.token,
            principals=settings.principals,
            hosts=(*server.hosts, shown),
            origins=server.origins,
            a2a=a2a,
            mcp=mcp,
        )
        stopping, operation = Stopping(), Operation(limits_of(settings))
        # Before the faces add some of their own, which nobody starts by name.
        workflows = sorted(runtime.workflows)
        app = create_app(supervisor, options, stopping, operation)
        async with _taking_runs(supervisor, wanted=resume):
            calm_the_collector()
            _announce(options, workflows, as_json=as_json)
            compacting = asyncio.create_task(_compact_regularly(runtime, settings.board.keep))
            try:
                await run_server(app, listener, stopping, operation)
            finally:
                compacting.cancel()
    finally:
        await runtime.close()
        end_without_what_goes_on(supervisor)


async def _compact_regularly(runtime: Runtime, keep: str | None) -> None:
    """Drop what the settings do not keep of the board's past, now and then; without a setting nothing."""
    from agentsys.retention import EVERY_SECONDS, compact_board, parse_keep

    while keep is not None:
        try:
            await asyncio.to_thread(compact_board, runtime.board, parse_keep(keep))
        except BoardError as error:
            err.print(f"The board was not compacted: {error}", highlight=False, markup=False)
        await asyncio.sleep(EVERY_SECONDS)


async def _serve_stdio(file: Path | None, lake: str | None, settings: Settings, *, resume: bool) -> None:
    from agentsys.protocols.mcp.server import serve_stdio
    from agentsys.supervisor import RunSupervisor

    # Standard output carries the protocol alone, and a served file may print when it is imported.
    with redirect_stdout(sys.stderr):
        runtime = composed(file, lake, settings)
    supervisor = RunSupervisor(runtime)
    try:
        async with _taking_runs(supervisor, wanted=resume):
            await serve_stdio(runtime, supervisor)
    finally:
        await supervisor.close()
        await runtime.close()
        end_without_what_goes_on(supervisor)


def composed(file: Path | None, lake: str | None, settings: Settings) -> Runtime:
    """Return the runtime to serve: of a Python file, of a lake, or one that only keeps the board."""
    check_source(file, lake)
    if file is not None:
        return file_runtime(file, settings)
    if lake is not None:
        from agentsys.lake.local import lake_runtime

        return lake_runtime(open_lake(lake, settings), settings)
    from agentsys.runtime import Runtime

    runtime = Runtime.from_settings(settings)
    attach_foreign_tools(runtime, settings)
    return runtime


@asynccontextmanager
async def _taking_runs(supervisor: RunSupervisor, *, wanted: bool) -> AsyncIterator[None]:
    """Go on, as a worker beside others, with unfinished runs that no live process executes."""
    from agentsys.workers import Worker

    def told(record: RunRecord) -> None:
        err.print(f"resumed run {record.run} of {record.workflow}", highlight=False)

    if not wanted:
        yield
        return
    worker = Worker(supervisor, most=MOST_RESUMED, told=told)
    await worker.take_runs()
    serving = asyncio.create_task(worker.serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def listening(settings: Settings) -> socket.socket:
    """Bind before anything heavy is loaded, so that a taken port is told at once."""
    server = settings.server
    try:
        return socket.create_server((server.host, server.port), family=_family(server.host), backlog=512)
    except OSError as error:
        raise ConfigurationError(
            f"{server.host}:{server.port} cannot be bound: {error.strerror or error}.",
            remedy="Stop what listens there, or pass another --port (0 takes any free one).",
        ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _announce(options: FaceOptions, workflows: list[str], *, as_json: bool) -> None:
    from agentsys.protocols.http.app import PREFIX

    faces = {"runtime": f"{options.url}{PREFIX}", "openai": f"{options.url}/v1"}
    if options.a2a:
        faces["a2a"] = f"{options.url}/.well-known/agent-card.json"
    if options.mcp:
        faces["mcp"] = f"{options.url}/mcp"
    if as_json:
        needs_token = bool(options.token or options.principals)
        print_json({"url": options.url, "token_required": needs_token, "faces": faces, "workflows": workflows})
        return
    for name, told in {**faces, "workflows": ", ".join(workflows) or "none"}.items():
        err.print(f"{name:<9} {told}", highlight=False, markup=False)
    if not (options.token or options.principals):
        err.print("no token: every program on this machine may call", style="dim")


async def run_server(
    app: ASGIApp,
    listener: socket.socket,
    stopping: Stopping,
    operation: Operation,
    end: Coroutine[Any, Any, object] | None = None,
) -> None:
    """Serve until ``operation`` has drained, as a signal makes it do, or ``end`` is done."""
    from agentsys.serving.server.running import DrainingServer, server_config

    class Server(DrainingServer):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Streams end first: the server waits for every open connection.
            stopping.event.set()
            await super().shutdown(sockets)

    config = server_config(app, read_seconds=operation.limits.read_seconds)
    server = Server(config, operation.lifecycle, tell_draining)

    async def stop_after(event: Coroutine[Any, Any, object]) -> None:
        await event
        server.should_exit = True

    waiting = None if end is None else asyncio.create_task(stop_after(end))
    try:
        # An interrupt that came before ends this here: the server would log it as a fault of its own.
        await asyncio.sleep(0)
        await server.serve(sockets=[listener])
    finally:
        if waiting is not None:
            waiting.cancel()


def tell_draining(under_way: int) -> None:
    """Say at the terminal why the process does not end yet."""
    err.print(f"finishing {under_way} requests; interrupt again to end at once", highlight=False)

"""``agentsys models serve``: one model for any OpenAI client."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any

import typer

from agentsys.cli.model_names import ServedModelOption
from agentsys.cli.output import JsonOption, err, out, print_json, reported_errors
from agentsys.cli.pulling import PullBar
from agentsys.cli.serve import tell_draining
from agentsys.errors import ServingError
from agentsys.settings import Settings, load_settings

PORT = 8701  # beside `agentsys serve`, so that both can run


class PortUnavailable(ServingError):
    """The address to serve at cannot be had."""

    code = "AGS-0724"
    remedy = "Choose another with --host and --port."


def serve(
    model: ServedModelOption = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen at.")] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 picks a free one.")
    ] = PORT,
    token: Annotated[
        str | None, typer.Option("--token", help="Bearer token that clients send as their API key.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a model in the OpenAI format at http://HOST:PORT/v1, until interrupted."""
    with reported_errors(as_json=as_json):
        from agentsys.protocols.edge import check_bind

        flags = {"model.name": model, "server.host": host, "server.token": token}
        settings = load_settings(flags).settings
        check_bind(settings.server.host, settings.server.token)
        listener = _listen(settings.server.host, port)
        with listener:
            asyncio.run(_serve(settings, listener, as_json=as_json))


async def _serve(settings: Settings, listener: socket.socket, *, as_json: bool) -> None:
    from agentsys.blackboard.labels import OWNER
    from agentsys.embedded import client_of, limits_of
    from agentsys.protocols.edge import EdgeMiddleware
    from agentsys.protocols.principals import principals
    from agentsys.serving.server.app import serving_app
    from agentsys.serving.server.health_routes import OPEN_PATHS
    from agentsys.serving.server.operation import Operation
    from agentsys.serving.server.running import DrainingServer, server_config

    client, operation = client_of(settings), Operation(limits_of(settings))
    _pull(settings)
    try:
        err.print(f"loading {settings.model.name}", highlight=False)
        try:
            await client.engine()
        except asyncio.CancelledError:
            err.print("ending once the model is loaded", style="dim")
            raise
        server = settings.server
        app = EdgeMiddleware(
            serving_app(client, operation),
            principals=principals(OWNER, server.token, {}),
            hosts=(server.host_in_url, *server.hosts),
            origins=server.origins,
            open_paths=OPEN_PATHS,
        )
        _announce(settings, listener, as_json=as_json)
        config = server_config(app, read_seconds=operation.limits.read_seconds, lifespan="off")
        await DrainingServer(config, operation.lifecycle, tell_draining).serve([listener])
    finally:
        await client.close()


def _pull(settings: Settings) -> None:
    """Fetch the model where it is not here yet, and show how far that is."""
    from agentsys.serving.weights.catalogue import is_remote
    from agentsys.serving.weights.pull import is_at_hand, pull

    for spec in settings.default_specs:
        if not is_remote(spec) and not is_at_hand(spec, settings.models_dir):
            with PullBar(spec) as bar:
                pull(spec, progress=bar.update, directory=settings.models_dir)


def _announce(settings: Settings, listener: socket.socket, *, as_json: bool) -> None:
    url = f"http://{settings.server.host_in_url}:{listener.getsockname()[1]}/v1"
    if as_json:
        print_json({"url": url, "model": settings.model.name})
    else:
        out.print(f"serving {settings.model.name} at {url}", highlight=False)


def _listen(host: str, port: int) -> socket.socket:
    family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        raise PortUnavailable(f"{host}:{port} cannot be listened at: {error.strerror or error}.") from error

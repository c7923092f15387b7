"""``agentsys runs``: the runs of a server, from this or another machine."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentsys.cli.output import (
    JsonOption,
    err,
    exit_code_of_run,
    json_flag,
    out,
    print_json,
    print_table,
    reported_errors,
    time_text,
)
from agentsys.errors import ConfigurationError
from agentsys.settings import load_settings

if TYPE_CHECKING:
    from agentsys.protocols.http.client import RuntimeClient
    from agentsys.protocols.http.schemas import RunDocument

app = typer.Typer(help="Start, watch and steer the runs of a server (`agentsys serve`).", no_args_is_help=True)

URL_VARIABLE: Final = "AGENTSYS_URL"

UrlOption = Annotated[
    str | None, typer.Option("--url", envvar=URL_VARIABLE, help="The server; default: server.host and server.port.")
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="AGENTSYS_TOKEN", show_envvar=True, help="Its token; default: server.token."),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run.")]


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="running, done, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 50,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        found = client.runs(status=status, limit=limit)
    if as_json:
        print_json([run.model_dump() for run in found])
        return
    rows = [[run.run, run.workflow, run.status, time_text(run.started), _brief(run.input)] for run in found]
    print_table(["run", "workflow", "status", "started", "input"], rows)


@app.command("show")
def show(run: RunArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Print one run as JSON: its input, value, labels and failure."""
    with reported_errors(), connected(url, token) as client:
        print_json(client.run(run).model_dump())


@app.command("start")
def start(
    workflow: Annotated[str, typer.Argument(help="A workflow of the server.")],
    run_input: Annotated[str, typer.Option("--input", help="The workflow's input, as JSON.")] = "null",
    wait: Annotated[bool, typer.Option(help="Watch the run until it ends.")] = True,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run on the server."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        run = client.start(workflow, json_flag("--input", run_input))
        if not wait:
            print_json({"run": run}) if as_json else out.print(run, highlight=False)
            return
        ended = _watched(client, run)
    _print_end(ended, as_json=as_json)


@app.command("watch")
def watch(run: RunArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """Follow a run until it ends, also one that waits for a worker."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        ended = _watched(client, run)
    _print_end(ended, as_json=as_json)


@app.command("cancel")
def cancel(run: RunArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """End a run for good."""
    with reported_errors(), connected(url, token) as client:
        client.cancel(run)


@app.command("resume")
def resume(run: RunArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Go on with an interrupted run on the server."""
    with reported_errors(), connected(url, token) as client:
        client.resume(run)


@app.command("fork")
def fork(
    run: RunArgument,
    at: Annotated[int | None, typer.Option(min=1, help="Take over what was recorded at this commit.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a new run from a run's beginning, or from what it had recorded at a commit."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        ended = _watched(client, client.fork(run, at=at))
    _print_end(ended, as_json=as_json)


def connected(url: str | None, token: str | None) -> RuntimeClient:
    """Return a client of the server that the flags, or the settings, name.

    The settings' token goes only to the settings' server: a foreign address must not learn it.
    """
    from agentsys.protocols.http.client import RuntimeClient

    if url is not None:
        return RuntimeClient(url, token)
    server = load_settings().settings.server
    return RuntimeClient(f"http://{server.host_in_url}:{server.port}", token or server.token)


def server_beside(board: str | None, url: str | None) -> str | None:
    """Return the server to ask, ``None`` where ``--board`` says that a board is meant: a flag counts before a variable.

    Raises :class:`ConfigurationError` where flags name both.
    """
    if board is None or url is None:
        return url
    if url != os.environ.get(URL_VARIABLE):
        raise ConfigurationError("--board and --url name two places to ask.", remedy="Leave one of them out.")
    return None


def _watched(client: RuntimeClient, run: str) -> RunDocument:
    def waiting() -> None:
        err.print(f"run {run} waits for a worker (`agentsys work`)", highlight=False, markup=False)

    for event in client.watch(run, waiting=waiting):
        if event.type == "tokens_streamed":
            err.print(event.data["text"], end="", style="dim", highlight=False, markup=False)
        else:
            said = {key: value for key, value in event.data.items() if key not in ("run", "label")}
            err.print(f"● {event.type} {_brief(said)}", highlight=False, markup=False)
    return client.run(run)


def _print_end(run: RunDocument, *, as_json: bool) -> None:
    if as_json:
        print_json(run.model_dump())
    elif run.status == "done" and run.value is None and run.withheld:
        err.print(f"run {run.run}: done; its label keeps what came of it from you", highlight=False, markup=False)
    elif run.status == "done":
        out.print(run.value, highlight=False, markup=False)
    else:
        why = f"{run.failure.code} {run.failure.message}" if run.failure else run.status
        err.print(f"run {run.run}: {why}", highlight=False, markup=False)
    if run.status != "done":
        raise typer.Exit(exit_code_of_run(run))


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"

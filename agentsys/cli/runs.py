"""``agentsys runs``: the runs of a server, from this or another machine; to look at, those of a board, too."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentsys.cli.board_option import BoardOption
from agentsys.cli.examples import examples
from agentsys.cli.live import LiveRun
from agentsys.cli.output import (
    AlwaysJsonOption,
    JsonOption,
    err,
    exit_code_of_run,
    json_flag,
    out,
    print_json,
    print_table,
    reported_errors,
    shortened,
    time_text,
)
from agentsys.cli.run_argument import AnyRunOrLatestArgument, ServerRunOrLatestArgument
from agentsys.cli.run_source import BoardRuns, named, server_or_board
from agentsys.cli.server_option import TokenOption, UrlOption, connected

if TYPE_CHECKING:
    from agentsys.events import RunEvent
    from agentsys.protocols.http.client import RuntimeClient
    from agentsys.protocols.http.schemas import EventDocument, RunDocument

app = typer.Typer(help="List runs; start, watch and steer those of a server (`agentsys serve`).", no_args_is_help=True)

STATUSES: Final = ("running", "done", "failed", "cancelled")


@app.command("list")
def list_(
    status: Annotated[
        str | None, typer.Option(help="running, done, failed or cancelled.", autocompletion=lambda: STATUSES)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest.")] = 50,
    board: BoardOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, the newest first; where no server answers, those of this machine's board."""
    if status is not None and status not in STATUSES:
        raise typer.BadParameter(f"{status!r} is no status.", param_hint="--status")
    with reported_errors(as_json=as_json), _server_or_board(board, url, token) as place:
        found = place.runs(status=status, limit=limit)
    if as_json:
        print_json([run.model_dump() for run in found])
        return
    rows = [[run.run, run.workflow, run.status, time_text(run.started), _brief(run.input)] for run in found]
    print_table(["run", "workflow", "status", "started", "input"], rows, cut="input")


@app.command("show")
def show(
    run: AnyRunOrLatestArgument,
    board: BoardOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: AlwaysJsonOption = False,
) -> None:
    """Print one run as JSON: its input, value, labels and failure; where no server answers, of this machine's board."""
    with reported_errors(as_json=as_json), _server_or_board(board, url, token) as place:
        print_json(place.run(named(run, place)).model_dump())


@app.command(
    "start",
    epilog=examples(
        "agentsys runs start shout --input '\"hello\"'",
        "agentsys runs start shout --no-wait --url http://127.0.0.1:8700",
    ),
)
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
def watch(
    run: ServerRunOrLatestArgument, url: UrlOption = None, token: TokenOption = None, as_json: JsonOption = False
) -> None:
    """Follow a run until it ends, also one that waits for a worker."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        ended = _watched(client, named(run, client))
    _print_end(ended, as_json=as_json)


@app.command("cancel")
def cancel(
    run: AnyRunOrLatestArgument, board: BoardOption = None, url: UrlOption = None, token: TokenOption = None
) -> None:
    """End a run for good; where no server answers, on this machine's board."""
    with reported_errors(), _server_or_board(board, url, token) as place:
        meant = named(run, place)
        place.cancel(meant)
        err.print(f"run {meant}: {place.run(meant).status}", highlight=False, markup=False)


@app.command("resume")
def resume(run: ServerRunOrLatestArgument, url: UrlOption = None, token: TokenOption = None) -> None:
    """Go on with an interrupted run on the server."""
    with reported_errors(), connected(url, token) as client:
        client.resume(named(run, client))


@app.command("fork")
def fork(
    run: ServerRunOrLatestArgument,
    at: Annotated[int | None, typer.Option(min=1, help="Take over what was recorded at this commit.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a new run from a run's beginning, or from what it had recorded at a commit."""
    with reported_errors(as_json=as_json), connected(url, token) as client:
        ended = _watched(client, client.fork(named(run, client), at=at))
    _print_end(ended, as_json=as_json)


def _server_or_board(
    board: str | None, url: str | None, token: str | None
) -> AbstractContextManager[BoardRuns | RuntimeClient]:
    """Open what the flags name; without any, the settings' server, or their board where that server does not answer,
    which is told."""

    def told(server: str) -> None:
        err.print(f"no server at {server}; this machine's board is meant", style="dim", highlight=False)

    return server_or_board(board, url, token, told)


def _watched(client: RuntimeClient, run: str) -> RunDocument:
    """Follow a run as `agentsys run` shows its own."""
    with LiveRun(err) as live:

        def waiting() -> None:
            err.print(f"run {run} waits for a worker (`agentsys work`)", highlight=False, markup=False)

        try:
            for event in client.watch(run, waiting=waiting):
                if (told := _event(event)) is not None:
                    live.listen(told)
        except KeyboardInterrupt:
            err.print(f"run {run} goes on: `agentsys runs watch {run}`, or `cancel`", highlight=False, markup=False)
            raise
    return client.run(run)


def _event(document: EventDocument) -> RunEvent | None:
    """Return what a server told of a run; ``None`` for what is withheld, or what only a newer server knows."""
    from agentsys import events

    kind = getattr(events, document.type.title().replace("_", ""), None)
    if kind is None or document.data.get("withheld"):
        return None
    event: RunEvent = kind(**{one.name: document.data.get(one.name) for one in fields(kind) if one.name != "label"})
    return event


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
    return shortened(json.dumps(value, ensure_ascii=False))

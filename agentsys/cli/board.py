"""``agentsys board``: look at the shared state; any process may, also while another one writes."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli import board_compact, board_copies, board_drop, board_erase, board_subscriptions
from agentsys.cli.board_option import BoardOption, board_to_read
from agentsys.cli.composition import settings_with
from agentsys.cli.output import (
    ExitCode,
    JsonOption,
    out,
    print_error,
    print_json,
    print_table,
    reported_errors,
    shortened,
)
from agentsys.cli.run_argument import completed_run
from agentsys.cli.run_source import BoardRuns, named
from agentsys.errors import BoardError, ConfigurationError

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.catalogue import Listed
    from agentsys.blackboard.commits import Commit
    from agentsys.blackboard.entries import Entry

app = typer.Typer(help="Look at the shared state, and copy it.", no_args_is_help=True)
app.command("export")(board_copies.export)
app.command("import")(board_copies.import_)
app.command("backup")(board_copies.backup)
app.command("restore")(board_copies.restore)
app.command("compact")(board_compact.compact)
app.command("erase")(board_erase.erase)
app.command("drop")(board_drop.drop)
app.command("subscriptions")(board_subscriptions.subscriptions)
app.command("unsubscribe")(board_subscriptions.unsubscribe)

RunOption = Annotated[
    str | None, typer.Option("--run", help="Only commits of this run, or `latest`.", autocompletion=completed_run)
]
POLL_SECONDS = 0.5


@app.command("log")
def log(
    board: BoardOption = None,
    run: RunOption = None,
    after: Annotated[int | None, typer.Option(min=0, help="Only commits after this sequence number.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many commits, the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest commits: who wrote what, in which run."""
    with reported_errors(as_json=as_json), board_to_read(board) as opened:
        run = _run(opened, run)
        since = None if after is None else min(after, opened.head)
        first = since if run else max(since or 0, opened.horizon, opened.head - limit)
        commits = opened.log(after=first, run=run)[-limit:]
        if as_json:
            print_json([_commit(commit) for commit in commits])
            return
        rows = [[commit.seq, _time(commit.at), commit.run, commit.principal, _summary(commit)] for commit in commits]
        print_table(["seq", "at", "run", "by", "wrote"], rows)


@app.command("show")
def show(
    topic: Annotated[str, typer.Argument(help="Topic of the entry, or of all entries to show.")],
    key: Annotated[str | None, typer.Argument(help="Key of one entry.")] = None,
    board: BoardOption = None,
    at: Annotated[int | None, typer.Option(help="As of this sequence number.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show an entry, or all entries of a topic, with label and provenance."""
    with reported_errors(as_json=as_json), board_to_read(board) as opened:
        from agentsys.blackboard.predicates import Predicate

        if key is None:
            entries = opened.query(Predicate(topic=topic), at=at)
        else:
            found = opened.get(topic, key, at=at)
            entries = [] if found is None else [found]
        if not entries:
            raise ConfigurationError(
                f"The board has nothing at {topic}{'/' + key if key else ''}.",
                remedy="`agentsys board log` lists what was written.",
            )
        documents = [_entry(entry) for entry in entries]
        print_json(documents if key is None or as_json else documents[0])


@app.command("tail")
def tail(board: BoardOption = None, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Print commits as they happen, until interrupted; with ``--json`` one document a line."""
    with reported_errors(as_json=as_json), board_to_read(board) as opened:
        run, seen = _run(opened, run), opened.head
        while True:
            head = opened.head
            for commit in opened.log(after=seen, run=run):
                # What comes while these are printed is for the next look.
                head = max(head, commit.seq)
                if as_json:
                    print(json.dumps(_commit(commit), ensure_ascii=False), flush=True)
                    continue
                line = f"{commit.seq} {_time(commit.at)} {commit.principal} {_summary(commit)}"
                out.print(line, highlight=False, markup=False)
            seen = head
            time.sleep(POLL_SECONDS)


@app.command("verify")
def verify(
    board: BoardOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every board of the file or database.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the file, and the hash of every commit; exits 1 and names the first commit that was altered.

    After a compaction: of every commit from there on, and of all that was kept at that point.
    A damaged board keeps none of the others from being verified.
    """
    with reported_errors(as_json=as_json):
        location = settings_with(board_path=board).board.location
        if not every:
            with board_to_read(board) as opened:
                _report_verified(_verified(opened), as_json=as_json)
            return
        verified = _verified_all(location, as_json=as_json)
    if as_json:
        print_json(verified)
    if any("error" in item for item in verified):
        raise typer.Exit(ExitCode.FAILED)


@app.command("list")
def list_(board: BoardOption = None, as_json: JsonOption = False) -> None:
    """List the boards of the file or the database, and how far each has come, or why it cannot be read."""
    from agentsys.blackboard.catalogue import boards_beside

    with reported_errors(as_json=as_json):
        found = boards_beside(settings_with(board_path=board).board.location)
        if as_json:
            print_json([_listed(item) for item in found])
            return
        rows = [_row(item) for item in found]
        print_table(["board", "commits", "readable from", "newest hash"], rows)
        for item in found:
            if item.error is not None:
                print_error(item.name, item.error.code, item.error.message, item.error.remedy)


def _verified_all(location: Path | str, *, as_json: bool) -> list[dict[str, Any]]:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.catalogue import boards_beside

    verified: list[dict[str, Any]] = []
    for item in boards_beside(location):
        try:
            with Board.open_read_only(item.location) as opened:
                found = _verified(opened)
        except BoardError as error:
            verified.append({"board": item.name, "error": error.to_json()})
            if not as_json:
                print_error(item.name, error.code, error.message, error.remedy)
            continue
        verified.append({"board": item.name, **found})
        if not as_json:
            out.print(f"{item.name}: ", end="", highlight=False)
            _report_verified(found, as_json=False)
    return verified


def _verified(board: Board) -> dict[str, int]:
    from agentsys.blackboard.verification import erased_values

    return {"commits": board.verify(), "horizon": board.horizon, "erased": erased_values(board)}


def _report_verified(found: dict[str, int], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    from agentsys.views.texts import count_text

    commits, horizon, erased = found["commits"], found["horizon"], found["erased"]
    which = f"commits {horizon + 1} to {commits}" if horizon else count_text(commits, "commit")
    past = ", on the state that was kept" if horizon else ""
    gone = (
        f"; {count_text(erased, 'value')} {'was' if erased == 1 else 'were'} erased, as it is on record"
        if erased
        else ""
    )
    out.print(f"{which}, each as it was committed{past}{gone}", highlight=False)


def _row(item: Listed) -> list[Any]:
    if item.error is not None:
        return [item.name, None, None, item.error.code]
    return [item.name, item.head, item.horizon, item.head_hash]


def _listed(item: Listed) -> dict[str, Any]:
    if item.error is not None:
        return {"board": item.name, "error": item.error.to_json()}
    return {"board": item.name, "head": item.head, "horizon": item.horizon, "head_hash": item.head_hash}


def _run(board: Board, run: str | None) -> str | None:
    """Return the run that is meant. Raises :class:`~agentsys.runs.UnknownRun` where none of its commits is there."""
    from agentsys.runs import UnknownRun

    if run is None:
        return None
    meant = named(run, BoardRuns(board))
    if not board.log(run=meant, limit=1):
        raise UnknownRun(f"The board has no commits of run {meant!r}.")
    return meant


def _summary(commit: Commit) -> str:
    writes = [f"{entry.type} {entry.key} v{entry.version}" for entry in commit.writes]
    effects = [f"{effect.intent.tool} {effect.state}" for effect in commit.effects]
    return shortened(", ".join(writes + effects)) or "nothing"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "seq": commit.seq,
        "at": commit.at,
        "run": commit.run,
        "principal": commit.principal,
        "hash": commit.hash,
        "writes": [_entry(entry) for entry in commit.writes],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "topic": entry.topic,
        "key": entry.key,
        "version": entry.version,
        "type": entry.type,
        "value": entry.value,
        "label": entry.label.to_json(),
        "seq": entry.seq,
        "writer": entry.writer,
        "run": entry.run,
        "derived_from": [f"{ref.topic}/{ref.key}@{ref.version}" for ref in entry.derived_from],
    }

"""``agentsys memo``: the answers that a board keeps of memoised calls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.board_option import BoardOption, board_to_read, board_to_write
from agentsys.cli.output import JsonOption, out, print_json, print_table, reported_errors, time_text

if TYPE_CHECKING:
    from agentsys.blackboard.entries import Entry

app = typer.Typer(help="See and forget the answers kept of memoised calls.", no_args_is_help=True)


@app.command("list")
def list_(board: BoardOption = None, as_json: JsonOption = False) -> None:
    """List whose answers are kept, since when and until when; not what was asked, nor what was answered."""
    from agentsys.blackboard.memo import kept_answers

    with reported_errors(as_json=as_json), board_to_read(board) as opened:
        found = [_document(entry) for entry in kept_answers(opened)]
    if as_json:
        print_json(found)
        return
    rows = [
        [one["key"][:12], one["kind"], one["name"], time_text(one["kept_at"]), time_text(one["expires"]), one["run"]]
        for one in found
    ]
    print_table(["answer", "kind", "of", "kept", "until", "run"], rows)


@app.command("forget")
def forget(
    every: Annotated[bool, typer.Option("--all", help="Also answers that still hold.")] = False,
    name: Annotated[str | None, typer.Option(help="Only answers of this tool or model.")] = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete answers that have expired; what runs have on record of them stays."""
    from agentsys.blackboard.memo import delete_answers, kept_answers
    from agentsys.views.texts import count_text

    with reported_errors(as_json=as_json):
        # A board that is not there must not come to be by forgetting.
        board_to_read(board).close()
        with board_to_write(board) as opened:
            now = time.time()
            chosen = [entry for entry in kept_answers(opened) if _is_chosen(entry, name, None if every else now)]
            delete_answers(opened, chosen)
    if as_json:
        print_json({"forgotten": len(chosen)})
    else:
        out.print(f"{count_text(len(chosen), 'answer')} forgotten", highlight=False)


def _is_chosen(entry: Entry, name: str | None, expired_at: float | None) -> bool:
    body: Any = entry.value
    return name in (None, body["name"]) and (expired_at is None or body["expires"] <= expired_at)


def _document(entry: Entry) -> dict[str, Any]:
    body: Any = entry.value
    told = {field: body[field] for field in ("kind", "name", "version", "kept_at", "expires")}
    return {"key": entry.key, **told, "run": entry.run, "label": entry.label.to_json()}

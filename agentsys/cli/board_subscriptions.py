"""``agentsys board subscriptions`` and ``unsubscribe``: who reads the log from a place of its own, and from where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.board_option import BoardOption, board_to_read
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, out, print_json, print_table, reported_errors
from agentsys.errors import AgentsysError, ConfigurationError

if TYPE_CHECKING:
    from agentsys.blackboard.storage import CursorState


def _completed(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of subscriptions that begin with ``incomplete``."""
    try:
        with board_to_read(context.params.get("board")) as opened:
            return [one.name for one in opened.subscriptions() if one.name.startswith(incomplete)]
    except AgentsysError:
        return []


def subscriptions(board: BoardOption = None, as_json: JsonOption = False) -> None:
    """List the durable subscriptions: how far each has come, and what it asks for.

    What one has not handled is kept by compactions. `agentsys board unsubscribe` ends one that nobody uses any more.
    """
    with reported_errors(as_json=as_json), board_to_read(board) as opened:
        found = [_document(one, opened.head) for one in opened.subscriptions()]
        if as_json:
            print_json(found)
            return
        rows = [[one["name"], one["position"], one["behind"], _asked(one["predicate"])] for one in found]
        print_table(["subscription", "handled up to", "commits since", "asks for"], rows)


def unsubscribe(
    name: Annotated[str, typer.Argument(help="The subscription.", autocompletion=_completed)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a durable subscription, so that compactions keep nothing for it. One made anew begins elsewhere."""
    with reported_errors(as_json=as_json):
        from agentsys.blackboard.board import Board
        from agentsys.views.texts import count_text

        with board_to_read(board) as opened:
            ended = {one.name: _document(one, opened.head) for one in opened.subscriptions()}.get(name)
        if ended is None:
            raise ConfigurationError(
                f"The board has no subscription {name}.", remedy="`agentsys board subscriptions` lists them."
            )
        if not yes:
            left = f"{count_text(ended['behind'], 'commit')} since"
            typer.confirm(f"{name} has handled commit {ended['position']:,}, {left}. End it?", abort=True, err=True)
        settings = settings_with(board_path=board).board
        with Board.open(settings.location, durability=settings.durability) as writable:
            writable.unsubscribe(name)
        if as_json:
            print_json(ended)
        else:
            out.print(f"ended subscription {name}", highlight=False, markup=False)


def _document(one: CursorState, head: int) -> dict[str, Any]:
    return {
        "name": one.name,
        "position": one.position,
        "behind": head - one.position,
        "predicate": one.predicate.to_json(),
    }


def _asked(predicate: dict[str, Any]) -> str:
    return ", ".join(f"{what} {value}" for what, value in predicate.items()) or "everything"

"""``agentsys board erase``: let values go for good, in every version, and keep what proves the rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentsys.blackboard.board import Board
    from agentsys.blackboard.entries import Key
    from agentsys.blackboard.erasure import Erased


def erase(
    topic: Annotated[str | None, typer.Argument(help="Topic of the entries.")] = None,
    key: Annotated[str | None, typer.Argument(help="Key of one entry.")] = None,
    shaped_by: Annotated[
        str | None, typer.Option(metavar="PRINCIPAL", help="Only what this one shaped, as labels tell.")
    ] = None,
    derived: Annotated[bool, typer.Option("--derived", help="Also what was derived from it, step by step.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record. It stays.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase what entries hold and held, for good. The log keeps who wrote what when, and proves the rest.

    Copies outside of the board (exports, backups, logs of the database) are not reached.
    """
    with reported_errors(as_json=as_json):
        from agentsys.blackboard.board import Board

        if topic is None and shaped_by is None:
            raise ConfigurationError(
                "It is not said what to erase.", remedy="Name a topic, a topic and a key, or --shaped-by PRINCIPAL."
            )
        settings = settings_with(board_path=board).board
        with Board.open_read_only(settings.location) as opened:
            found = _found(opened, topic, key, shaped_by, derived=derived)
        if dry_run:
            if as_json:
                print_json([{"topic": topic, "key": key} for topic, key in found])
            else:
                _print_counts(found, out)
            return
        if not found:
            _report(None, as_json=as_json)
            return
        if not yes:
            _print_counts(found, err)
            typer.confirm("Erase this for good?", abort=True, err=True)
        with Board.open(settings.location, durability=settings.durability) as opened:
            _report(_erased(opened, found, reason), as_json=as_json)
            _shrink(opened)


def _found(board: Board, topic: str | None, key: str | None, shaped_by: str | None, *, derived: bool) -> list[Key]:
    from agentsys.blackboard.erasure import find
    from agentsys.blackboard.predicates import Predicate
    from agentsys.erasing import find_derived

    # No key holds a NUL, so none is between this one and the bound.
    where = Predicate(topic=topic, key_from=key, key_to=None if key is None else f"{key}\x01")
    return (find_derived if derived else find)(board, where, shaped_by=shaped_by)


def _erased(board: Board, found: Sequence[Key], reason: str) -> Erased:
    from agentsys.blackboard.erasure import erase as erase_values

    columns = (TextColumn("erasing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("erasing", total=len(found))
        return erase_values(board, found, reason, progress=lambda done: bar.update(task, completed=done))


def _shrink(board: Board) -> None:
    """Let go of what the file holds of erased values where nothing is stored any more."""
    from agentsys.blackboard.shrinking import NoFileToShrink

    try:
        with err.status("writing the file anew"):
            board.shrink()
    except NoFileToShrink:
        err.print("PostgreSQL keeps traces until its tables are vacuumed, and in its logs as long as those are kept.")


def _print_counts(found: Sequence[Key], console: Console) -> None:
    counts = Counter(topic for topic, _ in found)
    print_table(["topic", "entries"], [[topic, count] for topic, count in sorted(counts.items())], console=console)


def _report(erased: Erased | None, *, as_json: bool) -> None:
    if as_json:
        values, entries, commit = (0, 0, None) if erased is None else (erased.values, erased.entries, erased.seq)
        print_json({"entries": entries, "values": values, "commit": commit})
        return
    if erased is None:
        out.print("there is nothing to erase")
        return
    from agentsys.views.texts import count_text

    what = f"{count_text(erased.values, 'value')} of {count_text(erased.entries, 'entry', 'entries')}"
    out.print(f"erased {what}, on record in commit {erased.seq:,}", highlight=False)

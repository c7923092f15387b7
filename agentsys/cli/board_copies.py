"""``agentsys board export|import|backup|restore``: copies of a board, also while others write it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, out, print_json, reported_errors

if TYPE_CHECKING:
    from agentsys.blackboard.copies import Copied
    from agentsys.blackboard.portable import Progress as Told

HeadOption = Annotated[
    str | None, typer.Option("--head", metavar="HASH", help="Refuse a copy that does not end with this commit's hash.")
]
STREAM = "-"


def export(
    file: Annotated[str, typer.Argument(help=f"File to write; {STREAM} is stdout.")],
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the board, as it is now, to a portable file: lines of JSON with the hash of every commit."""
    from agentsys.blackboard.copies import export_board, export_to_stream

    with reported_errors(as_json=as_json), _shown("exporting") as told:
        location = settings_with(board_path=board).board.location
        if file == STREAM:
            if isinstance(sys.stdout, TextIOWrapper):
                # Whatever the terminal's encoding: an export is what its digest covers.
                sys.stdout.reconfigure(encoding="utf-8", newline="\n")
            export_to_stream(location, sys.stdout, told)
            return
        copied = export_board(location, Path(file), told)
    _report(f"exported to {file}", copied, as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="An export.")],
    board: BoardOption = None,
    head: HeadOption = None,
    check: Annotated[bool, typer.Option("--check", help="Only verify the file, as an import would.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new board from an export, in a file or in PostgreSQL, after verifying every commit of it."""
    from agentsys.blackboard.copies import check_export, import_board

    with reported_errors(as_json=as_json), _shown("verifying" if check else "importing") as told:
        if check:
            copied = check_export(file, told, head_hash=head)
        else:
            location = settings_with(board_path=board).board.location
            copied = import_board(file, location, told, head_hash=head)
    _report("verified" if check else "imported and verified", copied, as_json=as_json)


def backup(
    file: Annotated[Path, typer.Argument(help="File to write; an older backup there is replaced.")],
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the board's file while others write it, and verify the copy."""
    from agentsys.blackboard.copies import back_up

    with reported_errors(as_json=as_json), _shown("copying") as told:
        copied = back_up(settings_with(board_path=board).board.location, file, told)
    _report(f"backed up to {file} and verified", copied, as_json=as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    board: BoardOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put a board that is there aside, as FILE.replaced.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Verify a backup and put it in the board's place, while nobody has that open for writing."""
    from agentsys.blackboard.copies import restore as restored

    with reported_errors(as_json=as_json), _shown("restoring") as told:
        location = settings_with(board_path=board).board.location
        copied = restored(file, location, told, replace_existing=replace)
    _report("verified and restored", copied, as_json=as_json)


@contextmanager
def _shown(what: str) -> Iterator[Told]:
    """Show progress on stderr, where somebody looks."""
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _report(what: str, copied: Copied, *, as_json: bool) -> None:
    if as_json:
        print_json({"commits": copied.commits, "head_hash": copied.head_hash, "bytes": copied.size})
        return
    from agentsys.views.texts import count_text

    size = f", {copied.size / 2**20:,.1f} MiB" if copied.size else ""
    out.print(f"{what}: {count_text(copied.commits, 'commit')}{size}, ending with {copied.head_hash}", highlight=False)

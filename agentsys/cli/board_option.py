"""The option ``--board``, what it opens, and what the shell offers for it: folders, files, the boards in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentsys.cli.composition import settings_with

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board

SQLITE: Final = b"SQLite format 3\0"
"""How such a file begins."""


def board_to_read(location: str | None) -> Board:
    """Open the board that the option names, or else the settings, to read it while others may write."""
    from agentsys.blackboard.board import Board

    return Board.open_read_only(settings_with(board_path=location).board.location)


def board_to_write(location: str | None) -> Board:
    """Open the board that the option names, or else the settings, as durable as these say.

    To ask for more would have the process that leads its file be so for as long as it leads.
    """
    from agentsys.blackboard.board import Board

    settings = settings_with(board_path=location).board
    return Board.open(settings.location, durability=settings.durability)


def completed_board(incomplete: str) -> list[str]:
    """Return the places of boards in files that begin with ``incomplete``."""
    from agentsys.blackboard.places import MARK, FilePlace
    from agentsys.blackboard.sqlite import boards_in
    from agentsys.errors import BoardError

    name, mark, _ = incomplete.partition(MARK)
    found: list[str] = []
    for path in sorted(_beginning_with(Path(name), name.endswith("/"))):
        if path.is_dir():
            found.append(f"{path}/")
            continue
        try:
            places = [str(FilePlace(path, board)) for board in boards_in(path)] if _is_sqlite(path) else []
        except BoardError:
            continue
        found += [place for place in places if place.startswith(incomplete)]
    return [place for place in found if not mark or MARK in place]


def _beginning_with(path: Path, is_folder: bool) -> list[Path]:
    folder, name = (path, "") if is_folder else (path.parent, path.name)
    return [item for item in folder.iterdir() if item.name.startswith(name)] if folder.is_dir() else []


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except OSError:
        return False


BoardOption = Annotated[
    str | None,
    typer.Option(
        "--board", help="The board: a file, FILE?board=NAME, or postgresql://…", autocompletion=completed_board
    ),
]

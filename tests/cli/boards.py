"""What tests of ``agentsys board`` share: a board with commits, and the command."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from agentsys.blackboard.board import Board
from agentsys.cli.app import app


def write(location: Path | str, commits: int) -> None:
    """Commit versions of one entry to the board at ``location``."""
    with Board.open(location) as board:
        for number in range(commits):
            tx = board.begin("ann")
            tx.put("t", "k", number, type="item")
            board.commit(tx)


def run(*arguments: object, typed: str | None = None) -> Result:
    """Run ``agentsys board``; ``typed`` is what a person answers."""
    return CliRunner().invoke(app, ["board", *map(str, arguments)], input=typed)

"""``agentsys board drop``: let a board go for good, with its log."""

from __future__ import annotations

from typing import Annotated

import typer

from agentsys.cli.board_option import board_to_read, completed_board
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, out, print_json, reported_errors


def drop(
    board: Annotated[
        str,
        typer.Argument(help="The board: a file, FILE?board=NAME, or postgresql://…", autocompletion=completed_board),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop a board with all that it holds, while nobody has it open for writing. Other boards beside it stay.

    Copies (exports, backups) are not reached. A file goes with the last board in it.
    """
    with reported_errors(as_json=as_json):
        from agentsys.blackboard.dropping import drop_board
        from agentsys.views.texts import count_text

        if not yes:
            with board_to_read(board) as opened:
                commits = opened.head
            typer.confirm(f"It holds {count_text(commits, 'commit')}. Drop it for good?", abort=True, err=True)
        dropped = drop_board(settings_with(board_path=board).board.location)
        if dropped.kept_space is not None:
            err.print(f"Its space is free for the boards beside it, but still taken: {dropped.kept_space}")
        state = dropped.state
        if as_json:
            print_json({"head": state.head, "head_hash": state.head_hash, "space_given_back": not dropped.kept_space})
        else:
            out.print(f"dropped {count_text(state.head, 'commit')}, ending with {state.head_hash}", highlight=False)

"""The board that the pages read, shared by all browsers."""

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from tempfile import mkdtemp
from typing import Final

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.storage import BoardMissing
from agentsys.errors import AgentsysError
from agentsys.settings import load_settings
from agentsys.ui.boards import RECORDED, BoardTrouble, board_identity, empty_board, trouble_of
from agentsys.ui.screens.widgets import draw_trouble

REFRESH_SECONDS: Final = 1.0
"""How often a page looks for new commits."""


def draw_with_board(draw: Callable[[Board], None]) -> None:
    """Call ``draw`` with the board of the settings.

    Where it is missing or empty, say so and call ``draw`` with the recorded board of the package.
    """
    try:
        path = load_settings().settings.board.path
        board = _opened(*board_identity(path))
        if board.head == 0:
            _draw_recorded(empty_board(path), draw)
        else:
            draw(board)
    except BoardMissing as error:
        _draw_recorded(trouble_of(error), draw)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))


def _draw_recorded(trouble: BoardTrouble, draw: Callable[[Board], None]) -> None:
    draw_trouble(trouble)
    st.warning("Until then: a recorded run, which came with the package.", icon=":material/history:")
    try:
        draw(_recorded())
    except AgentsysError as error:
        draw_trouble(trouble_of(error))


# A copy: reading writes files next to the board, and the package's folder may be read-only.
@st.cache_resource(show_spinner=False)
def _recorded() -> Board:
    copy = Path(mkdtemp(prefix="agentsys-recorded-")) / RECORDED.name
    copyfile(RECORDED, copy)
    return Board.open_read_only(copy)


# Errors are not kept: the next look may find a board.
@st.cache_resource(max_entries=4, show_spinner=False, on_release=Board.close)
def _opened(path: str, inode: int) -> Board:
    return Board.open_read_only(path)

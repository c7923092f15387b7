"""The board that the pages read, shared by all browsers."""

from collections.abc import Callable
from typing import Final

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.errors import AgentsysError
from agentsys.settings import load_settings
from agentsys.ui.boards import board_identity, empty_board, trouble_of
from agentsys.ui.screens.widgets import draw_trouble

REFRESH_SECONDS: Final = 1.0
"""How often a page looks for new commits."""


def draw_with_board(draw: Callable[[Board], None]) -> None:
    """Call ``draw`` with the board of the settings, or say why there is none, or that it is empty."""
    try:
        path = load_settings().settings.board.path
        board = _opened(*board_identity(path))
        if board.head == 0:
            draw_trouble(empty_board(path))
        else:
            draw(board)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))


# Errors are not kept: the next look may find a board.
@st.cache_resource(max_entries=4, show_spinner=False, on_release=Board.close)
def _opened(path: str, inode: int) -> Board:
    return Board.open_read_only(path)

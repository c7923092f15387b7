"""The board that the pages read, shared by all browsers."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.errors import AgentsysError
from agentsys.settings import load_settings
from agentsys.ui.boards import BoardTrouble, board_identity, empty_board, open_board, trouble_of
from agentsys.ui.screens.widgets import draw_trouble

REFRESH_SECONDS: Final = 1.0
"""How often a page looks for new commits."""


def draw_with_board(draw: Callable[[Board], None]) -> None:
    """Call ``draw`` with the board of the settings, or say why there is none, or that it is empty."""
    try:
        path = load_settings().settings.board.path
        opened = _open(*board_identity(path))
        if isinstance(opened, BoardTrouble):
            # Not kept: the next look may find a board.
            _open.clear(*board_identity(path))
            draw_trouble(opened)
        elif opened.head == 0:
            draw_trouble(empty_board(path))
        else:
            draw(opened)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: str, inode: int) -> Board | BoardTrouble:
    return open_board(Path(path))

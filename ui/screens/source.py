"""The board that the pages show: the server's own or, until that has a commit, the recorded one that came with it."""

from collections.abc import Callable
from typing import Final

import streamlit as st

from agentsys.errors import AgentsysError
from agentsys.protocols.http.client import RuntimeClient
from agentsys.ui.boards import empty_board, trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.screens.widgets import draw_trouble
from agentsys.ui.snapshot import Snapshot

REFRESH_SECONDS: Final = 1.0
"""How often a page looks for new commits."""


def draw_with_snapshot(draw: Callable[[Snapshot], None]) -> None:
    """Call ``draw`` with the newest state of the board; where there is none, say why."""
    try:
        client = connect()
        snapshot = Snapshot.newest(client.views)
        if snapshot.head:
            draw(snapshot)
        else:
            _draw_recorded(client, draw)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))


def _draw_recorded(client: RuntimeClient, draw: Callable[[Snapshot], None]) -> None:
    draw_trouble(empty_board(client.url))
    try:
        recorded = Snapshot.newest(client.recorded, recorded=True)
    except AgentsysError:
        st.caption("This server has no recorded run to show until then.")
        return
    st.warning("Until then: a recorded run, which came with the package.", icon=":material/history:")
    draw(recorded)

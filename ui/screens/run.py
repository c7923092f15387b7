"""The page of one run, ``?run=ID``."""

import streamlit as st

from agentsys.ui.screens.addresses import BLACKBOARD_PAGE, RUNS_PAGE
from agentsys.ui.screens.run_detail import draw_run
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_board
from agentsys.views.run_view import load_run


def draw_page() -> None:
    """Draw the run of the URL."""
    run = st.query_params.get("run", "")
    with st.container(horizontal=True):
        st.page_link(RUNS_PAGE, label="All runs", icon=":material/arrow_back:")
        st.page_link(BLACKBOARD_PAGE, label="Its commits", icon=":material/history:", query_params={"run": run})
    _live_run(run)


@st.fragment(run_every=REFRESH_SECONDS)
def _live_run(run: str) -> None:
    draw_with_board(lambda board: draw_run(load_run(board, run)))


if __name__ == "__main__":
    draw_page()

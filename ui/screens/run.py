"""The page of one run, ``?run=ID``; ``&step=TOPIC/KEY`` shows one of its steps in full."""

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.ui.screens.addresses import BLACKBOARD_PAGE, RUNS_PAGE
from agentsys.ui.screens.run_detail import draw_run
from agentsys.ui.screens.run_graph import draw_graph
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_board
from agentsys.views.run_view import load_run


def draw_page() -> None:
    """Draw the run of the URL."""
    run = st.query_params.get("run", "")
    with st.container(horizontal=True):
        st.page_link(RUNS_PAGE, label="All runs", icon=":material/arrow_back:")
        st.page_link(BLACKBOARD_PAGE, label="Its commits", icon=":material/history:", query_params={"run": run})
    step = st.text_input("Step", key="step", bind="query-params", placeholder="none in full")
    _live_run(run, (step or "").strip() or None)


@st.fragment(run_every=REFRESH_SECONDS)
def _live_run(run: str, step: str | None) -> None:
    def draw(board: Board) -> None:
        draw_run(load_run(board, run))
        draw_graph(board, run, step)

    draw_with_board(draw)


if __name__ == "__main__":
    draw_page()

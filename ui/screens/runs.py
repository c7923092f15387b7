"""The page of all runs."""

import time
from typing import Final

import streamlit as st

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER
from agentsys.ui.formatting import Chip, age_text, count_text, duration_text, escape_markdown, label_chips
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_board
from agentsys.ui.screens.widgets import draw_chips, status_chip
from agentsys.views.run_list import RunRow, newest_runs

FIRST_RUNS: Final = 20
SHOWN_RUNS: Final = "shown_runs"


def draw_page() -> None:
    """Draw the newest runs, each a link to its own page."""
    st.header("Runs", anchor=False)
    _live_list()


@st.fragment(run_every=REFRESH_SECONDS)
def _live_list() -> None:
    draw_with_board(_draw_list)


def _draw_list(board: Board) -> None:
    limit = st.session_state.get(SHOWN_RUNS, FIRST_RUNS)
    found = newest_runs(board, limit, reader=OWNER)
    st.caption(f"{count_text(found.total, 'run')} · up to date at commit {board.head:,}")
    for row in found.rows:
        _draw_row(row)
    if found.total > limit:
        st.button("Show more", key="more_runs", on_click=_show_more)


def _show_more() -> None:
    st.session_state[SHOWN_RUNS] = st.session_state.get(SHOWN_RUNS, FIRST_RUNS) + FIRST_RUNS


def _draw_row(row: RunRow) -> None:
    now = time.time()
    with st.container(border=True, gap="xsmall"):
        st.page_link(RUN_PAGE, label=escape_markdown(row.summary), query_params={"run": row.run})
        facts = [row.workflow, age_text(row.started, now), duration_text(row.seconds(now))]
        if row.tokens is not None:
            facts.append(count_text(row.tokens, "token"))
        draw_chips([status_chip(row.status), *(Chip(fact, "gray") for fact in facts), *label_chips(row.label)])


if __name__ == "__main__":
    draw_page()

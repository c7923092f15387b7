"""The page of all runs; ``?status=``, ``?workflow=`` and ``?search=`` say which."""

import time
from dataclasses import dataclass
from typing import Final, get_args

import streamlit as st

from agentsys.errors import AgentsysError
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, age_text, duration_text, escape_markdown, label_chips
from agentsys.ui.screens.actions import draw_cancel
from agentsys.ui.screens.addresses import APPROVALS_PAGE, RUN_PAGE
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_snapshot
from agentsys.ui.screens.widgets import draw_chips, status_chip
from agentsys.ui.snapshot import Snapshot
from agentsys.views.run_list import RunList, RunRow, RunState
from agentsys.views.texts import count_text

FIRST_RUNS: Final = 12
MOST_RUNS: Final = 1000
SHOWN_RUNS: Final = "shown_runs"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the filters ask for; ``None`` and the empty text ask for nothing."""

    status: RunState | None
    workflow: str | None
    search: str


def draw_page() -> None:
    """Draw the filters and the newest runs, each a link to its own page."""
    st.header("Runs", anchor=False)
    _live_list(_filters())


def _filters() -> Wanted:
    of_status, of_workflow, of_text = st.columns([1, 1, 2])
    status = of_status.selectbox(
        "Status", get_args(RunState), index=None, placeholder="any", key="status", bind="query-params"
    )
    workflow = of_workflow.selectbox(
        "Workflow",
        _workflows(),
        index=None,
        placeholder="any",
        key="workflow",
        bind="query-params",
        accept_new_options=True,
    )
    search = of_text.text_input("Search", key="search", bind="query-params", placeholder="a question, or a run's name")
    return Wanted(status, workflow, (search or "").strip())


def _workflows() -> tuple[str, ...]:
    """Return what to choose from; any other name may be written."""
    try:
        snapshot = Snapshot.newest(connect().views)
        return snapshot.look(snapshot.views.runs, limit=1).workflows
    except AgentsysError:
        return ()


@st.fragment(run_every=REFRESH_SECONDS)
def _live_list(wanted: Wanted) -> None:
    draw_with_snapshot(lambda snapshot: _draw_list(snapshot, wanted))


def _draw_list(snapshot: Snapshot, wanted: Wanted) -> None:
    limit = min(st.session_state.get(SHOWN_RUNS, FIRST_RUNS), MOST_RUNS)
    found: RunList = snapshot.look(
        snapshot.views.runs, status=wanted.status, workflow=wanted.workflow, search=wanted.search, limit=limit
    )
    st.caption(f"{count_text(found.total, 'run')} · up to date at commit {snapshot.head:,}")
    for row in found.rows:
        _draw_row(row, snapshot)
    if found.total > limit:
        command = f"`agentsys runs list --limit {limit + FIRST_RUNS}`"
        st.button("Show more", key="more_runs", on_click=_show_more, help=command)


def _show_more() -> None:
    st.session_state[SHOWN_RUNS] = st.session_state.get(SHOWN_RUNS, FIRST_RUNS) + FIRST_RUNS


def _draw_row(row: RunRow, snapshot: Snapshot) -> None:
    asks, runs = row.waiting and not snapshot.recorded, row.status == "running" and not snapshot.recorded
    with st.container(border=True, gap="xsmall"):
        if not (asks or runs):
            # Most rows: without the containers of the others, the page is there sooner.
            _draw_summary(row)
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            with st.container(gap="xsmall"):
                _draw_summary(row)
            if asks:
                st.page_link(APPROVALS_PAGE, label=count_text(row.waiting, "approval"), icon=":material/front_hand:")
            if runs:
                draw_cancel(row.run)


def _draw_summary(row: RunRow) -> None:
    now = time.time()
    title = row.summary or ("withheld" if row.withheld else "no input")
    st.page_link(RUN_PAGE, label=escape_markdown(title), query_params={"run": row.run})
    facts = [row.workflow, age_text(row.started, now), duration_text(row.seconds(now))]
    if row.tokens is not None:
        facts.append(count_text(row.tokens, "token"))
    draw_chips([status_chip(row.state), *(Chip(fact, "gray") for fact in facts), *label_chips(row.label)])


if __name__ == "__main__":
    draw_page()

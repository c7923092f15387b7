"""The page of the board: its commits and conflicts, or its entries (``?show=Entries``), now or ``?at=N``.

``?run=ID`` shows those of one run, ``?search=TEXT`` those that hold a text, ``?commit=N`` one commit in full, and
``?topic=TOPIC&key=KEY`` one entry in all its versions.
"""

import time
from typing import Final

import streamlit as st

from agentsys.ui.board_lines import Arrivals, board_lines, line_cells, markdown_table
from agentsys.ui.formatting import clock_text, escape_markdown
from agentsys.ui.screens.commit_detail import draw_commit
from agentsys.ui.screens.entries import draw_entries
from agentsys.ui.screens.scrubber import draw_scrubber
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_snapshot
from agentsys.ui.snapshot import Snapshot
from agentsys.views.texts import count_text

COMMITS: Final = "Commits"
ENTRIES: Final = "Entries"
SHOWN_COMMITS: Final = 60
SHOWN_CONFLICTS: Final = 60
ARRIVALS: Final = "arrivals"


def draw_page() -> None:
    """Draw the filters, the slider over the commits, and what the URL asks for."""
    st.header("Blackboard", anchor=False)
    of_run, of_text, of_commit = st.columns(3)
    run = of_run.text_input("Run", key="run", bind="query-params", placeholder="all runs")
    search = of_text.text_input("Search", key="search", bind="query-params", placeholder="a name, or part of a value")
    commit = of_commit.number_input(
        "Commit", min_value=1, value=None, step=1, key="commit", bind="query-params", placeholder="none in full"
    )
    shown = st.segmented_control(
        "Shown",
        (COMMITS, ENTRIES),
        default=ENTRIES if "topic" in st.query_params else COMMITS,
        required=True,
        key="show",
        bind="query-params",
        label_visibility="collapsed",
    )
    _live_board((run or "").strip() or None, (search or "").strip(), commit, shown)


@st.fragment(run_every=REFRESH_SECONDS)
def _live_board(run: str | None, search: str, commit: int | None, shown: str) -> None:
    def draw(snapshot: Snapshot) -> None:
        at = draw_scrubber(range(1, snapshot.head + 1))
        if commit is not None:
            draw_commit(snapshot, commit)
        if shown == ENTRIES:
            draw_entries(snapshot, run, search, at)
        else:
            _draw_commits(snapshot, run, search, at)

    draw_with_snapshot(draw)


def _draw_commits(snapshot: Snapshot, run: str | None, search: str, at: int | None) -> None:
    views, before = snapshot.views, None if at is None else at + 1
    commits = snapshot.look(views.commits, run=run, before=before, search=search, limit=SHOWN_COMMITS)
    conflicts = () if search else snapshot.look(views.conflicts, run=run, at=at, limit=SHOWN_CONFLICTS)
    arrivals = st.session_state.setdefault(ARRIVALS, Arrivals())
    arrivals.note(snapshot.head, time.monotonic())
    stands = f"as of commit {at:,}" if at else f"up to date at commit {snapshot.head:,}"
    of_run = f" of run {run}" if run else ""
    st.caption(escape_markdown(f"The newest {count_text(len(commits), 'commit')}{of_run} · {stands}"))
    rows = [
        line_cells(line, clock_text(line.at), new=arrivals.is_new(line.seq)) for line in board_lines(commits, conflicts)
    ]
    if rows:
        st.markdown(markdown_table(["commit", "at", "writer", "wrote", "label"], rows))
    else:
        st.info("No commit is like that.", icon=":material/search_off:")


if __name__ == "__main__":
    draw_page()

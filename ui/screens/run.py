"""The page of one run, ``?run=ID``: its result, its graph, its timeline, and where its values came from.

``&step=TOPIC/KEY`` shows one step in full, ``&at=N`` the graph as it was after a commit, and
``&view=Provenance&topic=TOPIC&key=KEY`` the provenance of one value.
"""

from typing import Final

import streamlit as st

from agentsys.ui.screens.actions import draw_cancel
from agentsys.ui.screens.addresses import BLACKBOARD_PAGE, RUNS_PAGE
from agentsys.ui.screens.run_detail import draw_head, draw_run
from agentsys.ui.screens.run_graph import STEP, draw_graph
from agentsys.ui.screens.run_provenance import draw_provenance
from agentsys.ui.screens.run_timeline import draw_timeline
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_snapshot
from agentsys.ui.snapshot import Snapshot

RESULT: Final = "Result"
GRAPH: Final = "Graph"
TIMELINE: Final = "Timeline"
PROVENANCE: Final = "Provenance"


def draw_page() -> None:
    """Draw the run of the URL."""
    run = st.query_params.get("run", "")
    with st.container(horizontal=True):
        st.page_link(RUNS_PAGE, label="All runs", icon=":material/arrow_back:")
        st.page_link(BLACKBOARD_PAGE, label="Its commits", icon=":material/history:", query_params={"run": run})
    if not run:
        st.info("Choose a run from the list of all runs.", icon=":material/info:")
        return
    shown = st.segmented_control(
        "Shown",
        (RESULT, GRAPH, TIMELINE, PROVENANCE),
        default=_view_of_url(),
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    _live_run(run, shown)


def _view_of_url() -> str:
    """Return what a URL shows that names a step or a value and no view."""
    if STEP in st.query_params:
        return GRAPH
    return PROVENANCE if "topic" in st.query_params else RESULT


@st.fragment(run_every=REFRESH_SECONDS)
def _live_run(run: str, shown: str) -> None:
    def draw(snapshot: Snapshot) -> None:
        view = snapshot.look(snapshot.views.run, run)
        draw_head(view)
        if view.row.status == "running" and not snapshot.recorded:
            draw_cancel(run)
        if shown == GRAPH:
            draw_graph(snapshot, run)
        elif shown == PROVENANCE:
            draw_provenance(snapshot, run)
        elif shown == TIMELINE:
            draw_timeline(snapshot, run)
        else:
            draw_run(view)

    draw_with_snapshot(draw)


if __name__ == "__main__":
    draw_page()

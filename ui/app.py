"""Entry script of the console; ``agentsys console`` runs it with Streamlit."""

from pathlib import Path

import streamlit as st

from agentsys.ui.screens.addresses import (
    APPROVALS_PAGE,
    ASK_PAGE,
    BLACKBOARD_PAGE,
    RUN_PAGE,
    RUNS_PAGE,
    SERVING_PAGE,
)


def main() -> None:
    """Draw the frame and the page of the URL."""
    # A file: the browser would fetch a named icon or an emoji from a foreign server.
    st.set_page_config(page_title="agentsys", page_icon=Path(__file__).with_name("favicon.svg"), layout="wide")
    pages = [
        st.Page(RUNS_PAGE, title="Runs", icon=":material/play_circle:", default=True),
        st.Page(ASK_PAGE, title="Ask", icon=":material/forum:", url_path="ask"),
        st.Page(APPROVALS_PAGE, title="Approvals", icon=":material/front_hand:", url_path="approvals"),
        # A page of its own: a link that changes only the parameters of the page it stands on leaves the URL as it was.
        st.Page(RUN_PAGE, title="Run", url_path="run", visibility="hidden"),
        st.Page(BLACKBOARD_PAGE, title="Blackboard", icon=":material/view_list:", url_path="blackboard"),
        st.Page(SERVING_PAGE, title="Serving", icon=":material/speed:", url_path="serving"),
    ]
    st.navigation(pages, position="top").run()


if __name__ == "__main__":
    main()

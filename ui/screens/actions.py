"""Buttons that change something on the server. Each names the command that does the same."""

import streamlit as st

from agentsys.errors import AgentsysError
from agentsys.ui.connection import connect
from agentsys.ui.formatting import escape_markdown


def draw_cancel(run: str) -> None:
    """Draw the button that ends a run for good."""
    st.button(
        "Cancel",
        icon=":material/cancel:",
        key=f"cancel_{run}",
        help=f"`agentsys runs cancel {escape_markdown(run)}`",
        on_click=_cancel,
        args=(run,),
    )


def _cancel(run: str) -> None:
    try:
        connect().cancel(run)
    except AgentsysError as error:
        st.toast(escape_markdown(f"{error.code}: {error.message}"), icon=":material/error:")

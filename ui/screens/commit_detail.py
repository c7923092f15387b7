"""One commit in full."""

import streamlit as st

from agentsys.ui.formatting import Chip, clock_text, escape_markdown
from agentsys.ui.screens.widgets import draw_chips, draw_entry_value, draw_label
from agentsys.ui.snapshot import Snapshot
from agentsys.views.commit_list import CommitView
from agentsys.views.entries import EntryView


def draw_commit(snapshot: Snapshot, seq: int) -> None:
    """Draw what a commit wrote, or say that the board has no such commit."""
    if seq > snapshot.head:
        st.warning(f"The board has commits 1 to {snapshot.head:,}, not {seq:,}.", icon=":material/warning:")
        return
    with st.container(border=True):
        _draw_found(snapshot.look(snapshot.views.commit, seq))


def _draw_found(view: CommitView) -> None:
    row = view.row
    st.markdown(f"##### Commit {row.seq:,} by {escape_markdown(row.writer)}")
    run = f"run {row.run}" if row.run else "no run"
    facts = [clock_text(row.at), run, f"read commit {view.snapshot:,}", view.isolation]
    draw_chips(Chip(fact, "gray") for fact in facts)
    for entry in view.entries:
        named = f"{entry.type} {entry.topic} / {entry.key} v{entry.version}"
        with st.expander(escape_markdown(named), expanded=len(view.entries) == 1):
            draw_version(entry)
    if not view.entries:
        st.text(", ".join(row.wrote) or "Only a subscription's position moved.")
    st.caption(f"hash {view.hash[:16]} after {view.previous_hash[:16] or 'none'}")


def draw_version(entry: EntryView) -> None:
    """Draw the label, value and sources of one version of an entry."""
    draw_label(entry.label)
    draw_entry_value(entry)
    if entry.endorsement is not None:
        endorsed = f"{entry.endorsement.by} lowered the label: {entry.endorsement.reason}"
        st.caption(escape_markdown(endorsed))
    if entry.derived_from:
        sources = [f"{ref.topic} / {ref.key} v{ref.version}" for ref in entry.derived_from]
        st.caption("Derived from " + escape_markdown(", ".join(sources)))

"""The page of the board's commits; ``?run=ID`` shows those of one run, ``?commit=N`` one commit in full.

``?at=N`` shows the entries as they stood after commit N.
"""

from datetime import datetime
from typing import Final

import streamlit as st

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import OWNER
from agentsys.blackboard.predicates import Predicate
from agentsys.ui.formatting import Chip, count_text, escape_markdown, label_text
from agentsys.ui.screens.source import REFRESH_SECONDS, draw_with_board
from agentsys.ui.screens.widgets import draw_chips, draw_label, draw_table, draw_value
from agentsys.views.commit_list import CommitRow, CommitView, find_commit, newest_commits
from agentsys.views.texts import shorten, value_text

SHOWN_COMMITS: Final = 200
SHOWN_ENTRIES: Final = 200


def draw_page() -> None:
    """Draw the filters, the chosen commit and the newest commits."""
    st.header("Blackboard", anchor=False)
    of_run, of_commit = st.columns(2)
    run = of_run.text_input("Run", key="run", bind="query-params", placeholder="all runs")
    commit = of_commit.number_input(
        "Commit", min_value=1, value=None, step=1, key="commit", bind="query-params", placeholder="none in full"
    )
    at = st.number_input(
        "Entries as of commit", min_value=1, value=None, step=1, key="at", bind="query-params", placeholder="not shown"
    )
    _live_commits((run or "").strip() or None, commit, at)


@st.fragment(run_every=REFRESH_SECONDS)
def _live_commits(run: str | None, commit: int | None, at: int | None) -> None:
    def draw(board: Board) -> None:
        if commit is not None:
            _draw_commit(board, commit)
        if at is not None:
            _draw_entries(board, run, at)
        rows = newest_commits(board, SHOWN_COMMITS, run, reader=OWNER)
        of_run = f" of run {run}" if run else ""
        st.caption(
            escape_markdown(
                f"The newest {count_text(len(rows), 'commit')}{of_run} · up to date at commit {board.head:,}"
            )
        )
        draw_table([_cells(row) for row in rows])

    draw_with_board(draw)


def _draw_entries(board: Board, run: str | None, at: int) -> None:
    if at > board.head:
        st.warning(f"The board has commits 1 to {board.head:,}, not {at:,}.", icon=":material/warning:")
        return
    prefix = f"{topics.RESERVED_PREFIX}{run}/" if run else ""
    found = board.query(Predicate(topic_prefix=prefix), at=at, limit=SHOWN_ENTRIES + 1)
    more = " and more, not shown" if len(found) > SHOWN_ENTRIES else ""
    shown = found[:SHOWN_ENTRIES]
    st.caption(f"{len(shown):,} {'entry' if len(shown) == 1 else 'entries'}{more} after commit {at:,}")
    draw_table([_entry_cells(entry) for entry in shown])


def _entry_cells(entry: Entry) -> dict[str, object]:
    return {
        "topic": entry.topic,
        "key": entry.key,
        "version": entry.version,
        "commit": entry.seq,
        "value": shorten(value_text(entry.value)),
        "label": label_text(entry.label),
    }


def _cells(row: CommitRow) -> dict[str, object]:
    return {
        "commit": row.seq,
        "at": _time(row.at),
        "writer": row.writer,
        "run": row.run,
        "wrote": ", ".join(row.wrote),
        "topics": ", ".join(row.topics),
        "label": label_text(row.label) if row.label else "",
    }


def _draw_commit(board: Board, seq: int) -> None:
    view = find_commit(board, seq)
    if view is None:
        st.warning(f"The board has commits 1 to {board.head:,}, not {seq:,}.", icon=":material/warning:")
        return
    with st.container(border=True):
        _draw_found(view)


def _draw_found(view: CommitView) -> None:
    row = view.row
    st.markdown(f"##### Commit {row.seq:,} by {escape_markdown(row.writer)}")
    facts = [_time(row.at), f"run {row.run}" if row.run else "no run", f"read commit {view.snapshot:,}", view.isolation]
    draw_chips(Chip(fact, "gray") for fact in facts)
    for entry in view.entries:
        named = f"{entry.type} {entry.topic} / {entry.key} v{entry.version}"
        with st.expander(escape_markdown(named), expanded=len(view.entries) == 1):
            draw_label(entry.label)
            if entry.deleted:
                st.text("deleted")
            else:
                draw_value(entry.value)
            if entry.derived_from:
                sources = [f"{ref.topic} / {ref.key} v{ref.version}" for ref in entry.derived_from]
                st.caption("Derived from " + escape_markdown(", ".join(sources)))
    if not view.entries:
        st.text(", ".join(row.wrote) or "Only a subscription's position moved.")
    st.caption(f"hash {view.hash[:16]} after {view.previous_hash[:16] or 'none'}")


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")


if __name__ == "__main__":
    draw_page()

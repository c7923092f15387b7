"""The entries of the board, now or as of a commit, and one of them in all its versions."""

from typing import Final

import streamlit as st

from agentsys import topics
from agentsys.ui.board_lines import badge, markdown_table
from agentsys.ui.comparison import version_diff
from agentsys.ui.formatting import escape_markdown, label_chips
from agentsys.ui.lineage import link_parameters
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.commit_detail import draw_version
from agentsys.ui.snapshot import Snapshot
from agentsys.views.entries import EntryView
from agentsys.views.texts import shorten, value_text

SHOWN_ENTRIES: Final = 100
LONGEST_VALUE: Final = 60
ADDRESS: Final = ("topic", "key")


def draw_entries(snapshot: Snapshot, run: str | None, search: str, at: int | None) -> None:
    """Draw the entries as they stood after commit ``at``, those that it wrote marked, and the chosen one in full."""
    found = snapshot.look(snapshot.views.entries, run=run, at=at, search=search, limit=SHOWN_ENTRIES)
    more = " and more, not shown" if found.more else ""
    count = f"{len(found.entries):,} {'entry' if len(found.entries) == 1 else 'entries'}{more}"
    stands = snapshot.head if at is None else at
    st.caption(f"{count} after commit {stands:,}")
    if not found.entries:
        st.info("No entry is like that.", icon=":material/search_off:")
        return
    _draw_chosen(snapshot, found.entries)
    header = ["topic", "key", "commit", "value", "label"]
    st.markdown(markdown_table(header, [_cells(entry, run, marked=entry.seq == stands) for entry in found.entries]))


def _cells(entry: EntryView, run: str | None, *, marked: bool) -> list[str]:
    value = "withheld" if entry.withheld else shorten(value_text(entry.value), LONGEST_VALUE)
    # The run is named above the table, and long topics push the labels out of it.
    topic = entry.topic.removeprefix(f"{topics.RESERVED_PREFIX}{run}/") if run else entry.topic
    version = f" (v{entry.version})" if entry.version > 1 else ""
    cells = [topic, entry.key, f"{entry.seq:,}{version}", value]
    mark = ":green-badge[written here] " if marked else ""
    badges = " ".join(badge(chip) for chip in label_chips(entry.label)[:2])
    return [mark + escape_markdown(cells[0]), *map(escape_markdown, cells[1:]), badges]


def _draw_chosen(snapshot: Snapshot, listed: tuple[EntryView, ...]) -> None:
    asked = (st.query_params.get("topic", ""), st.query_params.get("key", ""))
    choices = list(dict.fromkeys([*([asked] if all(asked) else []), *((entry.topic, entry.key) for entry in listed)]))
    key = f"entry_{asked}"
    st.selectbox(
        "Entry in all its versions",
        choices,
        index=0 if all(asked) else None,
        format_func=" / ".join,
        placeholder="choose one",
        key=key,
        on_change=_choose,
        args=(key,),
    )
    if all(asked):
        _draw_versions(snapshot.look(snapshot.views.versions, *asked))


def _choose(key: str) -> None:
    chosen = st.session_state[key]
    for name, value in zip(ADDRESS, chosen or ("", ""), strict=True):
        if value:
            st.query_params[name] = value
        else:
            st.query_params.pop(name, None)


def _draw_versions(versions: tuple[EntryView, ...]) -> None:
    if not versions:
        st.warning("The board never had this entry.", icon=":material/warning:")
        return
    of_old, of_new = st.columns(2)
    numbers = [entry.version for entry in versions]
    newest = len(versions) - 1
    old = of_old.selectbox("Version", numbers, index=max(0, newest - 1), key=f"old_{newest}")
    new = of_new.selectbox("Compared with", numbers, index=newest, key=f"new_{newest}")
    shown = {entry.version: entry for entry in versions}
    if old != new:
        st.code(version_diff(shown[old], shown[new]), language="diff", wrap_lines=True)
    with st.container(border=True):
        entry = shown[new]
        st.markdown(f"##### Version {entry.version}, commit {entry.seq:,} by {escape_markdown(entry.writer)}")
        draw_version(entry)
        if entry.run:
            where = link_parameters(entry.run, entry.topic, entry.key)
            st.page_link(RUN_PAGE, label="Its provenance", icon=":material/account_tree:", query_params=where)

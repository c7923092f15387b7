"""Pieces that several pages draw. What comes from the board is drawn as plain text or escaped, never as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import streamlit as st

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.ui.boards import BoardTrouble
from agentsys.ui.formatting import Chip, Tone, escape_markdown, label_chips
from agentsys.views.entries import EntryView
from agentsys.views.texts import value_text

_STATUS_TONES: Final[Mapping[str, Tone]] = {
    "done": "green",
    "running": "blue",
    "failed": "red",
    "approved": "green",
    "allowed": "green",
    "denied": "red",
    "modified": "green",
    "rejected": "red",
    "terminated": "red",
    "expired": "gray",
    "cancelled": "gray",
    "void": "gray",
}


def draw_chips(chips: Iterable[Chip]) -> None:
    """Draw chips side by side; they wrap on a narrow screen."""
    st.markdown(" ".join(f":{chip.tone}-badge[{escape_markdown(chip.text)}]" for chip in chips))


def draw_label(label: Label) -> None:
    draw_chips(label_chips(label))


def status_chip(status: str) -> Chip:
    return Chip(status, _STATUS_TONES.get(status, "orange"))


def draw_trouble(trouble: BoardTrouble) -> None:
    """Say why nothing can be shown and what to do."""
    code = f"{trouble.code}: " if trouble.code else ""
    st.info(escape_markdown(f"{code}{trouble.title} {trouble.remedy}"), icon=":material/info:")
    if trouble.command:
        st.code(trouble.command, language="bash")


def draw_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw rows as a table of plain cells, as high as it needs to be up to a screen."""
    st.dataframe(list(rows), hide_index=True, width="stretch", placeholder="")


def draw_section(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a titled table, and nothing where there are no rows."""
    if rows:
        st.markdown(f"##### {title}")
        draw_table(rows)


def draw_value(value: Json) -> None:
    """Draw objects and lists as a tree that folds, anything else as text."""
    if isinstance(value, dict | list):
        st.json(value, expanded=2)
    else:
        st.text(value_text(value))


def draw_entry_value(entry: EntryView) -> None:
    """Draw the value of a version, or why there is none to see."""
    if entry.withheld:
        st.text("withheld: its label lets others read it, not the owner")
    elif entry.deleted:
        st.text("deleted")
    else:
        draw_value(entry.value)

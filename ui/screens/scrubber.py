"""The slider that goes back to any commit, ``?at=N``; at its right end the page follows the board."""

from collections.abc import Sequence
from typing import Final

import streamlit as st

from agentsys.ui.scrubbing import nearest_commit, requested_commit

PARAMETER: Final = "at"


def draw_scrubber(commits: Sequence[int]) -> int | None:
    """Draw the slider over ``commits``, in ascending order.

    Return the commit it stands at, and ``None`` while it follows the board.
    """
    asked = requested_commit(st.query_params.get(PARAMETER))
    if len(commits) < 2:
        return None
    first, newest = commits[0], commits[-1]
    at = newest if asked is None else nearest_commit(commits, asked)
    if asked is not None and not first <= asked <= newest:
        st.warning(f"There are commits {first:,} to {newest:,} here, not {asked:,}.", icon=":material/warning:")
    # A key for each newest commit: a widget keeps the range it began with, and the board grows.
    key = f"scrubber_{newest}_{len(commits)}"
    moved = (key, newest)
    if isinstance(commits, range):
        st.slider("As of commit", first, newest, at, key=key, on_change=_move, args=moved)
    else:
        st.select_slider("As of commit", commits, at, key=key, on_change=_move, args=moved)
    return None if at == newest else at


def _move(key: str, newest: int) -> None:
    at = int(st.session_state[key])
    if at == newest:
        st.query_params.pop(PARAMETER, None)
    else:
        st.query_params[PARAMETER] = str(at)

"""The page of what waits for a person's word; ``?approval=ID`` shows one alone, decided or not."""

import json
import time
from typing import Any, Final

import streamlit as st

from agentsys.blackboard.labels import Label
from agentsys.errors import AgentsysError
from agentsys.protocols.http.approval_schemas import ApprovalDocument
from agentsys.ui.boards import trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, age_text, count_text, escape_markdown
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.widgets import draw_chips, draw_label, draw_section, draw_trouble, draw_value, status_chip
from agentsys.views.texts import shorten, value_text

REFRESH_SECONDS: Final = 1.0
SHOWN_DECIDED: Final = 50
REFUSED_WORD: Final = "approval_error"


def draw_page() -> None:
    """Draw what waits, each with its buttons, and what was decided."""
    st.header("Approvals", anchor=False)
    _live(st.query_params.get("approval"))


@st.fragment(run_every=REFRESH_SECONDS)
def _live(chosen: str | None) -> None:
    if isinstance(error := st.session_state.get(REFUSED_WORD), AgentsysError):
        draw_trouble(trouble_of(error))
    try:
        if chosen:
            _draw_approval(connect().approval(chosen))
            return
        found = connect().approvals()
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    waiting = [one for one in found if one.status == "pending"]
    st.caption(f"{count_text(len(waiting), 'approval')} waiting")
    if not waiting:
        st.info("Nobody waits for you.", icon=":material/check:")
    for one in waiting:
        _draw_approval(one)
    _draw_decided([one for one in reversed(found) if one.status != "pending"][:SHOWN_DECIDED])


def _draw_approval(asked: ApprovalDocument) -> None:
    with st.container(border=True):
        subject = asked.subject or "a question"
        said = f"wants to call {subject}" if asked.kind == "call" else f"asks: {subject}"
        st.markdown(f"##### {escape_markdown(f'{asked.agent} {said}')}")
        facts = [status_chip(asked.status), Chip(f"run {asked.run}", "gray"), Chip(f"rule {asked.rule}", "gray")]
        if asked.effect_class:
            facts.append(
                Chip(f"effect {asked.effect_class}", "orange" if asked.effect_class == "irreversible" else "gray")
            )
        draw_chips([*facts, Chip(age_text(asked.asked_at, time.time()), "gray")])
        if asked.withheld:
            st.warning("Its label keeps it from you, so you cannot decide it.", icon=":material/lock:")
        else:
            _draw_content(asked)
        draw_label(Label.from_json(asked.label.model_dump()))
        st.page_link(RUN_PAGE, label="Its run", icon=":material/account_tree:", query_params={"run": asked.run})
        if asked.status == "pending" and not asked.withheld:
            _draw_form(asked)


def _draw_content(asked: ApprovalDocument) -> None:
    if asked.kind == "call" or not isinstance(asked.arguments, str):
        draw_value(asked.arguments)
    if asked.reason:
        st.caption(f"Asked because {escape_markdown(asked.reason)}.")
    if asked.status in ("approved", "refused"):
        said = f"{asked.status} by {asked.decided_by}" + (f": {asked.note}" if asked.note else "")
        st.markdown(f"**{escape_markdown(said)}**")
        if asked.kind == "question" and asked.status == "approved":
            draw_value(asked.answer)


def _draw_form(asked: ApprovalDocument) -> None:
    with st.form(f"decide_{asked.id}", border=False):
        if asked.kind == "question":
            st.text_input("Answer", key=f"answer_{asked.id}", placeholder="Text, or JSON")
        st.text_input("Note", key=f"note_{asked.id}", placeholder="Why; it is kept with the decision")
        with st.container(horizontal=True):
            verb = "Approve" if asked.kind == "call" else "Answer"
            command = f"agentsys approvals approve {asked.id}" + (" --answer JSON" if asked.kind == "question" else "")
            st.form_submit_button(
                verb, type="primary", help=f"`{command}`", on_click=_decide, args=(asked.id, asked.kind, "approve")
            )
            st.form_submit_button(
                "Refuse",
                help=f"`agentsys approvals refuse {asked.id}`",
                on_click=_decide,
                args=(asked.id, asked.kind, "refuse"),
            )


def _decide(approval: str, kind: str, verdict: Any) -> None:
    note = str(st.session_state.get(f"note_{approval}", ""))
    answer = answer_of(str(st.session_state.get(f"answer_{approval}", ""))) if kind == "question" else None
    st.session_state[REFUSED_WORD] = None
    try:
        connect().decide(approval, verdict, note=note, answer=answer if verdict == "approve" else None)
    except AgentsysError as error:
        st.session_state[REFUSED_WORD] = error


def answer_of(text: str) -> Any:
    """Return what was typed as the JSON it is, and otherwise as the text that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _draw_decided(decided: list[ApprovalDocument]) -> None:
    draw_section(
        "Decided",
        [
            {
                "what": one.subject or "a question",
                "arguments": "withheld" if one.withheld else shorten(value_text(one.arguments)),
                "status": one.status,
                "by": one.decided_by or "",
                "note": one.note or "",
                "agent": one.agent,
                "run": one.run,
            }
            for one in decided
        ],
    )


if __name__ == "__main__":
    draw_page()

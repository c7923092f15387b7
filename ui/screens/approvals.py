"""The page of what waits for a person's word; ``?approval=ID`` shows one alone, decided or not."""

import json
import time
from typing import Any, Final, Literal

import streamlit as st

from agentsys.deciding import Verdict
from agentsys.errors import AgentsysError
from agentsys.ui.boards import trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, age_text, duration_text, escape_markdown, names_text
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.widgets import draw_chips, draw_label, draw_section, draw_trouble, draw_value, status_chip
from agentsys.views.approvals import ApprovalView, ArgumentView
from agentsys.views.texts import count_text, shorten, value_of, value_text

REFRESH_SECONDS: Final = 1.0
SHOWN_DECIDED: Final = 50
SHOWN_CHARACTERS: Final = 600
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
            _draw_approval(connect().approval(chosen), connect().health().principal)
            return
        found, reader = connect().approvals(), connect().health().principal
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    waiting = [one for one in found if one.status == "pending"]
    st.caption(f"{count_text(len(waiting), 'approval')} waiting")
    if not waiting:
        st.info("Nobody waits for you.", icon=":material/check:")
    for one in waiting:
        _draw_approval(one, reader)
    _draw_decided([one for one in reversed(found) if one.status != "pending"][:SHOWN_DECIDED])


def _draw_approval(asked: ApprovalView, reader: str) -> None:
    with st.container(border=True):
        st.markdown(f"##### {escape_markdown(_headline(asked))}")
        facts = [status_chip(asked.status), Chip(f"run {asked.run}", "gray"), Chip(f"rule {asked.rule}", "gray")]
        if asked.effect_class:
            facts.append(
                Chip(f"effect {asked.effect_class}", "orange" if asked.effect_class == "irreversible" else "gray")
            )
        draw_chips([*facts, Chip(age_text(asked.asked_at, time.time()), "gray"), *_bounds(asked)])
        if asked.withheld:
            st.warning("Its label keeps it from you, so you cannot decide it.", icon=":material/lock:")
        else:
            _draw_content(asked)
        st.page_link(RUN_PAGE, label="Its run", icon=":material/account_tree:", query_params={"run": asked.run})
        if asked.decidable_by(reader):
            _draw_form(asked, reader)


def _headline(asked: ApprovalView) -> str:
    if asked.kind == "call":
        return f"{asked.agent} wants to call {asked.tool}"
    wish = "asks" if asked.kind == "question" else "asks you to vouch for a value"
    return f"{asked.agent} {wish}"


def _bounds(asked: ApprovalView) -> list[Chip]:
    """Return until when it can be decided, and by whom."""
    who = Chip(f"for {asked.assigned or names_text(asked.approvers)} to decide", "gray")
    if asked.expires_at is None or asked.status != "pending":
        return [who]
    return [who, Chip(f"expires in {duration_text(asked.expires_at - time.time())}", "orange")]


def _draw_content(asked: ApprovalView) -> None:
    for argument in asked.shown:
        _draw_argument(argument)
    if asked.reason:
        st.caption(f"Asked because {escape_markdown(asked.reason)}.")
    for handed in asked.escalations:
        st.markdown(f"**{escape_markdown(_said(f'{handed.by} handed it to {handed.to}', handed.note))}**")
    if asked.decided_by is not None:
        st.markdown(f"**{escape_markdown(_said(f'{asked.status} by {asked.decided_by}', asked.note))}**")
        if asked.kind == "question" and asked.status == "approved":
            draw_value(asked.answer)


def _said(what: str, note: str) -> str:
    return f"{what}: {note}" if note else what


def _draw_argument(argument: ArgumentView) -> None:
    """Draw an argument as it is: in a box of plain text, beside who shaped it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{escape_markdown(argument.name)}**", width="content")
        draw_label(argument.label)
    st.code(shorten(argument.text, SHOWN_CHARACTERS), language=None, wrap_lines=True)
    if len(argument.text) > SHOWN_CHARACTERS:
        with st.expander(f"All {len(argument.text):,} characters"):
            st.code(argument.text, language=None, wrap_lines=True)
    if argument.warnings:
        st.warning(escape_markdown("; ".join(argument.warnings)), icon=":material/visibility:")
    if argument.edited is not None:
        st.caption("changed to")
        st.code(argument.edited, language=None, wrap_lines=True)


def _draw_form(asked: ApprovalView, reader: str) -> None:
    # Enter in a field would else press the first button, which approves.
    with st.form(f"decide_{asked.id}", border=False, enter_to_submit=False):
        if asked.kind == "question":
            st.text_input("Answer", key=f"answer_{asked.id}", placeholder="Text, or JSON")
        st.text_input("Note", key=f"note_{asked.id}", placeholder="Why; it is kept with the decision")
        with st.container(horizontal=True):
            _verdict(asked, "approve", "Answer" if asked.kind == "question" else "Approve", type="primary")
            _verdict(asked, "reject", "Reject")
            _verdict(asked, "terminate", "Terminate the run")
        if asked.kind != "question":
            with st.expander("Modify"):
                # What hides is written as escapes, which stand for the same.
                hides = any(argument.warnings for argument in asked.shown)
                text = json.dumps(asked.arguments, ensure_ascii=hides, indent=2)
                st.text_area("What shall be used, as JSON", text, key=f"edited_{asked.id}", height=160)
                _verdict(asked, "modify", "Approve as modified")
        others = [name for name in asked.approvers if name != reader]
        if others:
            with st.expander("Escalate"):
                st.selectbox("Who shall decide", others, key=f"to_{asked.id}")
                _verdict(asked, "escalate", "Escalate")


_OPTIONS: Final = {"modify": " --edited JSON", "escalate": " PRINCIPAL"}


def _verdict(
    asked: ApprovalView, verdict: Verdict, label: str, type: Literal["primary", "secondary"] = "secondary"
) -> None:
    """Draw the button of a verdict, which names the command that does the same."""
    answer = " --answer JSON" if asked.kind == "question" and verdict == "approve" else ""
    command = f"agentsys approvals {verdict} {asked.id}{answer or _OPTIONS.get(verdict, '')}"
    st.form_submit_button(label, type=type, help=f"`{command}`", on_click=_decide, args=(asked, verdict))


def _decide(asked: ApprovalView, verdict: Verdict) -> None:
    said: dict[str, Any] = {"note": _typed("note", asked.id), "binding": asked.binding}
    st.session_state[REFUSED_WORD] = None
    try:
        if verdict == "approve" and asked.kind == "question":
            said["answer"] = value_of(_typed("answer", asked.id))
        if verdict == "modify":
            said["edited"] = value_of(_typed("edited", asked.id))
        if verdict == "escalate":
            said["to"] = _typed("to", asked.id)
        connect().decide(asked.id, verdict, **said)
    except AgentsysError as error:
        st.session_state[REFUSED_WORD] = error


def _typed(field: str, approval: str) -> str:
    return str(st.session_state.get(f"{field}_{approval}", ""))


def _draw_decided(decided: list[ApprovalView]) -> None:
    draw_section(
        "Decided",
        [
            {
                "what": one.tool or one.subject or f"a {one.kind}",
                "arguments": "withheld" if one.withheld else shorten(value_text(one.arguments)),
                "status": one.status,
                "by": one.decided_by or "",
                "note": one.note,
                "agent": one.agent,
                "run": one.run,
            }
            for one in decided
        ],
    )


if __name__ == "__main__":
    draw_page()

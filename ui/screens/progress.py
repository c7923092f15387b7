"""A run as it goes on: its rounds, decisions and tokens while they come, then its answer."""

from collections.abc import Sequence
from typing import Final

import streamlit as st

from agentsys.blackboard.labels import Label
from agentsys.errors import AgentsysError
from agentsys.lake.ask import ASK
from agentsys.protocols.http.schemas import EventList, RunDocument
from agentsys.ui.boards import trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, escape_markdown
from agentsys.ui.progress import AskedApproval, GatewayDecision, OpenRound, RunProgress, Step, StreamedCall
from agentsys.ui.questions import Question
from agentsys.ui.screens.actions import draw_cancel
from agentsys.ui.screens.addresses import APPROVALS_PAGE, BLACKBOARD_PAGE, RUN_PAGE
from agentsys.ui.screens.run_detail import draw_answer
from agentsys.ui.screens.widgets import draw_chips, draw_trouble, status_chip
from agentsys.views.run_list import input_text
from agentsys.views.run_view import answer_view
from agentsys.views.texts import count_text, shorten, value_text
from agentsys.views.visible import visible

POLL_SECONDS: Final = 0.3
"""How often the page looks for new events of a run that goes on."""

WATCHED: Final = "watched_run"
FINAL: Final = frozenset({"done", "failed", "cancelled"})


def draw_watched_run(run: str) -> None:
    """Draw a run; while it goes on, only this part of the page is drawn anew."""
    try:
        found = _follow(run)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    going_on = found.executing or found.status not in FINAL
    st.fragment(_draw, run_every=POLL_SECONDS if going_on else None)(run, going_on)


def _follow(run: str) -> EventList:
    """Take what the run told since the last look."""
    progress = _progress(run)
    found = connect().events(run, progress.after)
    progress.take(found.events)
    return found


def _progress(run: str) -> RunProgress:
    known = st.session_state.get(WATCHED)
    if not isinstance(known, RunProgress) or known.run != run:
        known = st.session_state[WATCHED] = RunProgress(run)
    return known


def _draw(run: str, going_on: bool) -> None:
    try:
        found, record = _follow(run), connect().run(run)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    with st.container(border=True):
        _draw_head(record, found, _progress(run))
        if record.status == "done":
            _draw_answer(record)
        elif record.failure is not None:
            failure = record.failure
            st.error(escape_markdown(f"{failure.code}: {failure.message} {failure.remedy}"), icon=":material/error:")
    _draw_steps(_progress(run).steps)
    if going_on and not found.executing and record.status in FINAL:
        # The whole page once, so that nothing is polled any more.
        st.rerun()


def _draw_head(record: RunDocument, found: EventList, progress: RunProgress) -> None:
    st.subheader(escape_markdown(shorten(input_text(record.input))), anchor=False)
    chips = [status_chip(record.status), Chip(f"run {record.run}", "gray")]
    if progress.tokens:
        chips.append(Chip(count_text(progress.tokens, "token"), "gray"))
    draw_chips(chips)
    named = {"run": record.run}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(RUN_PAGE, label="The run in full", icon=":material/account_tree:", query_params=named)
        st.page_link(BLACKBOARD_PAGE, label="Its commits", icon=":material/history:", query_params=named)
        if record.status not in FINAL:
            draw_cancel(record.run)
    with st.expander("The same from the command line"):
        st.code(_command(record), language="bash", wrap_lines=True)
    if record.status not in FINAL and not found.executing:
        without_us = "This server does not execute the run: another process does, or the one that did has ended."
        st.info("The run waits for a worker." if found.waiting else without_us, icon=":material/info:")


def _command(record: RunDocument) -> str:
    asked = record.input
    if record.workflow == ASK and isinstance(asked, dict) and set(asked) == {"question"}:
        return Question(record.workflow, str(asked["question"])).command
    return Question(record.workflow, value_text(asked), as_json=not isinstance(asked, str)).command


def _draw_answer(record: RunDocument) -> None:
    if record.withheld or record.label is None:
        st.info("The label of the answer lets its readers see it, and the owner is not one.", icon=":material/lock:")
        return
    draw_answer(answer_view(record.value), Label.from_json(record.label.model_dump()))


def _draw_steps(steps: Sequence[Step]) -> None:
    for step in steps:
        match step:
            case OpenRound():
                _draw_round(step)
            case StreamedCall():
                st.markdown(f"**{escape_markdown(step.agent)}** wrote {count_text(step.tokens, 'token')}")
                st.code(step.text, language=None, wrap_lines=True)
            case GatewayDecision():
                _draw_decision(step)
            case AskedApproval():
                _draw_approval(step)


def _draw_round(opened: OpenRound) -> None:
    with st.container(border=True, gap="xsmall"):
        asked = f"**{escape_markdown(opened.asked_by)}** asked for **{escape_markdown(opened.kind)}**"
        outcome = opened.outcome or "open"
        badge = f":{'green' if outcome == 'answered' else 'orange'}-badge[{escape_markdown(outcome)}]"
        st.markdown(f"{asked}: {escape_markdown(shorten(input_text(opened.value)))} {badge}")
        for offer in sorted(opened.offers, key=lambda one: -one.score):
            st.caption(escape_markdown(offer.text(opened.answered.get(offer.agent))))


def _draw_decision(decision: GatewayDecision) -> None:
    verdict = ":green-badge[allowed]" if decision.allowed else ":red-badge[denied]"
    reason = f"{decision.rule}: {decision.reason}" if decision.reason else decision.rule
    line = f"{decision.agent}: {decision.action} ({reason})"
    st.markdown(f"{verdict} {escape_markdown(line)}")


def _draw_approval(asked: AskedApproval) -> None:
    said = f"{asked.agent} asks for {asked.subject}"
    if asked.status != "pending":
        st.markdown(f":gray-badge[{escape_markdown(asked.status)}] {escape_markdown(f'{said}, by {asked.decided_by}')}")
        return
    with st.container(border=True):
        st.warning(escape_markdown(f"{said} and waits for a person: {asked.reason}"), icon=":material/front_hand:")
        st.code(visible(asked.arguments).text, language=None, wrap_lines=True)
        st.page_link(APPROVALS_PAGE, label="Decide", icon=":material/gavel:", query_params={"approval": asked.id})

"""The page of one run."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import streamlit as st

from agentsys.blackboard.effects import EffectState
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.ui.formatting import Chip, duration_text, escape_markdown, label_text
from agentsys.ui.screens.widgets import draw_chips, draw_label, draw_section, draw_table, draw_value, status_chip
from agentsys.views.run_list import RunRow, input_text
from agentsys.views.run_view import (
    AnswerView,
    DecisionView,
    ModelCallView,
    RoundView,
    RunView,
    ToolCallView,
    failure_text,
)
from agentsys.views.texts import count_text, shorten, value_text

LONGEST_HEADLINE: Final = 120


def draw_head(view: RunView) -> None:
    """Draw what was asked, how it stands, and why it failed."""
    row = view.row
    title = "The label of the input lets others read it, not the owner." if row.withheld else input_text(view.input)
    st.subheader(escape_markdown(shorten(title)), anchor=False)
    draw_chips([status_chip(row.state), *_facts(row)])
    if view.failure:
        st.error(escape_markdown(failure_text(view.failure)), icon=":material/error:")
    elif row.status == "running":
        st.caption("Not finished. If the process that ran it has ended, run the same command with its --resume option.")


def draw_run(view: RunView) -> None:
    """Draw what came out of a run and everything recorded on the way."""
    if view.answer:
        draw_answer(view.answer, view.row.label)
    else:
        if view.withheld and view.row.status == "done":
            st.info("The label of the answer lets others read it, not the owner.", icon=":material/lock:")
        draw_label(view.row.label)
    _draw_rounds(view.rounds)
    _draw_decisions(view.decisions)
    _draw_model_calls(view.model_calls)
    _draw_tool_calls(view.tool_calls)


def _facts(row: RunRow) -> list[Chip]:
    started = datetime.fromtimestamp(row.started).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    facts = [f"workflow {row.workflow}", f"run {row.run}", f"started {started}"]
    facts.append(f"{'took' if row.finished else 'for'} {duration_text(row.seconds(time.time()))}")
    if row.tokens is not None:
        facts.append(count_text(row.tokens, "token"))
    return [Chip(fact, "gray") for fact in facts]


def draw_answer(answer: AnswerView, label: Label) -> None:
    """Draw an answer, the label that came with it, its plan and its sources."""
    st.markdown("##### Answer")
    if len(answer.rows) > 1 or len(answer.columns) > 1:
        # Cells of one column may differ in type, which a data frame's columns may not.
        draw_table([dict(zip(answer.columns, map(value_text, row), strict=True)) for row in answer.rows])
    else:
        _draw_single(answer.value)
    draw_label(label)
    for number, span in enumerate(answer.attached, 1):
        with st.container(border=True):
            st.caption(f"[{number}] what others say; nobody vouches for it")
            # As code: no link in it can be followed, and no markup of theirs is drawn.
            st.code(span.text, language=None, wrap_lines=True)
            draw_label(span.label)
    if answer.plan is not None:
        st.markdown("##### Plan")
        st.code(answer.plan, language="sql", wrap_lines=True)
    draw_section(
        "Sources",
        [
            {"family": source.family, "files": ", ".join(source.files), "columns": ", ".join(source.columns)}
            for source in answer.sources
        ],
    )


def _draw_single(value: Json) -> None:
    text = value_text(value)
    if isinstance(value, dict | list) or len(text) > LONGEST_HEADLINE:
        draw_value(value)
    else:
        st.markdown(f"### {escape_markdown(text)}")


def _draw_rounds(rounds: Sequence[RoundView]) -> None:
    if rounds:
        st.markdown("##### Rounds")
    for opened in rounds:
        with st.container(border=True):
            _draw_round(opened)


def _draw_round(opened: RoundView) -> None:
    st.markdown(
        f"**{escape_markdown(opened.asked_by)}** asked for **{escape_markdown(opened.kind)}**: "
        + escape_markdown(shorten(input_text(opened.value)))
    )
    draw_chips([Chip(opened.outcome or "open", "green" if opened.outcome == "answered" else "orange")])
    if opened.bids:
        st.caption("Bids, best first")
        draw_table(
            [
                {
                    "agent": bid.agent,
                    "score": bid.score,
                    "chosen": "chosen" if bid.chosen else "not chosen",
                    "reason": _or_withheld(bid.reason, bid.withheld),
                    "label": label_text(bid.label),
                }
                for bid in opened.bids
            ]
        )
    for response in opened.responses:
        with st.expander(escape_markdown(f"{response.agent} responded: {response.status}")):
            draw_label(response.label)
            if response.failure or response.withheld:
                st.text(_or_withheld(response.failure, response.withheld))
            else:
                draw_value(response.value)


def _draw_decisions(decisions: Sequence[DecisionView]) -> None:
    draw_section(
        "Decisions of the gateway",
        [
            {
                "agent": decision.agent,
                "action": _or_withheld(decision.action, decision.withheld),
                "decision": "allowed" if decision.allowed else "denied",
                "rule": decision.rule,
                "reason": decision.reason,
                "label": label_text(decision.label),
            }
            for decision in decisions
        ],
    )


def _draw_model_calls(calls: Sequence[ModelCallView]) -> None:
    draw_section(
        "Model calls",
        [
            {
                "step": call.step,
                "model": call.model,
                "prompt tokens": call.prompt_tokens,
                "completion tokens": call.completion_tokens,
                "seconds": "from memo" if call.from_memo else f"{call.seconds:.3f}",
                "text": _or_withheld(call.fault or call.text, call.withheld),
                "label": label_text(call.label),
            }
            for call in calls
        ],
    )


def _draw_tool_calls(calls: Sequence[ToolCallView]) -> None:
    draw_section(
        "Tool calls",
        [
            {
                "tool": call.tool,
                "state": call.state,
                "class": call.effect_class,
                "attempts": call.attempts,
                "step": call.step,
                "arguments": _or_withheld(value_text(call.arguments), call.withheld),
                "result": _or_withheld(value_text(call.result), call.withheld),
                "label": label_text(call.result_label),
            }
            for call in calls
        ],
    )
    for call in calls:
        if call.state == EffectState.IN_DOUBT:
            st.warning(
                f"Nobody knows whether this call of {escape_markdown(call.tool)} took effect. Find out, then say so:",
                icon=":material/help:",
            )
            st.code(f"agentsys effects settle {call.effect} succeeded|failed|redo", language="bash")


def _or_withheld(text: str, withheld: bool) -> str:
    return "withheld" if withheld else text
